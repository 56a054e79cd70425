"""The gradient law (4) where units are split unequally: each copy has its share, behind a norm over units all together."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from irgrow.grammar import parse
from irgrow.passes import SplitUnits
from irgrow.testing.laws import Case, gradients_follow
from irgrow.testing.numbers import carried, gradient_error, gradients, output_weights
from irgrow.verdict import Exact

NORMED = [
    ("h", "h: dense(4) |> layernorm |> tanh"),
    ("h", "h: dense(4) |> rmsnorm |> tanh"),
    ("h", "h: dense(4) |> layernorm |> dense(4) |> softmax"),
    ("g.members", "h: dense(4) |> g: groupnorm(1) |> tanh"),
]


def split_unequally(site, body):
    graph = parse(f"net n(x: [3]) {{ return x |> {body} |> dense(2) }}")
    return Case(graph, SplitUnits(site, share=0.25, noise=0.0))


@pytest.mark.parametrize(("site", "body"), NORMED)
def test_copies_behind_a_norm_that_are_read_unequally_have_the_old_gradient_together(site, body):
    """What the norm hands back is shared equally between them, so none has its share of the old gradient alone."""
    case = split_unequally(site, body)
    morphism = case.plan().morphism
    assert case.plan().verdict == Exact()
    gradients_follow(case)
    weights = output_weights(morphism.before, case.params, case.inputs, case.seed)
    old = gradients(morphism.before, case.params, case.inputs, weights)["h.weight"]
    new = gradients(morphism.after, carried(morphism, case.params), case.inputs, weights)["h.weight"]
    select = morphism.transfers["h.weight"]
    m, shares = torch.from_numpy(select.maps[0]), torch.from_numpy(select.grad[0])
    assert (torch.zeros_like(old).index_add_(0, m, new) - old).abs().max() < 1e-12
    assert (new - shares[:, None] * old[m]).abs().max() > 1e-5


@pytest.mark.parametrize(
    ("site", "body"), [*NORMED, ("h", "h: dense(4) |> tanh"), ("h", "h: dense(6) |> groupnorm(2) |> tanh")]
)
def test_wrong_factors_of_copies_are_noticed(site, body):
    """Negative control: factors that do not sum to one, whether copies are looked at one by one or together."""
    case = split_unequally(site, body)
    gradients_follow(case)
    morphism = case.plan().morphism
    right = morphism.transfers["h.weight"]
    for first, second in ((0.25, 0.7), (0.25, 0.25), (1.0, 1.0)):
        wrong = replace(right, grad=(np.where(right.grad[0] == 0.25, first, second), None))
        broken = replace(morphism, transfers={**morphism.transfers, "h.weight": wrong})
        assert gradient_error(broken, case.params, case.inputs, case.seed) > 1e-5


@pytest.mark.parametrize("body", ["h: dense(4) |> tanh", "h: dense(6) |> groupnorm(2) |> tanh"])
def test_elsewhere_every_copy_has_its_share(body):
    """Negative control: factors exchanged between copies are noticed where no norm takes the copies together."""
    case = split_unequally("h", body)
    morphism = case.plan().morphism
    right = morphism.transfers["h.weight"]
    wrong = replace(right, grad=(1.0 - right.grad[0], None))
    broken = replace(morphism, transfers={**morphism.transfers, "h.weight": wrong})
    assert gradient_error(broken, case.params, case.inputs, case.seed) > 1e-5
