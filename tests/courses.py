"""Small networks in training, for the tests of what an optimizer does after a rewrite."""

import torch
from torch import optim

from irgrow.axes import NEW
from irgrow.morphism import Gather, Select
from irgrow.network import build
from irgrow.passes import GrowUnits

DENSE = "net n(x: [5]) { return x |> a: dense(6) |> tanh |> b: dense(5) |> tanh |> dense(2) }"
CONV = """net n(x: [2, 5, 5]) {
  return x |> a: conv(4, kernel = 3, bias = false) |> batchnorm |> relu
    |> b: conv(3, kernel = 3, bias = false) |> batchnorm |> relu |> flatten |> dense(2)
}"""
RESIDUAL = """net n(x: [5]) {
  return x |> dense(6) |> residual { layernorm |> a: dense(7) |> gelu |> b: dense(6) } |> layernorm |> dense(2)
}"""
# Without biases: that of a key has no gradient but rounding, which adaptive optimizers blow up.
ATTENTION = """net n(x: ids(7)[4]) {
  return x |> embedding(6) |> layernorm |> attn: attention(2, 3, causal = true, bias = false) |> dense(2)
}"""

CASES = {
    "dense": (DENSE, GrowUnits("a", 3), ("b.weight",)),
    "conv and batch norm": (CONV, GrowUnits("a", 3), ("b.weight",)),
    "residual and layer norm": (RESIDUAL, GrowUnits("a", 3), ("b.weight",)),
    "heads": (ATTENTION, GrowUnits("attn.heads", 1), ("attn.out.weight",)),
    "head dim": (ATTENTION, GrowUnits("attn.head_dim", 2), ("attn.query.weight", "attn.out.weight")),
}
"""A program, its growth, and the weights whose new entries are to be zero for the growth to be inert."""

OPTIMIZERS = {
    "sgd": lambda p: optim.SGD(p, lr=1e-2, weight_decay=0.01),
    "momentum": lambda p: optim.SGD(p, lr=1e-2, momentum=0.9, dampening=0.1, weight_decay=0.01),
    "nesterov": lambda p: optim.SGD(p, lr=1e-2, momentum=0.9, nesterov=True),
    "adam": lambda p: optim.Adam(p, lr=1e-3),
    "adamw": lambda p: optim.AdamW(p, lr=1e-3, weight_decay=0.1),
    "amsgrad": lambda p: optim.Adam(p, lr=1e-3, amsgrad=True),
    "nadam": lambda p: optim.NAdam(p, lr=1e-3),
    "rmsprop": lambda p: optim.RMSprop(p, lr=1e-3, centered=True, momentum=0.9),
    "adagrad": lambda p: optim.Adagrad(p, lr=1e-2),
}


def live(text, make, carry, seed=2):
    net = build(text, seed=seed, dtype=torch.float64)
    net.track(make(net.parameters()), carry=carry)
    return net


def train(net, steps, start=0, after=lambda: None):
    """Train, every step on a batch of its own; return the losses."""
    opt, entry = net.tracked[0].optimizer, net.graph["x"].op
    losses = []
    for i in range(start, start + steps):
        generator = torch.Generator().manual_seed(i)
        x = torch.randn(16, *entry.shape, generator=generator, dtype=torch.float64)
        if entry.vocabulary:
            x = torch.randint(entry.vocabulary, (16, *entry.shape), generator=generator)
        opt.zero_grad()
        y = net(x).flatten(1)
        wanted = torch.sin(3.0 * x.flatten(1).double()).repeat(1, 2)[:, : y.shape[1]]
        loss = (y - wanted).square().mean()
        loss.backward()
        opt.step()
        after()
        losses.append(loss.item())
    return losses


def new_entries(net, morphism):
    """Return where the entries of trainable parameters are new."""
    found = {}
    for name, t in morphism.transfers.items():
        new = torch.zeros(net.params[name].shape, dtype=torch.bool)
        if isinstance(t, Gather):
            new.view(-1)[torch.from_numpy(t.index == NEW)] = True
        for dim, m in enumerate(t.maps) if isinstance(t, Select) else ():
            if m is not None:
                new.index_fill_(dim, torch.from_numpy((m == NEW).nonzero()[0]), True)
        if net.params[name].requires_grad and new.any():
            found[name] = new
    return found
