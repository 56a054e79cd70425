"""The triggers at work in a plain training loop: what is recorded of residual networks, and taking runs up again."""

import json

import pytest
import torch
from loops import Spy, Training, only, rule, same_state

from irgrow.errors import OptionError
from irgrow.growth import EverySteps, Limit, Where
from irgrow.passes import (
    DynoGrow,
    DynoPrune,
    EffectiveDimension,
    GradientRank,
    OrthogonalityGap,
    PruneUnits,
    Redundancy,
    WeightRank,
)
from irgrow.passes.analyses.places import makers
from irgrow.passes.analyses.spectrum import Gram

# residual networks ---------------------------------------------------------------------------------------------------

WIDE = """
import std.resnet
net wide(x: [3, 8, 8]) {
  return x |> stem: conv(4, kernel = 3, padding = 1, bias = false) |> s1: wide(6, project = true) |> s2: wide(6)
    |> batchnorm |> relu |> avgpool |> head: dense(3)
}
"""


def test_on_a_residual_stream_the_first_layers_own_activity_is_recorded_and_not_the_sum():
    when = EffectiveDimension(2.0)
    run = Training(only(rule(when=when, where=Where(("editable",)))), WIDE)
    graph = run.net.graph
    values = {}

    def keep(name):
        def hook(module, inputs, output):
            values[name] = output.detach()

        return hook

    for name, leaf in run.net.module.meta["leaves"].items():
        leaf.register_forward_hook(keep(name))
    run.step()
    sums = [n.name for n in graph if n.op.kind == "add"]
    assert len(sums) == 2
    stream = graph.types[sums[0]].units.name
    assert graph.types[sums[1]].units.name == stream, "one group"
    (watch,) = when.watches(graph, stream)
    first = makers(graph, stream)[0]
    assert watch.node == first
    assert watch.node not in sums
    own = Gram(0)
    own.add(values[first])
    torch.testing.assert_close(run.controller.recorded[first].total, own.total, rtol=1e-13, atol=0)
    assert not any(graph[n].op.kind == "add" for n in run.controller.recorded)


def test_a_record_that_cannot_be_made_names_the_rule_and_the_site():
    spy = Spy(watched=(("x", 32),))
    with pytest.raises(OptionError, match="at `x`: it has no module of its own; `r` at `a` asks for it"):
        Training(only(rule(when=spy, where=Where(("a",)))))


GRADIENTS = only(rule(when=GradientRank(0.05), every=EverySteps(2)))
WEIGHTS = only(rule(when=WeightRank(0.9, baseline="maximum"), limit=(Limit("width", 12),)))
DYNO = only(
    rule(
        "prune",
        PruneUnits(by=Redundancy()),
        DynoPrune(epsilon=0.4, baseline=1.0),
        every=EverySteps(2),
        require="any",
    ),
    rule("grow", when=DynoGrow(epsilon=0.4, baseline=1.0), every=EverySteps(2), limit=(Limit("width", 12),)),
)
GAPS = only(rule(when=OrthogonalityGap(0.9, "last"), limit=(Limit("width", 16),)))


@pytest.mark.parametrize("at", [1, 4, 7])
@pytest.mark.parametrize("program", [GRADIENTS, WEIGHTS, DYNO, GAPS], ids=["gradients", "weights", "dyno", "gaps"])
def test_the_other_triggers_are_taken_up_again_bit_by_bit(program, at):
    run = Training(program).run(at)
    again = run.rebuilt(*json.loads(json.dumps(run.controller.state()[:1])), run.controller.state()[1])
    grown = len(run.receipts)
    run.run(12 - at)
    again.run(12 - at)
    assert again.rewrites == run.rewrites[grown:]
    assert same_state(run.net, again.net)
    assert run.receipts
    assert json.dumps(run.controller.state()[0]) == json.dumps(again.controller.state()[0])


def test_dyno_knows_what_a_change_left():
    run = Training(DYNO).run(10)
    assert any(r.applied for r in run.receipts)
    memory = run.controller.memory
    for site in ("a", "b"):
        assert memory[f"prune: {site}"]["phi"] == memory[f"grow: {site}"]["phi"]
        assert memory[f"grow: {site}"]["width"] == run.net.graph.widths[site]
