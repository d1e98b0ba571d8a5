"""Boards as data: which numbers hang on which wall."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints
from pydantic import ValidationError as Invalid
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError

_UNIT_MS = {"s": 1_000, "m": 60_000, "h": 3_600_000}
_PERSONAL = frozenset({"agent", "member"})


class BoardError(Exception):
    """Boards that cannot be shown; `faults` holds every one of them with file and line."""

    exit_code = 2
    next_step = "correct the board files; deploy/boards/default.yaml shows the form"

    def __init__(self, faults: Sequence[str]) -> None:
        self.faults = tuple(faults)
        super().__init__("\n  ".join(["boards refused:", *faults]))


@dataclass(frozen=True, slots=True)
class Window:
    """A kind of window, as boards and the registry write it: `30m`, `5m/1m` or `day`.

    `hop_ms` is the step from one window's start to the next one's; None for a calendar day.
    """

    text: str
    kind: Literal["TUMBLING", "HOPPING", "DAY"]
    size_ms: int
    hop_ms: int | None

    @property
    def name(self) -> str:
        """The window as it stands in the key of a KPI record.

        >>> Window.parse("5m/1m").name
        'HOPPING:300000'
        """
        return f"{self.kind}:{self.size_ms}"

    @classmethod
    def parse(cls, text: Any) -> "Window":
        """Read a window; raise ValueError that says what is expected."""
        if isinstance(text, cls):
            return text
        if text == "day":
            return cls("day", "DAY", 24 * 3_600_000, None)
        size, slash, hop = str(text).partition("/")
        size_ms = duration_ms(size)
        if not slash:
            return cls(text, "TUMBLING", size_ms, size_ms)
        return cls(text, "HOPPING", size_ms, duration_ms(hop))

    def current_start_ms(self, newest_start_ms: int) -> int:
        """Return the start of the window to show, given that of the newest window with any data.

        A hopping window opens long before it is full: the fullest that still takes data is shown.
        """
        if self.kind == "HOPPING" and self.hop_ms is not None:
            return newest_start_ms - self.size_ms + self.hop_ms
        return newest_start_ms

    def previous_start_ms(self, start_ms: int) -> int | None:
        """Return the start of the window before; None where none can stand in for this one."""
        return start_ms - self.size_ms if self.kind == "TUMBLING" else None


def duration_ms(text: Any) -> int:
    """Return milliseconds; raise ValueError.

    >>> duration_ms("30m")
    1800000
    """
    found = re.fullmatch(r"(\d+)(s|m|h)", str(text))
    if not found:
        raise ValueError(f"{text}: expected a duration such as 30s, 15m or 1h")
    return int(found[1]) * _UNIT_MS[found[2]]


def _public_scope(scope: str) -> str:
    if _PERSONAL & set(scope.split("_")):
        raise ValueError(f"{scope}: boards show queues, teams and the whole, expected no person")
    return scope


_Id = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_-]*$")]
_Scope = Annotated[_Id, BeforeValidator(_public_scope)]
_Window = Annotated[Window, BeforeValidator(Window.parse)]
_Duration = Annotated[int, BeforeValidator(duration_ms)]
_FORM = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)


class Column(BaseModel):
    """One KPI: which, under what label, and which way is better (shown as at least or at most)."""

    model_config = _FORM

    kpi: _Id
    label: str = ""
    caption: str = ""
    better: Literal["higher", "lower"] | None = None


class Tile(Column):
    """A KPI of one key and window, large. `key` holds the key's values in the scope's order."""

    scope: _Scope = "overall"
    key: tuple[str, ...] = ()
    window: _Window
    sparkline: _Window | None = None


class Rows(BaseModel):
    """A table with a row for every key of a scope; its keys are also the page's filter."""

    model_config = _FORM

    title: str
    scope: _Scope
    window: _Window
    columns: Annotated[tuple[Column, ...], Field(min_length=1, max_length=8)]


class Actions(BaseModel):
    """The list of recent actions."""

    model_config = _FORM

    title: str = "Actions"
    show: Annotated[int, Field(ge=1, le=50)] = 6


class Board(BaseModel):
    """A page: tiles, rows and actions. Values older than `stale_after` are marked."""

    model_config = _FORM

    title: str
    notice: str = ""
    stale_after: _Duration = 60_000
    sparkline: _Window | None = None
    tiles: Annotated[tuple[Tile, ...], Field(min_length=1, max_length=12)]
    rows: Rows | None = None
    actions: Actions | None = None


def load_boards(directory: Path) -> Mapping[str, Board]:
    """Return the boards of a directory by name, which is the file's; raise BoardError."""
    faults: list[str] = []
    boards: dict[str, Board] = {}
    paths = sorted(directory.glob("*.yaml"))
    if not paths:
        faults.append(f"{directory}: no *.yaml, expected at least one board")
    for path in paths:
        try:
            data = YAML().load(path)
            boards[path.stem] = Board.model_validate(data)
        except MarkedYAMLError as problem:
            line = problem.problem_mark.line + 1 if problem.problem_mark else 1
            faults.append(f"{path.name}:{line}: {problem.problem}")
        except Invalid as problem:
            faults += [_fault(path, data, error) for error in _own(problem.errors())]
    if faults:
        raise BoardError(faults)
    return boards


def _own(errors: Sequence[Any]) -> list[Any]:
    """Return the errors without "too short": a list whose items are all refused is not empty."""
    places = {error["loc"][:1] for error in errors if len(error["loc"]) > 1}
    return [e for e in errors if e["type"] != "too_short" or e["loc"] not in places]


def _fault(path: Path, data: Any, error: Mapping[str, Any]) -> str:
    where = ".".join(map(str, error["loc"])) or "board"
    words = error["msg"].removeprefix("Value error, ")
    return f"{path.name}:{_line(data, error['loc'])}: {where}: {words[:1].lower()}{words[1:]}"


def _line(data: Any, location: Sequence[str | int]) -> int:
    """Return the line of the innermost thing on the way that the file has."""
    line = 1
    for step in location:
        try:
            line = data.lc.data[step][0] + 1
            data = data[step]
        except (AttributeError, KeyError, IndexError, TypeError):
            break
    return line
