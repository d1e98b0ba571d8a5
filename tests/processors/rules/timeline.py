"""A small centre of teams and agents, and rules played over its figures by the minute."""

import json
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from processors.kpis import Registry, load_registry
from processors.rules import Firing, GroupState, RuleBook, Sample, Suppressed, advance, load_rules
from schemas.contract import contract_schemas

KPIS = """
scopes:
  - id: agent
    key: [agent_id]
    attributes: [team_id]
    sources: [evaluations, surveys]
    pane: 1m
    windows: [day]
  - id: member
    key: [team_id, agent_id]
    sources: [evaluations, surveys]
    pane: 1m
    windows: [day]
measures:
  - {id: count, source: evaluations, value: "status = 'SUBMITTED'"}
  - {id: points, source: evaluations, value: score_percent, precision: 0.01}
  - {id: answers, source: surveys, value: "csat IS NOT NULL"}
  - {id: satisfied, source: surveys, value: "csat >= 4"}
samples:
  - {id: low, source: evaluations, where: "score_percent < 50"}
  - {id: calls, source: interactions, where: "event_type = 'COMPLETED'"}
kpis:
  - id: quality
    title: Quality
    unit: percent
    scale: 1
    numerator: points
    denominator: count
    target: 80
    minimum_n: 3
  - {id: csat, title: CSAT, unit: percent, numerator: satisfied, denominator: answers, version: 4}
  - {id: reviews, title: Reviews, unit: count, numerator: count}
"""

COMMON = {
    "title": "T",
    "reason": "R",
    "action_type": "COACHING",
    "recipient": "{role: TEAM_LEAD}",
    "scope": "agent",
    "window": "10m",
    "every": "1m",
    "when": "quality < 60.0",
}

Row = tuple[float | None, int]
Tick = Mapping[tuple[str, ...], Mapping[str, Row]]


@cache
def registry() -> Registry:
    """Load the small registry."""
    with TemporaryDirectory() as directory:
        (Path(directory) / "kpis.yaml").write_text(KPIS)
        return load_registry(Path(directory), contract_schemas())


def write_rule(directory: Path, name: str, **fields: str) -> Path:
    """Write a rule: the common fields, changed by ``fields``; an empty one is left out."""
    directory.mkdir(parents=True, exist_ok=True)
    content = {"id": name, **COMMON, **fields}
    file = directory / f"{name}.yaml"
    file.write_text("".join(f"{key}: {value}\n" for key, value in content.items() if value))
    return file


def rule_book(tmp_path: Path, **rules: Mapping[str, str]) -> RuleBook:
    """Load rules, by their names with _ for -, over the small registry."""
    for name, fields in rules.items():
        write_rule(tmp_path / "rules", name.replace("_", "-"), **fields)
    return load_rules(tmp_path / "rules", registry())


def no_samples(key: Any, sample_id: str) -> Sequence[Sample]:
    """Nothing was kept."""
    return ()


def play(
    book: RuleBook,
    ticks: Mapping[int, Tick],
    *,
    state: GroupState | None = None,
    saved_at: Sequence[int] = (),
    reverse: bool = False,
) -> list[Firing | Suppressed]:
    """Advance the book's one group over ticks, given by minute; return all that it decides.

    ``saved_at`` are minutes before which the state is saved as JSON and loaded again.
    """
    (group,) = book.groups
    state = state or GroupState()
    position = {kpi.id: i for i, kpi in enumerate(group.scope.kpis)}
    outputs = []
    for minute, rows in ticks.items():
        if minute in saved_at:
            state = GroupState.load(json.loads(json.dumps(state.dump())))
        keys = sorted(rows, reverse=reverse)
        values = np.full((len(keys), len(position)), np.nan)
        n = np.zeros((len(keys), len(position)), np.int64)
        for i, key in enumerate(keys):
            for kpi, (value, count) in rows[key].items():
                values[i, position[kpi]] = np.nan if value is None else value
                n[i, position[kpi]] = count
        outputs += advance(group, state, minute * 60_000, keys, values, n, no_samples)
    return outputs


def quality(*values: float | None, n: int = 10, key: tuple[str, ...] = ("A1",)) -> dict[int, Tick]:
    """Return ticks from minute 1 on, with one key's quality at each; None is an absent key."""
    return {
        minute: {} if value is None else {key: {"quality": (value, n)}}
        for minute, value in enumerate(values, start=1)
    }


def told(outputs: Sequence[Firing | Suppressed]) -> list[tuple[int, str, str]]:
    """Return minute, decision and subject of each output."""
    return [
        (
            output.tick_ms // 60_000,
            "ACTION" if isinstance(output, Firing) else output.reason,
            " ".join(value for _, value in output.subject),
        )
        for output in outputs
    ]
