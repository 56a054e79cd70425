"""Gradients on a batch, of effective weights, without a trace in the network."""

import pytest
import torch

import irgrow
from irgrow.probing import probe

TEXT = """net n(x: [3, 6, 5]) {
  return x |> c: conv(4, 3, masked = true) |> batchnorm |> relu |> dropout(0.5) |> flatten |> d: dense(3, masked = true)
}"""


def network(seed=0):
    net = irgrow.build(TEXT, seed=seed, dtype=torch.float64).train()
    generator = torch.Generator().manual_seed(3)
    for name in ("c", "d"):
        mask = (torch.rand(net.params[f"{name}.mask"].shape, generator=generator) < 0.6).double()
        with torch.no_grad():
            net.params[f"{name}.mask"].copy_(mask)
            net.params[f"{name}.weight"].mul_(mask)
    return net


def images(count):
    return torch.randn(count, 3, 6, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(4))


def loss(outputs):
    return (outputs**2).mean()


def probed(net, batch, nodes=("relu_1",)):
    return probe(net.graph, net.module, net.params, (batch,), nodes, loss)


def test_gradients_are_those_of_a_backward_pass():
    net, batch = network(), images(4)
    found = probed(net, batch).gradients
    net.eval()
    loss(net(batch)).backward()
    for name, parameter in net.named_parameters():
        mask = net.params[f"{name[0]}.mask"] if name.endswith("weight") and name[0] in "cd" else torch.ones(())
        torch.testing.assert_close(found[name] * mask, parameter.grad)


def test_what_is_off_has_the_gradient_it_would_have():
    """By central differences on the effective weight."""
    net, batch = network(), images(4)
    found = probed(net, batch).gradients["d.weight"]
    off = (net.params["d.mask"] == 0).nonzero()[:5]
    assert (found[net.params["d.mask"] == 0] != 0).any()
    net.eval()
    for row, column in off.tolist():
        values = []
        for step in (1e-6, -1e-6):
            with torch.no_grad():
                net.params["d.mask"][row, column] = 1.0
                net.params["d.weight"][row, column] = step
                values.append(float(loss(net(batch))))
                net.params["d.mask"][row, column] = net.params["d.weight"][row, column] = 0.0
        assert float(found[row, column]) == pytest.approx((values[0] - values[1]) / 2e-6, rel=1e-5, abs=1e-9)


def test_signals_are_the_gradients_of_values():
    net, batch = network(), images(4)
    found = probed(net, batch)
    weight, mask, bias = net.params["d.weight"], net.params["d.mask"], net.params["d.bias"]
    value = found.values["relu_1"].clone().requires_grad_()
    loss(torch.nn.functional.linear(value.flatten(1), weight * mask, bias)).backward()
    torch.testing.assert_close(found.signals["relu_1"], value.grad)


def test_without_a_loss_only_values_are_recorded():
    net, batch = network(), images(2)
    found = probe(net.graph, net.module, net.params, (batch,), ("relu_1",))
    assert found.gradients is found.signals is None
    assert not found.values["relu_1"].requires_grad


def test_nothing_of_the_network_changes():
    net, batch = network(), images(4)
    before = {name: value.detach().clone() for name, value in net.params.items()}
    state = torch.get_rng_state()
    probed(net, batch)
    assert all(torch.equal(before[name], value) for name, value in net.params.items())
    assert all(p.grad is None for p in net.parameters())
    assert net.training
    assert all(m.training for m in net.modules())
    assert torch.equal(torch.get_rng_state(), state)


def test_frozen_parameters_have_gradients_too():
    net, batch = network(), images(2)
    net.params["c.weight"].requires_grad_(False)
    assert set(probed(net, batch).gradients) == {n for n, _ in net.named_parameters()}


def test_a_loss_that_depends_on_nothing_gives_zeros():
    net, batch = network(), images(2)
    found = probe(net.graph, net.module, net.params, (batch,), ("relu_1",), lambda outputs: torch.zeros(()))
    assert all((g == 0).all() for g in found.gradients.values())
    assert (found.signals["relu_1"] == 0).all()
