"""Reading programs: files, imports and the choice of a net."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any, NoReturn

from irgrow.collecting import uncollected
from irgrow.errors import Diagnostic, Note, OptionError, ProgramError, Source, Span, did_you_mean
from irgrow.grammar import syntax
from irgrow.grammar.budget import Budget
from irgrow.grammar.diagnostics import in_order
from irgrow.grammar.elaborate import Elaborator
from irgrow.grammar.parser import LARGEST_SOURCE, parse_syntax
from irgrow.grammar.scope import Block
from irgrow.graph import Graph

SHIPPED = Path(__file__).with_name("std")
DEEPEST_IMPORT = 32


@dataclass(frozen=True)
class Program:
    """A parsed file with everything it imports.

    Args:
        source: The text.
        blocks: Blocks by name, imported ones included.
        nets: The nets of the file itself.
        sections: Its `grow` and `train` sections.
    """

    source: Source
    blocks: dict[str, Block] = field(default_factory=dict)
    nets: dict[str, Block] = field(default_factory=dict)
    sections: list[syntax.GrowSection | syntax.TrainSection] = field(default_factory=list)

    def graph(self, net: str | None = None, values: Mapping[str, Any] | None = None) -> Graph:
        """Elaborate a net, the only one unless named, with some of its compile-time parameters given.

        Raises:
            ProgramError: It is not well-formed.
            OptionError: There is no such net, or there are several and none was named.
        """
        if not self.nets:
            raise ProgramError([Diagnostic("expected a net, found none", Span(self.source, 0, 0), code="no-net")])
        if net is None and len(self.nets) > 1:
            raise OptionError(f"{self.source.name} has several nets, name one: {', '.join(self.nets)}")
        if net is not None and net not in self.nets:
            close = did_you_mean(net, self.nets) or f"there are: {', '.join(self.nets)}"
            raise OptionError(f"{self.source.name} has no net `{net}`; {close}")
        block = self.nets[net or next(iter(self.nets))]
        Budget(self.blocks).check(block, values or {})
        with uncollected():
            return Elaborator(self.blocks).net(block, values or {})

    @cached_property
    def growth(self) -> Any:
        """The growth program of the `grow` sections, or `None`."""
        from irgrow.grammar.settings import growth_program

        return growth_program(self.source, self._growth) if self._growth else None

    def growth_on(self, graph: Graph) -> Any:
        """Return the growth program, or `None`, having asked every rule whether it can work on a network.

        Raises:
            ProgramError: A rule is wrong, names what there is not, or can never do anything on this network.
        """
        from irgrow.grammar.settings import check_growth

        growth = self.growth
        if found := check_growth(self.source, self._growth, graph):
            raise ProgramError(in_order(found, self.source))
        return growth

    def check(self, net: str | None = None, values: Mapping[str, Any] | None = None) -> tuple[Graph, ...]:
        """Return the graphs of all nets, or of one, having checked the sections too, and every rule on every graph.

        Raises:
            ProgramError: Something is not well-formed; carries every diagnostic of the file, in order of place.
            OptionError: There is no such net.
        """
        from irgrow.grammar.settings import check_growth

        found = self._section_faults()
        graphs: list[Graph] = []
        names: list[str | None] = [net] if net else [*self.nets] or [None]
        for name in names:
            try:
                graphs.append(self.graph(name, values))
            except ProgramError as error:
                found += error.diagnostics
        for graph in graphs:
            note = (Note(f"on net `{graph.name}`"),) if len(self.nets) > 1 else ()
            found += [replace(d, notes=note) for d in check_growth(self.source, self._growth, graph)]
        if found:
            raise ProgramError(in_order(found, self.source))
        return tuple(graphs)

    def _section_faults(self) -> list[Diagnostic]:
        """Return what is wrong in the sections, whatever the nets are."""
        found: list[Diagnostic] = []
        for section in ("growth", "training"):
            try:
                getattr(self, section)
            except ProgramError as error:
                found += error.diagnostics
        return found

    @property
    def _growth(self) -> list[syntax.GrowSection]:
        return [s for s in self.sections if isinstance(s, syntax.GrowSection)]

    @cached_property
    def training(self) -> Any:
        """The settings of the `train` section, or `None`."""
        from irgrow.grammar.settings import training_settings

        sections = [s for s in self.sections if isinstance(s, syntax.TrainSection)]
        return training_settings(self.source, sections) if sections else None


class _Loader:
    """Gathers a file and its imports; blocks may come from files beside it or from the shipped ones."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder.resolve() if folder else None
        self.open: list[str] = []
        self.done: set[str] = set()

    def load(self, source: Source, program: Program, own: bool) -> None:
        """Add the definitions of a source to a program; nets and sections count only in the file itself."""
        found: list[Diagnostic] = []
        for item in _prelude_items() if source is _prelude_source() else parse_syntax(source):
            try:
                self._take(item, source, program, own)
            except ProgramError as error:
                found += error.diagnostics
        if found:
            raise ProgramError(in_order(found, source))

    def _take(self, item: syntax.Item, source: Source, program: Program, own: bool) -> None:
        match item:
            case syntax.Import():
                self._import(item, source, program)
            case syntax.Definition(kind, name):
                table = program.blocks if kind == "block" else program.nets
                if kind == "net" and not own:
                    return
                known = table.get(name)
                if known and known.source is not _prelude_source() and not self._same(known, source, item):
                    self._fail(f"two definitions are called `{name}`", source, item, "name-clash")
                table[name] = Block(item, source)
            case _:
                if own:
                    program.sections.append(item)

    def _same(self, known: Block, source: Source, item: syntax.Definition) -> bool:
        return known.source.name == source.name and known.definition.start == item.start

    def _import(self, item: syntax.Import, source: Source, program: Program) -> None:
        path = self._path(item, source)
        key = str(path)
        if key in self.open:
            chain = " -> ".join(Path(p).name for p in [*self.open[self.open.index(key) :], key])
            self._fail(f"imports form a cycle: {chain}", source, item, "import-cycle")
        if len(self.open) >= DEEPEST_IMPORT:
            self._fail(f"imports are nested at most {DEEPEST_IMPORT} deep", source, item, "bound")
        if key in self.done:
            return
        try:
            text = read_text(path, str(item.target))
        except OptionError as error:
            self._fail(str(error), source, item, "import")
        self.open.append(key)
        self.done.add(key)
        try:
            self.load(Source(path.name if item.shipped else str(path), text), program, own=False)
        finally:
            self.open.pop()

    def _path(self, item: syntax.Import, source: Source) -> Path:
        if item.shipped:
            parts = item.target.split(".")
            known = sorted(f"std.{p.stem}" for p in SHIPPED.glob("*.irg"))
            if item.target not in known:
                close = did_you_mean(item.target, known) or f"there are: {', '.join(known)}"
                self._fail(f"nothing shipped is called `{item.target}`", source, item, "import", close)
            return SHIPPED / f"{parts[1]}.irg"
        if self.folder is None:
            return self._fail("a program that is not in a file cannot import one", source, item, "import")
        path = self.folder / item.target
        if not path.resolve().is_relative_to(self.folder):
            self._fail(f"`{item.target}` lies outside the folder of the program", source, item, "import")
        return path.resolve()

    def _fail(
        self, message: str, source: Source, item: syntax.Import | syntax.Definition, code: str, help: str | None = None
    ) -> NoReturn:
        raise ProgramError([Diagnostic(message, Span(source, item.start, item.end), (), help, code)])


@cache
def _prelude_source() -> Source:
    path = SHIPPED / "prelude.irg"
    return Source("std.prelude", path.read_text(encoding="utf-8"))


@cache
def _prelude_items() -> list[syntax.Item]:
    return parse_syntax(_prelude_source())


def read_text(path: Path, name: str) -> str:
    """Read a source file, with clear errors.

    Raises:
        OptionError: It does not exist, is too large or is not UTF-8.
    """
    try:
        if path.stat().st_size > LARGEST_SOURCE:
            raise OptionError(f"{name}: a source has at most {LARGEST_SOURCE} bytes, found {path.stat().st_size}")
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise OptionError(
            f"{name}: expected UTF-8 text, found byte {error.object[error.start]:#04x} at {error.start}"
        ) from None
    except OSError as error:
        raise OptionError(f"{name}: {(error.strerror or str(error)).lower()}") from None


def parse_program(text: str, name: str = "<text>", folder: Path | None = None) -> Program:
    """Parse a program with its imports.

    Args:
        text: The program.
        name: What messages call it.
        folder: Where `import "file.irg"` looks; without it there are no such imports.

    Raises:
        ProgramError: It does not parse, an import fails or a name is taken twice; what is wrong in its sections is told
            beside that.
    """
    program = Program(Source(name, text))
    loader = _Loader(folder)
    if folder is not None:
        loader.open.append(str((folder / Path(name).name).resolve()))
    loader.load(_prelude_source(), program, own=False)
    try:
        loader.load(program.source, program, own=True)
    except ProgramError as error:
        raise ProgramError(in_order([*error.diagnostics, *program._section_faults()], program.source)) from None
    return program


def read_program(path: str | Path) -> Program:
    """Read a program from a file.

    Raises:
        OptionError: The file cannot be read.
        ProgramError: It does not parse, or an import fails.
    """
    path = Path(path)
    return parse_program(read_text(path, str(path)), str(path), path.parent)


def parse(text: str, net: str | None = None, **values: Any) -> Graph:
    """Parse a program and return its graph.

    Args:
        text: The program.
        net: The net, if there are several.
        **values: Compile-time parameters of the net.

    Raises:
        ProgramError: It is not a well-formed program; carries every diagnostic.

    >>> parse("net tiny(x: [4]) { return x |> dense(3) }").outputs
    ('dense_1',)
    """
    return parse_program(text).graph(net, values)


def read(path: str | Path, net: str | None = None, **values: Any) -> Graph:
    """Read a program from a file and return its graph; see `parse`."""
    return read_program(path).graph(net, values)
