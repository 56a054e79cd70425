"""Data movement: units are followed to where they really go."""

import pytest
from helpers import net, resized, verdict

from irgrow.fills import Normal
from irgrow.passes.preservation import movement
from irgrow.verdict import Changes, Exact

MOVES = {
    "flip": ("h: dense(4) |> flip |> dense(2)", "x: [4]", "h"),
    "concat": ("h: dense(4) |> concat { identity ; tanh ; identity } |> dense(2)", "x: [4]", "h"),
    "part": ("h: dense(6) |> slice(1, 4) |> dense(2)", "x: [4]", "h[1]"),
    "padunits": ("h: dense(3) |> padunits(before = 2, after = 1) |> dense(2)", "x: [4]", "h"),
    "flatten": ("h: conv(3, kernel = 1) |> flatten |> dense(2)", "x: [2, 3, 2]", "h"),
    "channelshuffle": (
        "h: conv(6, kernel = 1) |> s: channelshuffle(2) |> flatten |> dense(2)",
        "x: [2, 3, 2]",
        "s.members",
    ),
    "pixelshuffle": ("h: conv(8, kernel = 1) |> p: pixelshuffle(2) |> flatten |> dense(2)", "x: [2, 3, 2]", "p.makes"),
    "transpose": ("h: conv(3, kernel = 1) |> flatten(start = 1) |> transpose |> dense(2)", "x: [2, 3, 2]", "h"),
    "pad": ("h: conv(3, kernel = 1) |> pad(1) |> conv(2, kernel = 3)", "x: [2, 3, 2]", "h"),
}


@pytest.mark.parametrize("name", MOVES)
def test_new_units_are_followed(name):
    body, shape, atom = MOVES[name]
    graph = net(body, shape)
    size = graph.widths[atom]
    assert verdict(resized(graph, Normal(1.0), **{atom.replace(".", "_DOT_"): [*range(size), -1]})) == Exact()
    assert verdict(resized(graph, **{atom.replace(".", "_DOT_"): [*range(size)][::-1]})) == Exact()
    assert isinstance(verdict(resized(graph, **{atom.replace(".", "_DOT_"): [*range(size - 1)]})), Changes)


def test_a_typing_rule_that_sends_units_elsewhere_is_noticed(monkeypatch):
    """Negative control: pretend the op moves units otherwise than its type says."""
    graph = net("h: dense(4) |> flip |> dense(2)")
    real = movement._moved

    def other(graph_, node, units, dims, out):
        moved = real(graph_, node, units, dims, out)
        return moved if graph_ is graph else moved[::-1]

    monkeypatch.setattr(movement, "_moved", other)
    from irgrow.passes import Prover

    prover = Prover(resized(graph, Normal(1.0), h=[0, 1, 2, 3, -1]))
    prover.run()
    assert not prover.verdict().preserves


def test_padding_is_the_same_padding_before_and_after():
    graph = net("h: dense(3) |> sum { padunits(before = 1, after = 1) ; dense(5) } |> dense(2)")
    assert verdict(resized(graph, Normal(1.0), h=[0, 1, 2, -1])) == Exact()
