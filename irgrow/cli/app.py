"""The command line: `irgrow check | fmt | show | draw | rewrite | train | verify | export`.

Exit codes: 0 fine, 1 a check failed or a rewrite was refused, 2 bad input, a refused one to `verify` among it, 130
interrupted.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable
from typing import Any

import typer

from irgrow.cli import check, draw, export, fmt, rewrite, show, train, verify
from irgrow.errors import CompilerBug, ProgramError, UserError

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    help="A compiler for neural networks that change shape while they learn.",
    context_settings={"help_option_names": ["-h", "--help"]},
)
_COMMANDS: tuple[tuple[str, Callable[..., Any]], ...] = (
    ("check", check.check),
    ("fmt", fmt.fmt),
    ("show", show.show),
    ("draw", draw.draw),
    ("rewrite", rewrite.rewrite),
    ("train", train.train),
    ("verify", verify.verify),
    ("export", export.export),
)
for _name, _command in _COMMANDS:
    app.command(_name)(_command)


def main() -> None:
    """Run the command line; user errors are one message on stderr and exit code 2."""
    debug = os.environ.get("IRGROW_DEBUG") == "1"
    try:
        app(standalone_mode=True)
    except ProgramError as error:
        _give_up(_rendered(error), 2, debug)
    except UserError as error:
        _give_up(f"error: {error}", 2, debug)
    except CompilerBug as error:
        _give_up(f"internal error: {error}", 1, debug)
    except KeyboardInterrupt:
        _give_up("interrupted", 130, debug)
    except BrokenPipeError:
        # Whoever read our output has closed it; nothing more can be said.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        _give_up(f"error: {place}{(error.strerror or str(error)).lower()}", 2, debug)


def _rendered(error: ProgramError) -> str:
    from irgrow.grammar import render

    return render(error.diagnostics)


def _give_up(message: str, code: int, debug: bool) -> None:
    if debug:
        traceback.print_exc()
    print(message, file=sys.stderr)
    sys.exit(code)
