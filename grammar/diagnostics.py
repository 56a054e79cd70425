"""Printing diagnostics: the message, the source line, carets, then notes and help."""

from __future__ import annotations

from collections.abc import Iterable

from irgrow.errors import Diagnostic, Source, Span

MOST_SHOWN = 20
WIDEST = 120


def in_order(diagnostics: Iterable[Diagnostic], own: Source) -> list[Diagnostic]:
    """Return diagnostics by their place, those of a program's own text first, and each once."""
    places: dict[tuple[bool, str, int, str], Diagnostic] = {}
    for d in diagnostics:
        name, start = (d.span.source.name, d.span.start) if d.span else (own.name, 0)
        places.setdefault((name != own.name, name, start, d.message), d)
    return [places[key] for key in sorted(places, key=lambda key: key[:3])]


def render(diagnostics: Iterable[Diagnostic]) -> str:
    """Print diagnostics as people read them, at most 20.

    >>> from irgrow.errors import Source
    >>> print(render([Diagnostic("no such op", Span(Source("a.irg", "x |> maxpol"), 5, 11), help="try `maxpool`")]))
    a.irg:1:6: error: no such op
      1 | x |> maxpol
        |      ^^^^^^
    help: try `maxpool`
    """
    found = list(diagnostics)
    blocks = [_one(d) for d in found[:MOST_SHOWN]]
    if len(found) > MOST_SHOWN:
        blocks.append(f"... and {len(found) - MOST_SHOWN} more errors")
    return "\n".join(blocks)


def _one(d: Diagnostic) -> str:
    lines = [str(d)]
    if d.span is not None:
        lines += _window(d.span)
    for note in d.notes:
        place = f"{note.span}: " if note.span is not None else ""
        lines.append(f"{place}note: {note.message}")
        if note.span is not None:
            lines += _window(note.span)
    if d.help is not None:
        lines.append(f"help: {d.help}")
    return "\n".join(lines)


def _window(span: Span) -> list[str]:
    """Return the source line and the carets below it; long lines are cut around the span."""
    number, column = span.source.position(span.start)
    text = "".join(c if c.isprintable() else " " for c in span.source.line(number).replace("\t", " "))
    width = max(1, min(span.end - span.start, len(text) - column + 1))
    first = max(0, column - 1 - WIDEST // 2) if len(text) > WIDEST else 0
    shown = text[first : first + WIDEST]
    carets = "^" * min(width, max(len(shown) - (column - 1 - first), 1))
    margin = str(number)
    blank = " " * len(margin)
    return [f"  {margin} | {shown}".rstrip(), f"  {blank} | {' ' * (column - 1 - first)}{carets}"]
