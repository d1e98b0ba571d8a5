"""Definition files as they are written: shapes and lines, no meaning yet."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from processors.kpis.faults import Fault

Identifier = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
Names = tuple[str, ...]


class Entry(BaseModel):
    """One entry of a definition file."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    id: Identifier


class ParameterEntry(Entry):
    """A setting by the value of a column."""

    by: str
    default: int | float | str | bool
    values: Mapping[str, int | float | str | bool] = {}


class ScopeEntry(Entry):
    """A grouping."""

    key: Names
    attributes: Names = ()
    sources: Names | None = None
    pane: str
    windows: Names
    publish_every: str = "1s"
    histograms: bool = False


class MeasureEntry(Entry):
    """A number per event."""

    source: str
    value: str
    aggregate: Literal["sum", "histogram"] = "sum"
    precision: float | None = None
    count_time: str | None = None


class SampleEntry(Entry):
    """Ids kept as evidence."""

    source: str
    where: str
    keep: Annotated[int, Field(ge=1, le=100)] = 5


class KpiEntry(Entry):
    """A KPI."""

    version: Annotated[int, Field(ge=1)] = 1
    title: str
    description: str = ""
    unit: Literal["percent", "seconds", "count", "score"]
    scale: Annotated[float, Field(gt=0)] | None = None
    numerator: str | None = None
    denominator: str | None = None
    n: str | None = None
    quantile: Annotated[float, Field(gt=0, lt=1)] | None = None
    of: str | None = None
    direction: Literal["higher", "lower"] | None = None
    target: float | None = None
    warning: float | None = None
    critical: float | None = None
    minimum_n: Annotated[int, Field(ge=0)] = 0
    counted_at: str | None = None
    scopes: Names | None = None


SECTIONS: Final[Mapping[str, type[Entry]]] = {
    "parameters": ParameterEntry,
    "scopes": ScopeEntry,
    "measures": MeasureEntry,
    "samples": SampleEntry,
    "kpis": KpiEntry,
}

E_co = TypeVar("E_co", bound=Entry, covariant=True)


@dataclass(frozen=True, slots=True)
class Located(Generic[E_co]):
    """An entry and where it stands; ``lines`` by field name, counted from 1."""

    entry: E_co
    section: str
    file: Path
    line: int
    lines: Mapping[str, int]

    def fault(self, field: str, reason: str) -> Fault:
        """Return the fault of one field, at its line (the entry's, if the field is not written)."""
        line = self.lines.get(field, self.line)
        return Fault(self.file, line, f"{self.section}.{self.entry.id}.{field}: {reason}")


@dataclass(slots=True)
class Documents:
    """All entries of a directory, and what is wrong with the rest.

    ``broken`` holds the ids, by section, of entries with faults of their own: what refers to them
    is not at fault.
    """

    zones: list[tuple[str, Path, int]]
    entries: list[Located[Entry]]
    faults: list[Fault]
    broken: dict[str, set[str]]

    def of(self, kind: type[E_co]) -> list[Located[E_co]]:
        """Return the entries of one kind in file and line order."""
        return [e for e in self.entries if isinstance(e.entry, kind)]  # type: ignore[misc]


def read_directory(directory: Path) -> Documents:
    """Read every ``*.yaml`` and ``*.yml`` of a directory, in name order, collecting faults."""
    documents = Documents([], [], [], {section: set() for section in SECTIONS})
    files = sorted(p for p in directory.glob("*") if p.suffix in {".yaml", ".yml"})
    if not files:
        documents.faults.append(Fault(directory, 0, "found no file, expected at least one *.yaml"))
    for file in files:
        _read_file(file, documents)
    return documents


def _read_file(file: Path, documents: Documents) -> None:
    try:
        content = YAML(typ="rt").load(file.read_text(encoding="utf-8"))
    except MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        documents.faults.append(Fault(file, line, f"not YAML: {error.problem}"))
        return
    except (YAMLError, UnicodeDecodeError) as error:
        documents.faults.append(Fault(file, 1, f"not YAML: {str(error).splitlines()[0]}"))
        return
    if content is None:
        return
    if not isinstance(content, dict):
        expected = f"zone, {', '.join(SECTIONS)}"
        documents.faults.append(Fault(file, 1, f"found no mapping, expected {expected}"))
        return
    for name, section in content.items():
        _read_section(file, name, section, _line(content, name), documents)


def _read_section(file: Path, name: str, section: Any, line: int, documents: Documents) -> None:
    if name == "zone" and isinstance(section, str):
        documents.zones.append((str(section), file, line))
    elif name not in SECTIONS:
        expected = f"zone, {', '.join(SECTIONS)}"
        documents.faults.append(Fault(file, line, f"found section {name}, expected {expected}"))
    elif not isinstance(section, list):
        documents.faults.append(Fault(file, line, f"{name}: found no list, expected one"))
    else:
        for item in section:
            _read_entry(file, name, item, line, documents)


def _read_entry(file: Path, section: str, item: Any, line: int, documents: Documents) -> None:
    if not isinstance(item, CommentedMap):
        documents.faults.append(Fault(file, line, f"{section}: found {item!r}, expected an entry"))
        return
    entry_line = item.lc.line + 1
    lines = {str(key): _line(item, key) for key in item}
    try:
        entry = SECTIONS[section].model_validate(_plain(item))
    except ValidationError as error:
        documents.broken[section].add(str(item.get("id")))
        name = f"{section}.{item.get('id', '?')}"
        documents.faults += _shape_faults(error, file, name, lines, entry_line)
        return
    documents.entries.append(Located(entry, section, file, entry_line, lines))


def _shape_faults(
    error: ValidationError, file: Path, name: str, lines: Mapping[str, int], entry_line: int
) -> Iterator[Fault]:
    seen = set()
    for detail in error.errors():
        field = str(detail["loc"][0])
        # A field of several types fails once for each of them.
        if field in seen:
            continue
        seen.add(field)
        yield Fault(file, lines.get(field, entry_line), f"{name}.{field}: {_words(detail)}")


def _words(detail: Any) -> str:
    match detail["type"]:
        case "missing":
            return "missing"
        case "extra_forbidden":
            return "unknown field"
    message = str(detail["msg"]).removeprefix("Input should be ").removeprefix("String should ")
    return f"found {detail['input']!r}, expected {message}"


def _line(mapping: Any, key: Any) -> int:
    return int(mapping.lc.key(key)[0]) + 1


def _plain(value: Any) -> Any:
    # Out of the YAML reader's own types; lists become tuples, which strict models ask for.
    match value:
        case dict():
            return {_plain(k): _plain(v) for k, v in value.items()}
        case list():
            return tuple(_plain(v) for v in value)
        case bool():
            return bool(value)
        case int():
            return int(value)
        case float():
            return float(value)
        case str():
            return str(value)
        case _:
            return value
