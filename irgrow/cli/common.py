"""What the verbs share: options, reading programs, printing JSON."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from irgrow.errors import OptionError

if TYPE_CHECKING:
    from irgrow.grammar import Program
    from irgrow.graph import Graph

FileArgument = Annotated[Path, typer.Argument(help="A program (.irg).", show_default=False)]
NetOption = Annotated[str | None, typer.Option("--net", help="The net, if the file has several.")]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", help="A compile-time parameter, `name=value`; may be repeated.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")]


def values(settings: list[str] | None) -> dict[str, Any]:
    """Parse `name=value` options; values are numbers, `true` or `false`.

    Raises:
        OptionError: One is not of that form.
    """
    found: dict[str, Any] = {}
    for setting in settings or []:
        name, sign, text = setting.partition("=")
        if not sign or not name.strip():
            raise OptionError(f"--set takes name=value, found {setting!r}")
        found[name.strip()] = _value(text.strip(), setting)
    return found


def _value(text: str, setting: str) -> Any:
    if text in ("true", "false"):
        return text == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    raise OptionError(f"--set takes a number, true or false, found {setting!r}")


def is_checkpoint(path: Path) -> bool:
    """Return whether a path is a checkpoint folder."""
    return path.is_dir()


def program(path: Path) -> Program:
    """Read a program."""
    from irgrow.grammar import read_program

    return read_program(path)


def for_programs(path: Path, net: str | None, settings: list[str] | None) -> None:
    """Refuse options that only programs take.

    Raises:
        OptionError: One was given for a checkpoint.
    """
    if net is not None or settings:
        raise OptionError(f"--net and --set are for programs, {path} is a checkpoint")


def graph_of(path: Path, net: str | None, settings: list[str] | None) -> Graph:
    """Return the graph of a program, or of a checkpoint."""
    if is_checkpoint(path):
        for_programs(path, net, settings)
        from irgrow.checkpoint import read

        return read(path).graph
    return program(path).graph(net, values(settings))


def print_json(value: Any) -> None:
    """Print a value as JSON."""
    print(json.dumps(value, indent=1))


def note(message: str) -> None:
    """Say something beside the output."""
    print(message, file=sys.stderr)
