"""The generated day: every planted problem leads to its action, and nothing else does."""

from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from processors.actions import immediate_action_records
from processors.kpis import Registry, load_registry
from processors.rules import Firing, GroupState, RuleBook, RuleGroup, advance, load_rules
from schemas.contract import contract_schemas
from streams.sources.generated_day import DEFAULT_SEED, generate_day, planted

DEPLOY = Path(__file__).parents[3] / "deploy"

Found = tuple[str, dict[str, str]]


@cache
def shipped() -> tuple[Registry, RuleBook]:
    registry = load_registry(DEPLOY / "kpis", contract_schemas())
    return registry, load_rules(DEPLOY / "rules", registry)


def columns_of_day(seed: int) -> dict[str, pl.DataFrame]:
    """Return the day's events by source, prepared; restatements come too late for rules."""
    registry, _ = shipped()
    records: dict[str, list] = {}
    for event in generate_day(seed):
        if event.record["version"] == 1:
            records.setdefault(event.contract, []).append(event.record)
    return {
        name: registry.prepare(name, pl.DataFrame(records[source.contract], schema=schema))
        for name, source in registry.sources.items()
        if (schema := contract_schemas()[source.contract])
    }


def sums_by_pane(group: RuleGroup, day: dict[str, pl.DataFrame]) -> pl.DataFrame:
    """Return the sums of each key and tick's pane, all events being on time."""
    registry, _ = shipped()
    pane = (pl.col("event_time") // group.every_ms * group.every_ms).alias("pane")
    key = [pl.col(column).fill_null("") for column in group.scope.key]
    frames = [
        day[source].select(
            *key,
            pane,
            *(
                registry.measures[name].expression
                for name in group.scope.sums
                if registry.measures[name].source == source
            ),
        )
        for source in group.scope.sources
    ]
    sums = pl.concat(frames, how="diagonal").fill_null(0)
    return sums.group_by(*group.scope.key, "pane").agg(pl.col(group.scope.sums).sum())


def firings(group: RuleGroup, panes: pl.DataFrame) -> Iterator[Firing]:
    """Advance the group over the day, and on until the last window is empty.

    panes      |  p0  |  p1  |  p2  |            window of two panes
    ticks             1      2      3     4      5 (empty)
    """
    registry, _ = shipped()
    keys = sorted(set(panes.select(group.scope.key).rows()))
    until = sums_until_tick(group, panes, keys)
    start_ms = int(panes["pane"].to_numpy().min())
    state, size = GroupState(), group.window_ms // group.every_ms
    for tick in range(1, len(until) + size):
        window = until[min(tick, len(until) - 1)] - until[min(max(tick - size, 0), len(until) - 1)]
        kpis = registry.evaluate(group.scope, window, {})
        tick_ms = start_ms + tick * group.every_ms
        outputs = advance(group, state, tick_ms, keys, kpis.values, kpis.n, lambda *_: ())
        yield from (output for output in outputs if isinstance(output, Firing))


def sums_until_tick(group: RuleGroup, panes: pl.DataFrame, keys: list) -> np.ndarray:
    """Return the sums from the first pane on, as array [ticks, keys, sums]."""
    position = {key: i for i, key in enumerate(keys)}
    rows = [position[key] for key in panes.select(group.scope.key).rows()]
    starts = panes["pane"].to_numpy()
    ticks = (starts - starts.min()) // group.every_ms + 1
    sums = np.zeros((ticks.max() + 1, len(keys), len(group.scope.sums)), np.int64)
    sums[ticks, rows] = panes.select(group.scope.sums).to_numpy()
    return sums.cumsum(axis=0)


def found(seed: int) -> Iterator[Found]:
    """Return the rule and subject of all actions of a day."""
    _, book = shipped()
    day = columns_of_day(seed)
    for group in book.groups:
        for firing in firings(group, sums_by_pane(group, day)):
            yield firing.rule.id, dict(firing.subject)
    for source, frame in day.items():
        for rule in book.immediate(source):
            for row in frame.filter(rule.expression).iter_rows(named=True):
                for record in immediate_action_records(rule, {1: [row]}, (), 0):
                    subject = {part["name"]: part["value"] for part in record["subject"]["key"]}
                    yield rule.id, subject


@pytest.mark.parametrize("seed", [DEFAULT_SEED])
def test_a_generated_day_leads_to_the_planted_actions_and_no_others(seed):
    """Looked at at every tick, until the windows have emptied again."""
    expected = sorted((p.rule_id, sorted(p.subject.items())) for p in planted(seed))
    columns = {p.rule_id: set(p.subject) for p in planted(seed)}

    assert expected == sorted(
        (rule_id, sorted((k, v) for k, v in subject.items() if k in columns.get(rule_id, subject)))
        for rule_id, subject in found(seed)
    )
