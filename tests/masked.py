"""Small networks and numbers for the tests of synapses."""

from dataclasses import replace

import numpy as np
import torch

from irgrow.backends import random_params
from irgrow.grammar import parse
from irgrow.graph import rebuilt
from irgrow.passes import Context, plan
from irgrow.passes.analyses.density import maskable

MLP = "net n(x: [4]) { return x |> a: dense(5) |> relu |> b: dense(3) |> relu |> head: dense(2) }"
MASKED = (
    "net n(x: [4]) { return x |> a: dense(5, masked = true) |> gelu |> b: dense(3, masked = true) |> gelu "
    "|> head: dense(2) }"
)
CNN = """
net cnn(x: [2, 5, 5]) {
  return x |> c: conv(4, kernel = 3, masked = true) |> gelu |> d: depthwise(2, masked = true) |> gelu
    |> flatten |> head: dense(3)
}
"""


def worked_out(pass_, text=MLP, gradients=None, seed=0, **values):
    """Plan a pass with random parameters, some of them replaced; return the plan, the graph and the parameters."""
    graph = parse(text)
    given = {name.replace("__", "."): np.array(v, dtype=float) for name, v in values.items()}
    params = random_params(graph, seed) | given
    rng = np.random.default_rng(seed)
    for name in [n for n in params if n.endswith(".mask")]:  # what is off is zero, and nothing else
        weight = name.replace("mask", "weight")
        params[weight] = given.get(weight, rng.normal(size=params[name].shape)) * params[name]
    return plan(pass_, graph, Context(params, seed, gradients=gradients)), graph, params


def all_masked(graph):
    """Return a graph with a mask beside every weight that can have one."""
    nodes = {node for synapses in maskable(graph) if synapses.mask is None for node in synapses.nodes}
    masked = {"masked": True}
    return rebuilt(graph, [replace(n, op=replace(n.op, **masked)) if n.name in nodes else n for n in graph])


def off(before, after, name="a.mask"):
    """Return the entries that a mask no longer has, as a set of indices."""
    old = before[name] if name in before else np.ones_like(after[name])
    return set(zip(*np.nonzero((old != 0) & (after[name] == 0)), strict=True))


def come(before, after, name="a.mask"):
    """Return the entries that a mask has gained."""
    return set(zip(*np.nonzero((before[name] == 0) & (after[name] != 0)), strict=True))


def live(text, optimizer=torch.optim.Adam, seed=1, **options):
    """Return a live network in float64, its tracked optimizer and a function that does one training step."""
    from irgrow.network import build

    net = build(text, seed=seed, dtype=torch.float64)
    opt = optimizer(net.parameters(), lr=1e-2, **options)
    net.track(opt)

    def step(i=0):
        x = inputs(net, i)
        loss = criterion(net(x))
        opt.zero_grad()
        loss.backward()
        opt.step()
        return loss.item()

    return net, opt, step


def inputs(net, seed=0, size=6):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(size, *net.graph.shape(net.graph.inputs[0]), generator=generator, dtype=torch.float64) + 0.3


def criterion(outputs):
    return (outputs - 0.5).square().mean()
