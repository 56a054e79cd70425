"""The language: text to graph and back."""

from __future__ import annotations

from irgrow.grammar.diagnostics import render
from irgrow.grammar.exchange import exchange
from irgrow.grammar.formatter import format_text
from irgrow.grammar.printer import print_call, print_graph
from irgrow.grammar.program import Program, parse, parse_program, read, read_program
from irgrow.grammar.settings import parse_pass

__all__ = [
    "Program",
    "exchange",
    "format_text",
    "parse",
    "parse_pass",
    "parse_program",
    "print_call",
    "print_graph",
    "read",
    "read_program",
    "render",
]
