"""Tests of rules as data: figures over time in, the decisions that must follow out.

A rule `NAME.yaml` has its cases in `NAME.test.yaml` beside it. Times are hours and minutes of a
day, and may go on after 24:00.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import numpy as np
import polars as pl
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from processors.actions import immediate_action_records
from processors.kpis import Fault, Registry
from processors.rules.definition import (
    Firing,
    ImmediateRule,
    Key,
    Named,
    Rule,
    RuleBook,
    RuleGroup,
)
from processors.rules.documents import TEST_SUFFIX, lines_of, plain, read_yaml, shape_faults
from processors.rules.lifecycle import GroupState, advance

DAY_START_MS: Final = 1_704_067_200_000  # 1 January 2024; what day it is makes no difference

Time = Annotated[str, Field(pattern=r"^\d{2,3}:[0-5]\d$")]
Columns = Mapping[str, str]


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Figure(_Entry):
    """Value and n of a KPI; no value is null."""

    value: float | None = None
    n: int


class Stretch(_Entry):
    """The figures of some keys at the ticks from ``start``, inclusive, to ``end``, exclusive."""

    start: Time = Field(alias="from")
    end: Time = Field(alias="to")
    keys: tuple[tuple[str, ...], ...]
    kpis: Mapping[str, Figure]


class Expected(_Entry):
    """A decision: to act, or not to with the reason of the suppression."""

    at: Time
    decision: Literal["ACTION", "TOO_FEW", "COOLDOWN", "GUARD"]
    subject: Columns


class Case(_Entry):
    """One story of a rule, over figures or, for an immediate rule, events."""

    it: str
    figures: tuple[Stretch, ...] = ()
    events: tuple[Mapping[str, Any], ...] = ()
    expect: tuple[Expected, ...] = ()


class CaseFile(_Entry):
    """The cases of one rule."""

    rule: str
    cases: tuple[Case, ...]


@dataclass(frozen=True, slots=True)
class Checked:
    """What the cases of a directory showed: how many ran, rules without any, and the faults."""

    cases: int
    untested: tuple[str, ...]
    faults: tuple[Fault, ...]


def check_cases(directory: Path, book: RuleBook, registry: Registry) -> Checked:
    """Run the cases of all rules of a directory."""
    faults: list[Fault] = []
    files = sorted(directory.glob(f"*{TEST_SUFFIX}"))
    located = [found for file in files if (found := _read(file, faults)) is not None]
    for found in located:
        faults += _run(found, book, registry)
    tested = {found.content.rule for found in located}
    return Checked(
        cases=sum(len(found.content.cases) for found in located),
        untested=tuple(sorted({rule.id for rule in book.rules} - tested)),
        faults=tuple(faults),
    )


@dataclass(frozen=True, slots=True)
class _Located:
    content: CaseFile
    file: Path
    lines: tuple[int, ...]


def _read(file: Path, faults: list[Fault]) -> _Located | None:
    content = read_yaml(file, faults)
    if content is None:
        return None
    try:
        cases = CaseFile.model_validate(plain(content))
    except ValidationError as error:
        faults += shape_faults(error, file, file.name, lines_of(content))
        return None
    at = content["cases"].lc
    return _Located(cases, file, tuple(at.item(i)[0] + 1 for i in range(len(cases.cases))))


def _run(located: _Located, book: RuleBook, registry: Registry) -> Iterator[Fault]:
    name = located.content.rule
    if name not in {rule.id for rule in book.rules}:
        yield Fault(located.file, 1, f"rule: found unknown rule {name}")
        return
    for case, line in zip(located.content.cases, located.lines, strict=True):
        for problem in _problems(case, book, name, registry):
            yield Fault(located.file, line, f"{case.it}: {problem}")


def _problems(case: Case, book: RuleBook, name: str, registry: Registry) -> Iterator[str]:
    try:
        found = decisions(case, book, book.rule(name), registry)
    except ValueError as error:
        yield str(error)
        return
    yield from _differences(case, found)


def _differences(case: Case, found: Sequence[Expected]) -> Iterator[str]:
    missing = list(case.expect)
    for decision in found:
        if decision in missing:
            missing.remove(decision)
        else:
            yield f"found {_words(decision)}, which is not expected"
    yield from (f"expected {_words(decision)}, which is missing" for decision in missing)


def _words(decision: Expected) -> str:
    subject = ", ".join(f"{name} {value}" for name, value in decision.subject.items())
    return f"{decision.decision} at {decision.at} for {subject}"


def decisions(
    case: Case, book: RuleBook, rule: Rule | ImmediateRule, registry: Registry
) -> list[Expected]:
    """Return what the rule decides in a case; the rules beside it run too, for what they inhibit.

    Raises ValueError where the case does not fit the rule.
    """
    if isinstance(rule, ImmediateRule):
        return _immediate_decisions(case, rule, registry)
    group = next(group for group in book.groups if rule in group.rules)
    state = GroupState()
    found = []
    for tick_ms in _ticks(case.figures, group.every_ms):
        keys, values, n = _figures_at(case.figures, tick_ms, group)
        for output in advance(group, state, tick_ms, keys, values, n, lambda *_: ()):
            if output.rule == rule:
                kind = "ACTION" if isinstance(output, Firing) else output.reason
                found.append(_decision(output.tick_ms, kind, output.subject))
    return found


def _decision(at_ms: int, kind: Any, subject: Named) -> Expected:
    minutes = (at_ms - DAY_START_MS) // 60_000
    at = f"{minutes // 60:02d}:{minutes % 60:02d}"
    return Expected(at=at, decision=kind, subject=dict(subject))


def _time_ms(text: str) -> int:
    hours, minutes = text.split(":")
    return DAY_START_MS + (int(hours) * 60 + int(minutes)) * 60_000


def _ticks(figures: Sequence[Stretch], every_ms: int) -> Iterable[int]:
    if not figures:
        raise ValueError("found no figures, expected some: the rule looks at KPIs")
    start_ms = min(_time_ms(stretch.start) for stretch in figures)
    end_ms = max(_time_ms(stretch.end) for stretch in figures)
    first_ms = -(-start_ms // every_ms) * every_ms
    # One tick on, where nothing has data any more.
    return range(first_ms, end_ms + every_ms + 1, every_ms)


def _figures_at(
    figures: Sequence[Stretch], tick_ms: int, group: RuleGroup
) -> tuple[list[Key], np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    current: dict[Key, Mapping[str, Figure]] = {}
    for stretch in figures:
        if _time_ms(stretch.start) <= tick_ms < _time_ms(stretch.end):
            for key in stretch.keys:
                current[_checked(key, group)] = {**current.get(key, {}), **stretch.kpis}
    at = {kpi.id: i for i, kpi in enumerate(group.scope.kpis)}
    values = np.full((len(current), len(at)), np.nan)
    n = np.zeros((len(current), len(at)), np.int64)
    for row, kpis in enumerate(current.values()):
        for name, figure in kpis.items():
            if name not in at:
                raise ValueError(f"found KPI {name}, which {group.scope.id} has not")
            values[row, at[name]] = np.nan if figure.value is None else figure.value
            n[row, at[name]] = figure.n
    return list(current), values, n


def _checked(key: Key, group: RuleGroup) -> Key:
    if len(key) != len(group.scope.key):
        raise ValueError(f"found key {key}, expected {', '.join(group.scope.key)}")
    return key


def _immediate_decisions(case: Case, rule: ImmediateRule, registry: Registry) -> list[Expected]:
    if not case.events:
        raise ValueError("found no events, expected some: the rule is immediate")
    schema = registry.sources[rule.source].schema
    rows = [_row(event, schema) for event in case.events]
    met = pl.DataFrame(rows, schema=schema).filter(rule.expression).to_dicts()
    records = [r for row in met for r in immediate_action_records(rule, {1: [row]}, (), 0)]
    return [
        _decision(
            r["event_time"], "ACTION", tuple((p["name"], p["value"]) for p in r["subject"]["key"])
        )
        for r in {r["action_id"]: r for r in records}.values()
    ]


def _row(event: Mapping[str, Any], schema: pl.Schema) -> dict[str, Any]:
    unknown = event.keys() - schema.keys() - {"at"}
    if unknown:
        raise ValueError(f"found {', '.join(sorted(unknown))}, which no event of the source has")
    row = {name: event.get(name) for name in schema}
    return {**row, "event_time": _time_ms(str(event.get("at", "00:00")))}
