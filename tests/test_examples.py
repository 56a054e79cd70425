"""The shipped programs: parameter counts against the published or hand-derived ones, and that each lowers and learns."""

from pathlib import Path

import pytest
import torch

from irgrow.cost import cost
from irgrow.grammar import read, read_program
from irgrow.network import build
from irgrow.passes import GrowUnits, plan
from irgrow.passes.analyses.places import editable_axes, hidden_axes

EXAMPLES = Path(__file__).parent.parent / "examples"
COUNTS = {
    "lenet": 61_706,  # LeCun et al. (1998), with full connections
    "vgg11": 132_863_336,
    "resnet18": 11_689_512,
    "resnet50": 25_557_032,
    "wrn28": 36_479_194,  # WRN-28-10 for ten classes
    "densenet": 7_978_856,  # DenseNet-121
    "vit": 86_567_656,  # ViT-B/16
    "gpt": 124_439_808,  # GPT-2 small, tied head
    "llama": 43_848_192,  # by hand, below
    "mobilenet": None,  # by hand, below
    "digits": 330,  # 65 * 4 + 5 * 4 + 5 * 10
}


def site(name, graph):
    """An axis whose growth preserves the function; gated ones have no activation behind each of their makers."""
    gated = [a for a in editable_axes(graph) if a.endswith("gate_proj")]
    return (gated if name == "llama" else hidden_axes(graph))[0]


def small(name):
    options = {
        "wrn28": {"widen": 1},
        "llama": {"depth": 1, "heads": 4, "kv_heads": 2, "head_dim": 8, "hidden": 24},
        "gpt": {"depth": 1, "heads": 2, "hidden": 16},
        "vit": {"depth": 1, "heads": 2, "hidden": 16},
    }
    return read(EXAMPLES / f"{name}.irg", **options.get(name, {}))


def test_every_example_is_here():
    assert {p.stem for p in EXAMPLES.glob("*.irg")} == set(COUNTS)


@pytest.mark.parametrize("name", [n for n, count in COUNTS.items() if count])
def test_parameter_counts_are_the_published_ones(name):
    assert read(EXAMPLES / f"{name}.irg").count() == COUNTS[name]
    assert cost(read(EXAMPLES / f"{name}.irg")).parameters == COUNTS[name]


def llama(vocabulary, depth, heads, kv_heads, head_dim, hidden):
    d = heads * head_dim
    attention = 2 * d * d + 2 * d * kv_heads * head_dim
    return 2 * vocabulary * d + depth * (attention + 3 * d * hidden + 2 * d) + d


def inverted(inputs, expand, width, kernel=3, squeeze=0):
    norms = 2 * expand + 2 * expand + 2 * width
    gate = (expand + 1) * squeeze + (squeeze + 1) * expand if squeeze else 0
    return inputs * expand + kernel**2 * expand + gate + expand * width + norms


def test_llama_has_the_parameters_counted_by_hand():
    assert read(EXAMPLES / "llama.irg").count() == llama(32000, 4, 8, 2, 64, 1376) == COUNTS["llama"]
    assert small("llama").count() == llama(32000, 1, 4, 2, 8, 24)


def test_mobilenet_has_the_parameters_counted_by_hand():
    blocks = [(16, 16, 16, 3, 8), (16, 64, 24), (24, 72, 24), (24, 96, 40, 5, 24), (40, 120, 40, 5, 32)]
    stem, last, head = 27 * 16 + 2 * 16, 40 * 160 + 2 * 160, 161 * 10
    assert read(EXAMPLES / "mobilenet.irg").count() == stem + sum(inverted(*b) for b in blocks) + last + head


@pytest.mark.parametrize("name", COUNTS)
def test_every_example_has_axes_to_grow_and_says_what_growing_does(name):
    graph = read(EXAMPLES / f"{name}.irg")
    assert plan(GrowUnits(site(name, graph), 2), graph).verdict.preserves


def learns(name, batch):
    """Train one step, grow, train one step; the function stays and the new entries are finite."""
    graph = small(name)
    net = build(graph, seed=0)
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-4)
    net.track(optimizer)
    (tokens,) = graph.inputs
    ids = graph.types[tokens].ids
    shape = (batch, *graph.shape(tokens))
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(ids, shape, generator=generator) if ids else torch.randn(shape, generator=generator)
    for _ in range(2):
        loss = net(x).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        assert torch.isfinite(loss)
        del loss
        receipt = net.rewrite(GrowUnits(site(name, graph), 2), batch=x)
        assert receipt.verdict.preserves
        assert receipt.error < 1e-4  # float32, and up to a hundred layers deep


@pytest.mark.parametrize("name", ["lenet", "digits", "mobilenet", "wrn28", "llama"])
def test_small_examples_learn_and_grow(name):
    learns(name, 2)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vgg11", "resnet18", "resnet50", "densenet", "vit", "gpt"])
def test_large_examples_learn_and_grow(name):
    learns(name, 1 if name in ("vgg11", "gpt") else 2)


def test_the_digits_program_trains_and_grows():
    program = read_program(EXAMPLES / "digits.irg")
    assert program.training.data.load(0).classes == 10
    assert program.growth.rules[0].where.sites(program.graph()) == ("h1", "h2")
