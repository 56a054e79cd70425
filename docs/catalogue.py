"""Write docs/passes.md, the catalogue, from the docstrings of what is registered: `python docs/catalogue.py`."""

from __future__ import annotations

import inspect
import re
import sys
import textwrap
from dataclasses import MISSING
from pathlib import Path
from typing import Any

from irgrow.attributes import attributes, textual_name
from irgrow.growth import BUNDLES, CADENCES, RATES
from irgrow.grammar.program import SHIPPED
from irgrow.grammar.sugar import COMBINATORS, FUNCTIONS
from irgrow.ops import OPS, WORDS
from irgrow.passes import INITIALIZERS, PASSES, SALIENCIES, TRIGGERS
from irgrow.training import DATA, OPTIMIZERS, SCHEDULES

INTRODUCTION = """# Catalogue

Written by `python docs/catalogue.py` from the docstrings of what is registered; the tests compare.
"""


def entry(cls: type[Any]) -> str:
    """Return the section of a class: its call, its module's explanation for passes, its docstring."""
    fields = []
    for a in attributes(cls):
        default = str(a.default).lower() if isinstance(a.default, bool) else a.default
        fields.append(a.name if default in (None, "", MISSING) else f"{a.name} = {default}")
    text = inspect.cleandoc(cls.__doc__ or "").split("\n\n>>>")[0].rstrip()
    return f"### {textual_name(cls)}\n\n`{textual_name(cls)}({', '.join(fields)})`\n\n{_markdown(text)}\n"


def _markdown(text: str) -> str:
    """Turn the arguments of a docstring into a list."""
    if "Args:" not in text:
        return text
    head, _, tail = text.partition("Args:")
    items: list[str] = []
    for line in inspect.cleandoc(tail).splitlines():
        if not line.startswith(" ") and ":" in line:
            name, _, rest = line.partition(":")
            items.append(f"- `{name}`:{rest}")
        elif line.strip() and items:
            items[-1] += f" {line.strip()}"
    return head + "\n".join(items)


def _paragraphs(text: str) -> str:
    """Return paragraphs, tables among them fenced."""
    found = []
    for paragraph in textwrap.dedent(text).strip("\n").split("\n\n"):
        table = re.search(r"\S {3,}\S", paragraph)
        found.append(f"```text\n{textwrap.dedent(paragraph)}\n```" if table else inspect.cleandoc(paragraph))
    return "\n\n".join(found)


def catalogue() -> str:
    """Return the whole page."""
    parts = [INTRODUCTION]
    parts.append("## Passes\n")
    for cls in PASSES:
        explanation = inspect.cleandoc(sys.modules[cls.__module__].__doc__ or "")
        parts.append(entry(cls) + "\n" + _paragraphs(explanation.partition("\n\n")[2]) + "\n")
    for title, classes in (
        ("Initializers", INITIALIZERS),
        ("Saliencies", SALIENCIES),
        ("Triggers", TRIGGERS),
        ("Cadences", CADENCES),
        ("Bundles", BUNDLES),
        ("Learning rates per tensor", RATES),
        ("Data", DATA),
        ("Optimizers", OPTIMIZERS),
        ("Schedules", SCHEDULES),
    ):
        parts.append(f"## {title}\n")
        parts.extend(entry(cls) for cls in classes)
    parts.append("## Operators\n")
    for op in OPS:
        first = inspect.cleandoc(op.__doc__ or "").split("\n\n")[0].replace("\n", " ")
        words = [word for word, cls in WORDS.items() if cls is op] or [op.kind]
        parts.append(f"- {', '.join(f'`{w}`' for w in words)}: {first}")
    sugar = ", ".join(f"`{name}`" for name in (*FUNCTIONS, *COMBINATORS))
    parts.append(f"\nWritten with these operators: {sugar}, `+`, `*`.")
    blocks = re.findall(r"^(?:# (.*)\n)?block (\w+\(.*\)) \{", SHIPPED.joinpath("prelude.irg").read_text(), re.MULTILINE)
    parts.append("\n## Blocks that every program knows\n")
    parts.extend(f"- `{call}`" + (f": {comment}" if comment else "") for comment, call in blocks)
    return "\n".join(parts) + "\n"


if __name__ == "__main__":
    Path(__file__).with_name("passes.md").write_text(catalogue())
