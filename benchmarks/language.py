"""How fast programs are read: nodes per second, growth with size, width analysis, `irgrow check` on the examples.

python benchmarks/language.py
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from statistics import median

from measuring import judged, seconds

from irgrow.grammar import parse
from irgrow.passes import GrowUnits, plan
from irgrow.passes.analyses.places import editable_axes, hidden_axes
from irgrow.verify import verify

BLOCK = "block unit(x) { return x |> residual { dense(64) |> relu |> dense(width(x)) } |> layernorm }"
EXAMPLES = Path(__file__).parent.parent / "examples"


def repeated(blocks: int) -> str:
    """Return a program of five nodes a block."""
    return f"{BLOCK}\nnet n(x: [32]) {{ return x |> repeat({blocks}) {{ unit }} |> dense(10) }}"


def dense_concatenation(layers: int) -> str:
    """Return a DenseNet-like program: every layer reads all earlier ones, concatenated."""
    return (
        "block layer(x) { return concat(x, x |> batchnorm |> relu "
        "|> conv(12, kernel = 3, padding = 1, bias = false)) }\n"
        "net n(image: [3, 32, 32]) { return image |> conv(24, kernel = 3, padding = 1) "
        f"|> repeat({layers}) {{ layer }} |> avgpool |> dense(10) }}"
    )


def main() -> None:
    print("parse, elaborate, type and verify (median of 3)")
    rates = {}
    for blocks in (100, 1000, 10_000):
        text = repeated(blocks)
        graph = parse(text)
        took = median(seconds(lambda text=text: verify(parse(text))) for _ in range(3))
        rates[len(graph)] = len(graph) / took
        print(f"  {len(graph):>6} nodes: {took:.3f} s, {len(graph) / took:,.0f} nodes/s")
    flat = str(parse(repeated(2000)))
    nodes = len(parse(flat))
    took = median(seconds(lambda: verify(parse(flat))) for _ in range(3))
    print(f"  {nodes:>6} nodes, each a line of its own: {took:.3f} s, {nodes / took:,.0f} nodes/s")
    print("  " + judged("slowest, nodes per second", min(*rates.values(), nodes / took), 5000, at_least=True))
    small, *_, large = rates.values()
    print("  " + judged("rate at the smallest over rate at the largest (linear: 1)", small / large, 1.5))

    print("96 layers of dense concatenation")
    text = dense_concatenation(96)
    graph = parse(text)
    site = hidden_axes(graph)
    print(f"  {len(graph)} nodes, {len(editable_axes(graph))} editable axes")
    took = seconds(lambda: editable_axes(parse(text)))
    print("  " + judged("parse, type and find the editable axes, seconds", took, 1.0))
    first = site[0] if site else editable_axes(graph)[0]
    print(f"  plan of growing `{first}`: {seconds(lambda: plan(GrowUnits(first, 4), graph)):.3f} s")

    print("irgrow check, whole process (best of 3)")
    slowest = 0.0
    for path in sorted(EXAMPLES.glob("*.irg")):
        command = [str(Path(sys.executable).with_name("irgrow")), "check", str(path)]
        run = lambda command=command: subprocess.run(command, check=True, capture_output=True)  # noqa: E731
        took = min(seconds(run) for _ in range(3))
        slowest = max(slowest, took)
        print(f"  {path.name:<16} {took:.3f} s")
    print("  " + judged("slowest, seconds", slowest, 0.5))


if __name__ == "__main__":
    main()
