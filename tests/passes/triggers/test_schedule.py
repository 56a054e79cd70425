"""Fixed schedules."""

from irgrow.grammar import parse
from irgrow.passes import Schedule, View

VIEW = View(parse("net n(x: [4]) { return x |> h: dense(2) |> dense(1) }"))


def test_linear():
    memory = {}
    assert [Schedule(3).wanted(VIEW, "h", memory) for _ in range(4)] == [3, 3, 3, 3]


def test_batched_with_a_total():
    memory = {}
    assert [Schedule(4, total=10).wanted(VIEW, "h", memory) for _ in range(4)] == [4, 4, 2, 0]


def test_sites_are_counted_apart_and_nothing_is_watched():
    one, two = {}, {}
    trigger = Schedule(4, total=6)
    assert [trigger.wanted(VIEW, "a", one), trigger.wanted(VIEW, "b", two), trigger.wanted(VIEW, "a", one)] == [4, 4, 2]
    assert trigger.watches(VIEW.graph, "h") == ()
    assert str(trigger) == "schedule(4, 6)"
