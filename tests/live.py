"""Small live networks for the tests of what follows a rewrite."""

import torch

from irgrow.network import build

MLP = "net mlp(x: [6]) { return x |> a: dense(8) |> relu |> b: dense(7) |> relu |> head: dense(3) }"
CNN = """
net cnn(x: [2, 6, 6]) {
  return x |> stem: conv(4, kernel = 3, padding = 1) |> bn: batchnorm |> relu
    |> residual { c1: conv(5, kernel = 3, padding = 1) |> batchnorm |> relu |> c2: conv(4, kernel = 1) }
    |> maxpool(2) |> flatten |> head: dense(3)
}
"""


def trained(text=MLP, steps=3, optimizer=torch.optim.Adam, groups=None, **options):
    net = build(text, seed=1, dtype=torch.float64)
    opt = optimizer(groups(net) if groups else net.parameters(), lr=1e-2, **options)
    net.track(opt)
    for i in range(steps):
        step(net, opt, i)
    return net, opt


def batch(net, seed=0, size=5):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(size, *net.graph.shape(net.graph.inputs[0]), generator=generator, dtype=torch.float64)


def step(net, opt, seed=0):
    opt.zero_grad()
    loss = net(batch(net, seed)).square().mean()
    loss.backward()
    opt.step()
    return loss.item()
