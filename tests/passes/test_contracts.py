"""What passes require and ensure is checked, and the node that breaks it is named."""

from dataclasses import dataclass, replace

import pytest
from live import CNN, MLP, trained

from irgrow.errors import CompilerBug, OptionError
from irgrow.grammar import parse
from irgrow.journal import seed_of
from irgrow.network import build
from irgrow.ops import site
from irgrow.passes import Context, GrowUnits, Pass, Pipeline, run
from irgrow.passes.contracts import PROPERTIES, unmet
from irgrow.passes.primitives import splice
from irgrow.testing.laws import same_snapshot, snapshot

GRAPH = parse(MLP)


@dataclass(frozen=True)
class Careful(GrowUnits):
    """Wants a network without batch norms and masks."""

    requires = ("verified", "no_batch_norm", "unmasked")
    ensures = ("verified", "no_batch_norm")


@dataclass(frozen=True)
class Promising(Pass):
    """Promises a graph without batch norms and puts one in."""

    after: str = site("relu_1")
    ensures = ("deterministic", "no_batch_norm")

    @property
    def site(self):
        return self.after

    def match(self, graph, site):
        return None

    def rewrite(self, graph, site, context):
        from irgrow.graph import Node
        from irgrow.ops import BatchNorm

        return splice(graph, site, [Node("late", BatchNorm(), (site,))], {}, {}, context.seed)


def test_what_a_pass_requires_is_checked_in_front_of_it():
    trace = run(Pipeline((Careful("a", 1),)), GRAPH)
    assert trace[0].applied
    graph = parse(CNN)
    verdict = run(Pipeline((Careful("c1", 1),)), graph)[0].verdict
    assert verdict.reason == "`careful` requires `no_batch_norm`, which does not hold: `bn` is a batch norm"
    net = build(CNN, seed=0)
    assert net.rewrite(Careful("c1", 1)).verdict.reason == verdict.reason


def test_what_a_pass_ensures_is_checked_behind_it():
    with pytest.raises(CompilerBug) as error:
        run(Pipeline((GrowUnits("a", 2), Promising())), GRAPH, Context(seed=4))
    text = str(error.value)
    assert text.startswith("`promising` ensures `no_batch_norm`, which does not hold: `late` is a batch norm")
    assert f"seed: {seed_of(4, 1, Promising())}" in text
    assert "net mlp(" in text
    net, _ = trained()
    before = snapshot(net)
    for atomic in (False, True):
        with pytest.raises(CompilerBug, match="`late` is a batch norm"):
            Pipeline((Promising(),)).apply(net, atomic)
    assert same_snapshot(before, snapshot(net)) is None


@pytest.mark.parametrize(
    ("name", "text", "node"),
    [
        ("no_batch_norm", "dense(3) |> bad: batchnorm", "bad"),
        ("batch_independent", "dense(3) |> bad: batchnorm", "bad"),
        ("deterministic", "dense(3) |> bad: dropout(0.5)", "bad"),
        ("unmasked", "bad: dense(3, masked = true)", "bad"),
        ("verified", "bad: dense(3)", None),
        ("untied", "bad: dense(3)", None),
    ],
)
def test_properties_name_the_node(name, text, node):
    assert unmet([name], parse("net n(x: [3]) { return x |> dense(3) |> relu }")) is None
    why = unmet([name], parse(f"net n(x: [3]) {{ return x |> {text} |> dense(2) }}"))
    assert why is None if node is None else f"`{node}`" in why


def test_ties_and_malformed_graphs_are_noticed():
    tied = parse("net n(x: ids(5)[3]) { return x |> e: embedding(4) |> head: dense(5, tied = e, bias = false) }")
    assert unmet(["untied"], tied) == "`untied`, which does not hold: `head` uses the parameters of `e`"
    loose = parse("net n(x: [3]) { return x |> a: dense(3) |> b: dense(2) }")
    assert "`b` is never used" in unmet(["verified"], replace(loose, outputs=("a",)))


def test_properties_that_do_not_exist_are_named():
    with pytest.raises(OptionError, match="unknown property `no_batchnorm`; did you mean `no_batch_norm`"):
        unmet(["no_batchnorm"], GRAPH)
    assert set(PROPERTIES) >= {"verified", "no_batch_norm", "unmasked"}
