"""`controller.step()` in loops written by hand: accumulation, mixed precision, scalers, gradients zeroed before."""

import pytest
import torch
from live import CNN, MLP

from irgrow.growth import GrowthProgram, Rule, Steps
from irgrow.growth.controller import Controller
from irgrow.network import build
from irgrow.passes import EffectiveDimension, GrowUnits, NorthSelect, Random, Schedule

MORE = GrowthProgram((Rule("north", GrowUnits(init=NorthSelect()), EffectiveDimension(gamma=0.9, baseline="maximum")),))


def once(*steps, init=None):
    return GrowthProgram((Rule("once", GrowUnits(init=init or Random()), Schedule(2), Steps(steps)),))


def inputs(i, size=8, shape=(6,), dtype=torch.float64):
    return torch.randn(size, *shape, generator=torch.Generator().manual_seed(i), dtype=dtype)


def square(outputs, x):
    return (outputs - x.flatten(1)[:, :3].sin()).square().mean()


class Loop:
    def __init__(self, program, text=MLP, dtype=torch.float64, optimizer=torch.optim.SGD, **options):
        self.net = build(text, seed=1, dtype=dtype)
        self.shape, self.dtype = self.net.graph.shape(self.net.graph.inputs[0]), dtype
        self.optimizer = optimizer(self.net.parameters(), lr=0.05, **options)
        self.net.track(self.optimizer)
        self.controller = Controller(self.net, program)
        self.receipts = []

    def x(self, i, size=8):
        return inputs(i, size, self.shape, self.dtype)

    def ask(self, x, loss):
        self.receipts += self.controller.step(x, loss)

    def weights(self):
        return {n: p.detach().clone() for n, p in self.net.named_parameters()}


def near(one, two, within=1e-12):
    assert one.keys() == two.keys()
    for name in one:
        torch.testing.assert_close(one[name], two[name], rtol=within, atol=within)


def accumulated(program, parts, steps=10):
    loop = Loop(program, momentum=0.9)
    for i in range(steps):
        loop.optimizer.zero_grad()
        for x in loop.x(i, 32).chunk(parts):
            loss = square(loop.net(x), x) / parts
            loss.backward()
        loop.optimizer.step()
        loop.ask(loop.x(i, 32), loss * parts)
    return loop


@pytest.mark.parametrize("init", [Random(), NorthSelect()], ids=str)
def test_accumulated_gradients_are_those_of_the_whole_batch(init):
    whole, parts = accumulated(once(3, 6, init=init), 1), accumulated(once(3, 6, init=init), 4)
    assert len(parts.receipts) == 4
    near(whole.weights(), parts.weights(), 1e-10)


def test_triggers_count_the_columns_of_every_part():
    whole, parts = accumulated(MORE, 1, 14), accumulated(MORE, 4, 14)
    assert whole.receipts
    assert [(r.rewrite, r.sites) for r in whole.receipts] == [(r.rewrite, r.sites) for r in parts.receipts]


@pytest.mark.parametrize("grows", [True, False])
def test_gradients_that_wait_between_two_parts_are_carried(grows):
    """Asked after every part, it grows in the middle of an accumulation; what the step then does is the same."""
    reference, loop = (Loop(once(999 if i == 0 or not grows else 2)) for i in range(2))
    for run in (reference, loop):
        run.optimizer.zero_grad()
        for i in range(4):
            x = run.x(i)
            (square(run.net(x), x) / 4).backward()
            if i < 3:
                run.ask(x, None)
        run.optimizer.step()
    assert loop.net.graph.widths["a"] == (10 if grows else 8)
    old, new = reference.weights(), loop.weights()
    for name, value in old.items():
        part = new[name][tuple(slice(0, n) for n in value.shape)]
        torch.testing.assert_close(part, value, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("program", [MORE, once(4, 8, init=NorthSelect())], ids=["watched", "scheduled"])
def test_gradients_may_be_zeroed_before_it_is_asked(program):
    loops = []
    for before in (True, False):
        loop = Loop(program, optimizer=torch.optim.Adam)
        for i in range(16):
            x = loop.x(i)
            loss = square(loop.net(x), x)
            loss.backward()
            loop.optimizer.step()
            if before:
                loop.optimizer.zero_grad()
            loop.ask(x, loss)
            if not before:
                loop.optimizer.zero_grad()
        loops.append(loop)
    assert loops[0].receipts
    assert loops[0].net.graph == loops[1].net.graph
    near(loops[0].weights(), loops[1].weights(), 0.0)


@pytest.mark.parametrize("text", [MLP, CNN], ids=["mlp", "cnn"])
def test_autocast_is_no_obstacle(text):
    loop = Loop(MORE, text, torch.float32, torch.optim.Adam)
    for i in range(20):
        x = loop.x(i, 32)
        with torch.autocast("cpu", torch.bfloat16):
            loss = square(loop.net(x), x)
        loop.optimizer.zero_grad()
        loss.backward()
        loop.optimizer.step()
        loop.ask(x, loss)
        assert all(p.dtype == torch.float32 for p in loop.net.parameters())
    assert any(r.applied for r in loop.receipts)
    after = loop.weights()
    x = loop.x(99)
    loss = square(loop.net(x), x)
    loop.optimizer.zero_grad()
    loss.backward()
    loop.optimizer.step()
    assert all(not torch.equal(after[n], p) for n, p in loop.net.named_parameters())


def test_asking_inside_autocast_gives_the_same_units():
    weights = []
    for inside in (True, False):
        loop = Loop(once(3), dtype=torch.float32)
        for i in range(3):
            x = loop.x(i)
            loss = square(loop.net(x), x)
            loop.optimizer.zero_grad()
            loss.backward()
            loop.optimizer.step()
            with torch.autocast("cpu", torch.bfloat16, enabled=inside):
                loop.ask(x, loss)
        weights.append(loop.weights())
    near(*weights, 0.0)


def test_a_gradient_scaler_goes_on():
    finals = []
    for scale in (1.0, 2.0**10):
        loop = Loop(once(3, 6), optimizer=torch.optim.Adam)
        scaler = torch.amp.GradScaler("cpu", init_scale=scale, growth_interval=4)
        loop.net.tracked.clear()
        loop.net.track(loop.optimizer, scaler=scaler)
        for i in range(12):
            x = loop.x(i)
            loss = square(loop.net(x), x)
            loop.optimizer.zero_grad()
            scaler.scale(loss).backward()
            if i % 2:
                scaler.unscale_(loop.optimizer)
                torch.nn.utils.clip_grad_norm_(loop.net.parameters(), 10.0)
            scaler.step(loop.optimizer)
            scaler.update()
            loop.ask(x, loss)
        assert len(loop.receipts) == 4
        assert scaler.get_scale() == scale * 8, "it went on counting good steps"
        finals.append(loop.weights())
    near(*finals, 1e-9)


def test_a_step_that_was_skipped_is_asked_about_like_any_other():
    """A scaler that meets an infinite gradient leaves the weights alone; the network may still grow."""
    loop = Loop(once(2), optimizer=torch.optim.Adam)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    loop.net.tracked.clear()
    loop.net.track(loop.optimizer, scaler=scaler)
    for i in range(4):
        x = loop.x(i)
        loss = square(loop.net(x), x)
        loop.optimizer.zero_grad()
        scaler.scale(loss).backward()
        if i == 1:
            loop.net.params["a.weight"].grad[0, 0] = float("inf")
        before = loop.weights()
        scaler.step(loop.optimizer)
        scaler.update()
        assert all(torch.equal(before[n], p) for n, p in loop.net.named_parameters()) == (i == 1)
        loop.ask(x, loss)
    assert loop.net.graph.widths["a"] == 10
    assert scaler.get_scale() == 2.0
    assert all(bool(torch.isfinite(p).all()) for p in loop.net.parameters())
