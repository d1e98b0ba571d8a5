"""The shipped rules over the generated day: each planted problem fires once, and nothing else.

The figures are summed here by a plain loop over panes, without fold, merge, Kafka or lateness.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from processors.kpis import Registry, Scope, load_registry
from processors.rules import Firing, GroupState, RuleBook, RuleGroup, advance, load_rules
from schemas.contract import contract_schemas
from streams.sources.events import SourceEvent
from streams.sources.generated_day import DEFAULT_SEED, generate_day, planted

DEPLOY = Path(__file__).parents[3] / "deploy"
CONTRACTS = {"interactions": "interaction", "surveys": "survey"}


@dataclass(frozen=True)
class Panes:
    """Sums by pane and key of one scope, in the order of time."""

    keys: list[tuple[str, ...]]
    start_ms: np.ndarray
    key: np.ndarray
    sums: np.ndarray


@pytest.fixture(scope="module")
def registry() -> Registry:
    return load_registry(DEPLOY / "kpis", contract_schemas())


@pytest.fixture(scope="module")
def rules(registry) -> RuleBook:
    return load_rules(DEPLOY / "rules", registry)


@pytest.fixture(scope="module")
def sources(registry) -> dict[str, pl.DataFrame]:
    day = generate_day()
    return {name: prepared(registry, name, day) for name in registry.sources}


def prepared(registry: Registry, source: str, day: list[SourceEvent]) -> pl.DataFrame:
    contract = CONTRACTS.get(source, "evaluation")
    # Restatements come too late for rules, and what they take back was decided before.
    stated = [event.record for event in day if event.contract == contract]
    records = [record for record in stated if record["version"] == 1]
    schema = contract_schemas()[contract]
    return registry.prepare(source, pl.DataFrame(records, schema=schema, orient="row"))


def panes_of(registry: Registry, scope: Scope, sources: dict[str, pl.DataFrame]) -> Panes:
    start = (pl.col("event_time") // scope.pane_ms * scope.pane_ms).alias("start_ms")
    pieces = [
        sources[source].select(
            start,
            *(pl.col(name).fill_null("") for name in scope.key),
            *(
                registry.measures[name].expression.alias(name)
                if registry.measures[name].source == source
                else pl.lit(0, pl.Int64).alias(name)
                for name in scope.sums
            ),
        )
        for source in scope.sources
    ]
    sums = pl.concat(pieces).group_by("start_ms", *scope.key).sum().sort("start_ms", *scope.key)
    keys = sums.select(scope.key).unique().sort(scope.key).with_row_index("number")
    numbered = sums.join(keys, on=list(scope.key), maintain_order="left")
    return Panes(
        [row[1:] for row in keys.rows()],
        numbered["start_ms"].to_numpy(),
        numbered["number"].to_numpy(),
        numbered.select(scope.sums).to_numpy(),
    )


def firings(registry: Registry, group: RuleGroup, panes: Panes) -> Iterator[Firing]:
    sums = np.zeros((len(panes.keys), panes.sums.shape[1]), np.int64)
    held = np.zeros(len(panes.keys), np.int64)
    state = GroupState()
    first = last = 0
    begin = panes.start_ms[0] // group.every_ms * group.every_ms
    end = panes.start_ms[-1] + group.window_ms + 2 * group.every_ms
    for tick_ms in range(int(begin), int(end), group.every_ms):
        new_last = np.searchsorted(panes.start_ms, tick_ms)
        new_first = np.searchsorted(panes.start_ms, tick_ms - group.window_ms)
        for rows, sign in ((slice(last, new_last), 1), (slice(first, new_first), -1)):
            np.add.at(sums, panes.key[rows], sign * panes.sums[rows])
            np.add.at(held, panes.key[rows], sign)
        first, last = new_first, new_last
        rows = np.flatnonzero(held)
        kpis = registry.evaluate(group.scope, sums[rows], {})
        keys = [panes.keys[row] for row in rows]
        decided = advance(group, state, tick_ms, keys, kpis.values, kpis.n, lambda *_: [])
        yield from (decision for decision in decided if isinstance(decision, Firing))


def test_the_shipped_rules_find_each_planted_problem_once_and_nothing_else(
    registry, rules, sources
):
    """Each planted problem leads to one decision of its rule; no rule decides anything else."""
    found = [
        (firing.rule.id, dict(firing.subject))
        for group in rules.groups
        for firing in firings(registry, group, panes_of(registry, group.scope, sources))
    ]
    for source, events in sources.items():
        for rule in rules.immediate(source):
            subjects = events.filter(rule.expression).select(rule.subject)
            found += [(rule.id, subject) for subject in subjects.iter_rows(named=True)]
    unmatched = list(found)
    for problem in planted(DEFAULT_SEED):
        matches = [
            each
            for each in unmatched
            if each[0] == problem.rule_id and problem.subject.items() <= each[1].items()
        ]
        assert 1 == len(matches), (problem, found)
        unmatched.remove(matches[0])

    assert [] == unmatched
