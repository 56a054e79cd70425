"""Graphs to text: one assignment per node, arguments explicit, so that every network is a program again."""

from __future__ import annotations

from irgrow.axes import Atom, Axis, Cat, Const, Prod
from irgrow.graph import Graph, Node
from irgrow.ops import Attribute, Input, attributes, show, word_of
from irgrow.ops.activations import Activate


def print_graph(graph: Graph) -> str:
    """Print a graph as a program; parsing it gives the same graph back."""
    inputs = [n for n in graph if isinstance(n.op, Input)]
    lines = [f"net {graph.name}({', '.join(_input(n) for n in inputs)}) {{"]
    for name in graph.named:
        fixed = " fixed" if name in graph.fixed else ""
        lines.append(f"  axis {name} = {graph.sizes[name]}{fixed}")
    lines.extend(f"  {node.name} = {print_call(node, graph)}" for node in graph if not isinstance(node.op, Input))
    lines.append(f"  return {', '.join(graph.outputs)}")
    return "\n".join(lines) + "\n}\n"


def _input(node: Node) -> str:
    assert isinstance(node.op, Input)
    word = f"ids({node.op.vocabulary})" if node.op.vocabulary is not None else ""
    return f"{node.name}: {word}{show(node.op.shape)}"


def print_call(node: Node, graph: Graph) -> str:
    """Print the call that makes a node, such as `conv(image, 6, kernel = 5)`."""
    arguments = list(node.inputs)
    for attribute in () if isinstance(node.op, Activate) else attributes(type(node.op)):
        value = getattr(node.op, attribute.name)
        if value == attribute.default:
            continue
        text = _width(node, attribute, value, graph) if attribute.kind == "width" else show(value)
        arguments.append(text if attribute.name == "units" else f"{attribute.name} = {text}")
    if node.tied is not None:
        arguments.append(f"tied = {node.tied}")
    return f"{word_of(node.op)}({', '.join(arguments)})"


def _width(node: Node, attribute: Attribute, axis: Axis, graph: Graph) -> str:
    own = node.name if attribute.name == "units" else f"{node.name}.{attribute.name}"
    if isinstance(axis, Atom) and axis.name == own and own not in graph.named:
        return str(graph.sizes[own])
    return _expression(axis, graph)


def _expression(axis: Axis, graph: Graph) -> str:
    """Write an axis: by the name the program gave it, as the width of the node that makes it, or by its own name."""
    match axis:
        case Atom(name):
            return f"width({name})" if name in graph and name not in graph.named else name
        case Const(size):
            return str(size)
        case Cat(parts):
            return " + ".join(_expression(p, graph) for p in parts)
        case Prod(factors):
            return " * ".join(
                f"({_expression(f, graph)})" if isinstance(f, Cat) else _expression(f, graph) for f in factors
            )
    raise ValueError(f"{axis} cannot be written as a width")
