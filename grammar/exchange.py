"""Exchanging one net of a program for a graph; everything around it stays as it was written."""

from __future__ import annotations

from pathlib import Path

from irgrow.errors import OptionError, ProgramError
from irgrow.grammar import syntax
from irgrow.grammar.parser import parse_syntax
from irgrow.grammar.printer import print_graph
from irgrow.grammar.program import Program, parse_program
from irgrow.graph import Graph


def exchange(program: Program, graph: Graph, place: Path | None = None) -> Program:
    """Return a program with the net of the graph's name as the graph prints.

    Other nets, blocks, sections and comments stay, character by character. The parameters of the net are numbers then,
    and the comments in it are gone. In another folder, imports of files go too if nothing is left that may need them.

    Args:
        program: The program.
        graph: What one of its nets has become.
        place: The file that the text is for, if it is not the program's own; imports are looked up beside it.

    Raises:
        ProgramError: An import does not lead anywhere from that place.
        OptionError: The program has no such net, or has blocks that go by the names of ops.

    >>> program = parse_program("net n(x: [4], w = 3) { return dense(x, w) }  train { epochs = 2 }")
    >>> print(exchange(program, program.graph("n", {"w": 5})).source.text, end="")
    net n(x: [4]) {
      dense_1 = dense(x, 5)
      return dense_1
    }  train { epochs = 2 }
    """
    if graph.name not in program.nets:
        raise OptionError(f"{program.source.name} has no net `{graph.name}`")
    own = Path(program.source.name)
    place = own if place is None else place
    text = program.source.text
    lines = "\r\n" if "\r\n" in text else "\n"
    edits = [(program.nets[graph.name].definition.extent, print_graph(graph).rstrip("\n").replace("\n", lines))]
    if place.parent.resolve() != own.parent.resolve():
        edits += [(extent, "") for extent in _needless(parse_syntax(program.source))]
    for (start, end), new in sorted(edits, reverse=True):
        text = text[:start] + new + text[end:]
    changed = parse_program(text if text.endswith("\n") else text + lines, str(place), place.parent.resolve())
    if not _stands_for(changed, graph):
        raise OptionError(f"in {place} a block has the name of an op or function that `{graph.name}` is printed with")
    return changed


def _needless(items: list[syntax.Item]) -> list[tuple[int, int]]:
    """Return where files are imported, if there is but one net and it is printed with ops only."""
    if sum(isinstance(item, syntax.Definition) for item in items) > 1:
        return []
    return [(item.start, item.end) for item in items if isinstance(item, syntax.Import) and not item.shipped]


def _stands_for(program: Program, graph: Graph) -> bool:
    """Return whether a net of a program is a graph."""
    try:
        return program.graph(graph.name) == graph
    except ProgramError:
        return False
