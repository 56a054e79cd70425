"""One GradMax step on a tanh MLP beside gromo: the same directions, and how long a growth step takes.

Both grow the same hidden layer of the same network, with the same weights, by the same batch and loss, in float64. The
new fan-outs are compared as a subspace (up to sign and rotation) and column by column (up to sign). A step is all there
is from the batch to a network that can train on: forward, backward, the decision and the new parameters; irgrow's also
proves that the function stays and carries the moments of an Adam, gromo's does neither. gromo counts the biases of new
units, which irgrow does with `gradmax(bias = true)`.

gromo is needed for this alone: pip install gromo==0.1.0 torchmetrics lightning-utilities deprecated wrapt
-c constraints.txt --no-deps

python benchmarks/gromo_step.py
"""

from __future__ import annotations

import copy
import sys
from typing import Any

import torch
from measuring import compare
from torch import Tensor, nn

from irgrow.network import Network, build
from irgrow.passes import GradMax, GrowUnits

SIZES = ((16, 32, 128), (64, 256, 256), (256, 1024, 512))
"""Inputs, hidden units and samples."""

COUNT = 8
OPTIONS: dict[str, Any] = {
    "compute_delta": False,
    "use_covariance": False,
    "alpha_zero": True,
    "use_projection": False,
    "ignore_singular_values": True,
    "maximum_added_neurons": COUNT,
    "statistical_threshold": 0.0,
    "dtype": torch.float64,
}
"""What gromo names as its options for GradMax."""


def loss(y: Tensor, target: Tensor) -> Tensor:
    """Return the mean squared error."""
    return ((y - target) ** 2).mean()


def networks(inputs: int, hidden: int) -> tuple[Network, nn.Module]:
    """Return the same two-layer tanh MLP twice: irgrow's and gromo's."""
    from gromo.containers.growing_mlp import GrowingMLP

    layers = f"x |> h: dense({hidden}) |> tanh |> g: dense({hidden}) |> tanh |> y: dense(10)"
    text = f"net mlp(x: [{inputs}]) {{ return {layers} }}"
    ours = build(text, seed=0, dtype=torch.float64)
    theirs = GrowingMLP(inputs, 10, hidden, 2, nn.Tanh(), device=torch.device("cpu")).double()
    with torch.no_grad():
        for layer, name in zip(theirs.layers, ("h", "g", "y"), strict=True):
            layer.weight.copy_(ours.params[f"{name}.weight"])
            layer.bias.copy_(ours.params[f"{name}.bias"])
    return ours, theirs


def step_of_gromo(model: Any, x: Tensor, target: Tensor) -> None:
    """Grow the first hidden layer by GradMax."""
    layer = model.layers[1]
    layer.init_computation()
    model.zero_grad()
    loss(model(x), target).backward()
    layer.update_computation()
    layer.compute_optimal_updates(**OPTIONS)
    layer.normalize_optimal_updates(normalization_type="gradmax_normalization")
    layer.apply_change(scaling_factor=1.0)
    layer.reset_computation()
    layer.delete_update()


def step_of_irgrow(net: Network, x: Tensor, target: Tensor) -> None:
    """Grow the first hidden layer by GradMax."""
    receipt = net.rewrite(GrowUnits("h", COUNT, GradMax(bias=True)), statistics=x, loss=lambda y: loss(y, target))
    if not receipt.verdict.preserves:
        raise SystemExit(f"irgrow did not grow: {receipt.verdict}")


def main() -> None:
    try:
        import gromo
    except ImportError:
        print("skipped: gromo is not installed; the docstring of this file says how")
        return
    sys.stdout.write(
        f"gromo {getattr(gromo, '__version__', '')}, torch {torch.__version__}, {COUNT} new units\n".replace(" ,", ",")
    )
    for inputs, hidden, samples in SIZES:
        torch.manual_seed(0)
        x, target = torch.randn(samples, inputs).double(), torch.randn(samples, 10).double()
        ours, theirs = networks(inputs, hidden)
        print(f"{inputs}-{hidden}-{hidden}-10, {samples} samples")
        a, b = copy.deepcopy(ours), copy.deepcopy(theirs)
        step_of_irgrow(a, x, target)
        step_of_gromo(b, x, target)
        report(a, b, hidden, x)
        optimizer = lambda n: n.track(torch.optim.Adam(n.parameters()))  # noqa: E731
        pools: dict[str, list[Any]] = {"irgrow": [], "gromo": []}
        for _ in range(9):
            pools["irgrow"].append(copy.deepcopy(ours))
            pools["gromo"].append(copy.deepcopy(theirs))
            optimizer(pools["irgrow"][-1])
        times = compare(
            {
                "irgrow": lambda pools=pools, x=x, t=target: step_of_irgrow(pools["irgrow"].pop(), x, t),
                "gromo": lambda pools=pools, x=x, t=target: step_of_gromo(pools["gromo"].pop(), x, t),
            },
            rounds=7,
        )
        each = ", ".join(f"{name} {1e3 * s:.2f} ms" for name, s in times.items())
        print(f"  growth step (median of 7): {each}; irgrow / gromo {times['irgrow'] / times['gromo']:.2f}")


def report(ours: Network, theirs: Any, hidden: int, x: Tensor) -> None:
    """Print how far the new parameters and the functions are from one another."""
    a = ours.params["g.weight"].detach()[:, hidden:]
    b = theirs.layers[1].weight.detach()[:, hidden:]
    signs = torch.sign((a * b).sum(0))
    columns = float((a - b * signs).norm() / b.norm())
    projectors = [torch.linalg.qr(v)[0] @ torch.linalg.qr(v)[0].T for v in (a, b)]
    spaces = float((projectors[0] - projectors[1]).norm())
    with torch.no_grad():
        outputs = float((ours(x) - theirs(x)).abs().max())
    rows = float(
        ours.params["h.weight"].detach()[hidden:].abs().max() + theirs.layers[0].weight.detach()[hidden:].abs().max()
    )
    print(f"  fan-outs up to sign: relative difference {columns:.1e}; subspaces {spaces:.1e}; fan-in of both {rows:g}")
    print(f"  largest difference of the outputs afterwards {outputs:.1e}")


if __name__ == "__main__":
    main()
