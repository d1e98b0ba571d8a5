"""Rule files as they are written: shapes and lines, no meaning yet."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Generic, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from processors.kpis import Fault
from processors.rules.definition import ActionType, Approval, Role, Severity

TEST_SUFFIX = ".test.yaml"


def _as_tuple(value: object) -> object:
    return (value,) if isinstance(value, str) else value


Names = Annotated[tuple[str, ...], BeforeValidator(_as_tuple)]
Identifier = Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]*$")]
Text = Annotated[str, Field(min_length=1)]


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class RecipientEntry(_Entry):
    """Who should act."""

    role: Role
    id: str | None = None


class RemedyEntry(_Entry):
    """What may help."""

    module_id: str | None = None
    article_id: str | None = None
    template_id: str | None = None


class MembersEntry(_Entry):
    """How many keys of a subject."""

    by: Names
    at_least: Annotated[int, Field(ge=1)] = 1
    share: Annotated[float, Field(ge=0, le=1)] = 0.0


class ProposalEntry(_Entry):
    """What every rule says."""

    id: Identifier
    version: Annotated[int, Field(ge=1)] = 1
    title: Text
    reason: Text
    action_type: ActionType
    severity: Severity = "WARNING"
    approval: Approval = "SUGGEST"
    recipient: RecipientEntry
    remedy: RemedyEntry = RemedyEntry()
    due_after: str | None = None
    check_after: str | None = None


class RuleEntry(ProposalEntry):
    """A rule over KPIs."""

    scope: str
    window: str
    every: str
    when: Text
    clear: Text | None = None
    guards: Names = ()
    minimum_n: int | Mapping[str, int] | None = None
    sustain: str | None = None
    cooldown: str | None = None
    subject: Names | None = None
    members: MembersEntry | None = None
    inhibited_by: Names = ()
    samples: Mapping[str, str] = {}


class ImmediateEntry(ProposalEntry):
    """A rule over single events."""

    immediate: bool
    source: str
    where: Text
    subject: Names
    kpi: str


E_co = TypeVar("E_co", bound=ProposalEntry, covariant=True)


@dataclass(frozen=True, slots=True)
class Located(Generic[E_co]):
    """An entry and where it stands; ``lines`` by field name, counted from 1."""

    entry: E_co
    file: Path
    lines: Mapping[str, int]

    def fault(self, field: str, reason: str) -> Fault:
        """Return the fault of one field, at its line (the file's first, if it is not written)."""
        return Fault(self.file, self.lines.get(field, 1), f"{self.entry.id}.{field}: {reason}")


def read_directory(directory: Path, faults: list[Fault]) -> list[Located[ProposalEntry]]:
    """Read the rule files of a directory in name order, one rule a file; tests are left out."""
    if not directory.is_dir():
        faults.append(Fault(directory, 0, "found no such directory"))
        return []
    files = sorted(p for p in directory.iterdir() if p.suffix in {".yaml", ".yml"})
    rules = (file for file in files if not file.name.endswith(TEST_SUFFIX))
    located = [_read_file(file, faults) for file in rules]
    return [entry for entry in located if entry is not None]


def read_yaml(file: Path, faults: list[Fault]) -> Any:
    """Return what a file holds, or None and a fault if that is no mapping."""
    try:
        content = YAML(typ="rt").load(file.read_text(encoding="utf-8"))
    except MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        faults.append(Fault(file, line, f"not YAML: {error.problem}"))
        return None
    except (YAMLError, UnicodeDecodeError) as error:
        faults.append(Fault(file, 1, f"not YAML: {str(error).splitlines()[0]}"))
        return None
    if not isinstance(content, dict):
        faults.append(Fault(file, 1, "found no mapping, expected one rule"))
        return None
    return content


def _read_file(file: Path, faults: list[Fault]) -> Located[ProposalEntry] | None:
    content = read_yaml(file, faults)
    if content is None:
        return None
    lines = lines_of(content)
    kind = ImmediateEntry if "immediate" in content else RuleEntry
    try:
        return Located(kind.model_validate(plain(content)), file, lines)
    except ValidationError as error:
        faults += shape_faults(error, file, str(content.get("id", "?")), lines)
        return None


def lines_of(mapping: Any) -> Mapping[str, int]:
    """Return the line of each field of a mapping that was read from YAML."""
    return {str(key): int(mapping.lc.key(key)[0]) + 1 for key in mapping}


def shape_faults(
    error: ValidationError, file: Path, name: str, lines: Mapping[str, int]
) -> Iterator[Fault]:
    """Return one fault for each place that does not fit the model."""
    seen = set()
    for detail in error.errors():
        place = [str(part) for part in detail["loc"]]
        # A field of several types fails once for each of them.
        if place[0] in seen:
            continue
        seen.add(place[0])
        yield Fault(file, lines.get(place[0], 1), f"{name}.{'.'.join(place)}: {_words(detail)}")


def _words(detail: Any) -> str:
    match detail["type"]:
        case "missing":
            return "missing"
        case "extra_forbidden":
            return "unknown field"
    message = str(detail["msg"]).removeprefix("Input should be ").removeprefix("String should ")
    return f"found {detail['input']!r}, expected {message}"


def plain(value: Any) -> Any:
    """Return a value out of the YAML reader's own types; lists become tuples for strict models."""
    match value:
        case dict():
            return {str(k): plain(v) for k, v in value.items()}
        case list():
            return tuple(plain(v) for v in value)
        case bool() | None:
            return value
        case int():
            return int(value)
        case float():
            return float(value)
        case str():
            return str(value)
        case _:
            return value
