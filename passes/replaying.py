"""Replay: the rewrites of a journal once more, with the seeds they had, from the program they started from.

A journal lies in the `run.json` of a checkpoint, or in a file that `net.journal.write(path)` made. Every entry names
the digests of the program before and after it; where a program does not match, replay stops and names the entry.
Replaying on the program gives the same program; on the network the journal started from, if it was not trained in
between, the same tensors too, bit for bit. What a rewrite took from a batch is not in the journal, so such entries are
refused.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from irgrow import registry
from irgrow.errors import CheckpointError, Diagnostic, ProgramError, RefusedError, Source, Span
from irgrow.graph import Graph
from irgrow.journal import Entry, Journal
from irgrow.passes.base import Context, Pass, plan
from irgrow.passes.trace import TraceStep
from irgrow.verdict import Refused

if TYPE_CHECKING:
    from irgrow.network import Network

LARGEST_JOURNAL = 64 << 20
_NUMBER = re.compile(r'"number"\s*:\s*\d+')
_DATA = {
    "norms": "it took the running statistics of new units from a batch",
    "statistics": "it looked at the values of a batch",
    "gradients": "it looked at the gradients of a loss",
    "records": "it looked at what was recorded in training",
}


class Mismatch(RefusedError):
    """An entry that cannot be replayed here; says where it stands, and what was expected and found."""

    def __init__(self, diagnostic: Diagnostic) -> None:
        self.diagnostic = diagnostic
        super().__init__(diagnostic.full)


@dataclass(frozen=True)
class Recorded:
    """A journal that was read, with the text it stands in."""

    journal: Journal
    source: Source
    places: tuple[int, ...] = ()

    def span(self, index: int) -> Span:
        """Return where an entry stands."""
        start = self.places[index] if index < len(self.places) else 0
        return Span(self.source, start, start)

    def mismatch(self, index: int, message: str, help: str | None = None) -> Mismatch:
        """Return the error for an entry."""
        entry = self.journal[index]
        text = f"entry {entry.number} `{entry.rewrite}`: {message}"
        return Mismatch(Diagnostic(text, self.span(index), (), help, "replay"))


def read_journal(path: str | Path) -> Recorded:
    """Read a journal: a file of its own, the `run.json` of a checkpoint, or the checkpoint.

    Raises:
        CheckpointError: It cannot be read, is damaged or is not a journal.
    """
    path = Path(path)
    if path.is_dir():
        from irgrow import checkpoint

        checkpoint.read(path)
        path = path / checkpoint.RUN
    text = _text(path)
    try:
        data = json.loads(text)
        journal = Journal.from_json(data["journal"] if isinstance(data, dict) and "journal" in data else data)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: not a journal: {error}") from None
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: not a journal: {error}") from None
    places = tuple(m.start() for m in _NUMBER.finditer(text))
    return Recorded(journal, Source(str(path), text), places if len(places) == len(journal) else ())


def _text(path: Path) -> str:
    try:
        if path.stat().st_size > LARGEST_JOURNAL:
            raise CheckpointError(f"{path}: a journal has at most {LARGEST_JOURNAL} bytes")
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise CheckpointError(f"{path}: not a journal: expected UTF-8 text") from None
    except OSError as error:
        raise CheckpointError(f"{path}: {(error.strerror or str(error)).lower()}") from None


def replay(recorded: Recorded, target: Graph | Network) -> Iterator[TraceStep]:
    """Do the rewrites of a journal again, one for every step of the iteration.

    Args:
        recorded: The journal.
        target: The program, or the network the journal started from, which is rewritten up to the entry that fails.

    Raises:
        Mismatch: The program is not the one an entry names, a rewrite is refused, or it needs a batch.
        CheckpointError: An entry names a pass that is not there.
    """
    passes: list[Pass] = [_parsed(recorded, index) for index in range(len(recorded.journal))]
    graph = target if isinstance(target, Graph) else target.graph
    for index, (entry, pass_) in enumerate(zip(recorded.journal, passes, strict=True)):
        if graph.digest != entry.before:
            found = f"it was done on the program {entry.before[:12]}, found {graph.digest[:12]}"
            raise recorded.mismatch(index, found, None if index else "is this the program the journal started from?")
        if entry.used and not (entry.used == "norms" and isinstance(target, Graph)):
            why = _DATA.get(entry.used, f"it used {entry.used}")
            raise recorded.mismatch(index, f"{why}, which the journal does not hold")
        params = None if isinstance(target, Graph) else target.params
        planned = plan(pass_, graph, Context(params, entry.seed))
        if isinstance(planned.verdict, Refused) or planned.morphism is None:
            raise recorded.mismatch(index, str(planned.verdict))
        after = planned.morphism.after
        if after.digest != entry.after:
            raise recorded.mismatch(index, f"it made the program {entry.after[:12]}, now it makes {after.digest[:12]}")
        if not isinstance(target, Graph):
            _carry_out(target, entry, pass_)
        yield TraceStep(pass_, planned.verdict, graph, after, morphism=planned.morphism)
        graph = after


def _carry_out(net: Network, entry: Entry, pass_: Any) -> None:
    from irgrow.probing import Evidence
    from irgrow.transaction import rewrite

    net.journal.counter = entry.number
    rewrite(net, pass_, Evidence(), entry.step, seed=entry.seed)


def _parsed(recorded: Recorded, index: int) -> Any:
    entry = recorded.journal[index]
    try:
        return registry.call("parse_pass", entry.rewrite)
    except ProgramError as error:
        found = error.diagnostics[0]
        help = f"; {found.help}" if found.help else ""
        raise CheckpointError(
            f"{recorded.span(index)}: entry {entry.number} `{entry.rewrite}`: {found.message}{help}"
        ) from None
