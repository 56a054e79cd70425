"""Receipts and the journal: what one rewrite did, and the list of all.

Written as JSON, in a file of its own or in the `run.json` of a checkpoint, a journal is what
`irgrow.passes.replay` needs to do the same rewrites again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any

from irgrow.cost import cost
from irgrow.errors import CheckpointError
from irgrow.files import replace_text
from irgrow.morphism import Morphism
from irgrow.verdict import Verdict


@dataclass(frozen=True)
class Receipt:
    """What a rewrite did.

    Args:
        rewrite: The pass as text.
        verdict: What was proved.
        sites: The axes or nodes it worked on.
        error: max |y' - y| / max |y| of the outputs on the batch in evaluation mode, if one was given.
        loss: The loss on the batch before and after, if a loss was given.
        seconds: How long it took.
        morphism: Where every parameter came from; `None` if it was refused.
    """

    rewrite: str
    verdict: Verdict
    sites: tuple[str, ...]
    error: float | None = None
    loss: tuple[float, float] | None = None
    seconds: float = 0.0
    morphism: Morphism | None = field(default=None, repr=False, compare=False)

    @property
    def applied(self) -> bool:
        """Whether the network was changed."""
        return self.verdict.applies

    @property
    def notes(self) -> tuple[str, ...]:
        """What people should know of how it was done, such as that an initializer fell back on another."""
        return () if self.morphism is None else self.morphism.notes

    @cached_property
    def parameters(self) -> int:
        """Change of the number of trainable parameters."""
        return 0 if self.morphism is None else self.morphism.after.count() - self.morphism.before.count()

    @cached_property
    def macs(self) -> int:
        """Change of the multiply-accumulate operations for one sample."""
        return 0 if self.morphism is None else cost(self.morphism.after).macs - cost(self.morphism.before).macs

    def __str__(self) -> str:
        lines = [f"{self.rewrite}: {self.verdict}"]
        if self.applied:
            lines.append(f"  parameters {self.parameters:+,}, MACs {self.macs:+,}, {1e3 * self.seconds:.1f} ms")
        lines += [f"  note: {note}" for note in self.notes]
        if self.error is not None:
            lines.append(f"  measured on the batch: relative error {self.error:.2g}")
        if self.loss is not None:
            lines.append(f"  loss {self.loss[0]:.6g} -> {self.loss[1]:.6g}")
        return "\n".join(lines)


@dataclass(frozen=True)
class Entry:
    """One rewrite in the journal: enough to say what happened, and what it was derived from.

    Args:
        number: Its place, from 0; also what its seed is derived from.
        rewrite: The pass as text.
        verdict: The verdict as text.
        seed: The seed of its random numbers.
        before: Digest of the program before.
        after: Digest of the program after.
        parameters: Trainable parameters after.
        step: The training step, if it happened in training.
        used: What of a batch its numbers came from: nothing, `norms` (running statistics of new units), `statistics`
            (values of nodes), `gradients`, or `records` (of the passes that train).
    """

    number: int
    rewrite: str
    verdict: str
    seed: int
    before: str
    after: str
    parameters: int
    step: int | None = None
    used: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return a JSON form."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Any) -> Entry:
        """Read an entry back; what a later version added is left out.

        Raises:
            CheckpointError: It is not an entry.
        """
        if not isinstance(data, Mapping):
            raise CheckpointError(f"expected an entry, found {_shown(data)}")
        found: dict[str, Any] = {}
        for f in fields(cls):
            kinds = _KINDS[str(f.type)]
            if f.name not in data and f.default is MISSING:
                raise CheckpointError(f"an entry has no `{f.name}`")
            value = data.get(f.name, f.default)
            if isinstance(value, bool) or not isinstance(value, kinds):
                raise CheckpointError(f"`{f.name}` of an entry cannot be {_shown(value)}")
            found[f.name] = value
        return cls(**found)


_KINDS: dict[str, tuple[type, ...]] = {"int": (int,), "str": (str,), "int | None": (int, type(None))}


def _shown(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else text[:37] + "..."


def seed_of(*parts: object) -> int:
    """Return a seed of 63 bits derived from its parts."""
    text = "\0".join(map(str, parts))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


DEPTH = 64
"""How many of the latest rewrites can be undone; the records of all would fill the memory of a long training."""


@dataclass
class Journal:
    """All rewrites of a network, in order, with what is needed to undo the latest `DEPTH` of them.

    The morphisms are kept in memory only; after a checkpoint was loaded earlier rewrites cannot be undone.
    """

    entries: list[Entry] = field(default_factory=list)
    morphisms: dict[int, Morphism] = field(default_factory=dict, repr=False)
    counter: int = 0

    def __len__(self) -> int:
        return len(self.entries)

    def __iter__(self) -> Iterator[Entry]:
        return iter(self.entries)

    def __getitem__(self, index: int) -> Entry:
        return self.entries[index]

    def __str__(self) -> str:
        lines = [f"{e.number:4d}  {e.rewrite}: {e.verdict}" for e in self.entries]
        return "\n".join(lines) if lines else "no rewrites yet"

    def add(self, entry: Entry, morphism: Morphism) -> None:
        """Append a rewrite; what no undo reaches any more, behind one that cannot be undone or too deep, is let go."""
        if not morphism.edits and morphism.inverse() is None:
            self.morphisms = {number: m for number, m in self.morphisms.items() if m.edits}
        self.entries.append(entry)
        self.morphisms[entry.number] = morphism
        self.counter = entry.number + 1
        for number in [n for n in self.morphisms if n <= entry.number - DEPTH]:
            del self.morphisms[number]

    def become(self, other: Journal) -> None:
        """Take the rewrites of another journal, which is not to be used any more."""
        self.entries[:], self.morphisms, self.counter = other.entries, other.morphisms, other.counter

    def copy(self) -> Journal:
        """Return a journal of its own with the same rewrites."""
        return Journal(list(self.entries), dict(self.morphisms), self.counter)

    def to_json(self) -> dict[str, Any]:
        """Return a JSON form, without morphisms."""
        return {"counter": self.counter, "entries": [e.to_json() for e in self.entries]}

    @classmethod
    def from_json(cls, data: Any) -> Journal:
        """Read a journal back.

        Raises:
            CheckpointError: It is not a journal.
        """
        if not isinstance(data, Mapping) or not isinstance(data.get("entries"), list):
            raise CheckpointError("expected a journal, with its `entries`")
        entries = [Entry.from_json(e) for e in data["entries"]]
        counter = data.get("counter")
        if isinstance(counter, bool) or not isinstance(counter, int):
            raise CheckpointError("a journal has a `counter`")
        return cls(entries, {}, counter)

    def write(self, path: str | Path) -> None:
        """Write it as JSON; the file is replaced in one step.

        Raises:
            OptionError: It cannot be written.
        """
        replace_text(Path(path), json.dumps(self.to_json(), indent=1) + "\n")
