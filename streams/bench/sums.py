"""What all engines must come to: eight sums by scope, key and minute, recomputed from the load.

Neither a broker nor a codec has a part in it, nor any code of the product's fold: the columns of
the load are added up in SQL.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

import duckdb
import pyarrow as pa

from streams.bench.load import parts
from streams.bench.scenarios import Scenario

SUMS: Final = (
    *("events", "offered", "answered", "answered_within_threshold"),
    *("wait_ms", "talk_ms", "hold_ms", "after_contact_work_ms"),
)

Cell = tuple[str, str, int]
"""Scope, key, and when the window begins, ms."""

Cells = dict[Cell, tuple[int, ...]]
"""The eight sums by cell."""

_CHUNK: Final = 100_000
_KEYS: Final = {
    "overall": "'all'",
    **{scope: f"{scope}_id" for scope in ("queue", "team", "issue", "agent")},
}
_COLUMNS: Final = (
    *("event_time", "event_type", "queue_id", "team_id", "issue_id", "agent_id"),
    *("queue_wait_ms", "talk_ms", "hold_ms", "after_contact_work_ms"),
)
_QUERY: Final = """
    SELECT {key}, event_time // 60000 * 60000,
           count(*),
           count(*) FILTER (event_type = 'OFFERED'),
           count(*) FILTER (event_type = 'ANSWERED'),
           count(*) FILTER (event_type = 'ANSWERED' AND queue_wait_ms <= 20000),
           coalesce(sum(queue_wait_ms) FILTER (event_type = 'ANSWERED'), 0)::BIGINT,
           coalesce(sum(talk_ms) FILTER (event_type = 'COMPLETED'), 0)::BIGINT,
           coalesce(sum(hold_ms) FILTER (event_type = 'COMPLETED'), 0)::BIGINT,
           coalesce(sum(after_contact_work_ms) FILTER (event_type = 'COMPLETED'), 0)::BIGINT
    FROM load WHERE {key} IS NOT NULL GROUP BY ALL
"""
#: Of a key: scope, name, window.
_PLACES: Final = 3
_SHOWN: Final = 3


class Unreadable(Exception):
    """What a peer has sent is not what it should send; the text says where and what."""


class Expected:
    """The sums of a scenario's first events, for as many of them as somebody asks."""

    def __init__(self, scenario: Scenario) -> None:
        if scenario.per_hundred.keys() != {"interaction"}:
            raise ValueError(f"{scenario.id}: {dict(scenario.per_hundred)}, expected interactions")
        self.scenario = scenario
        self._cells: dict[int, Cells] = {}

    def cells(self, events: int) -> Cells:
        """Return the cells of the first so many events."""
        if events not in self._cells:
            self._cells[events] = _added_up(self._load(events))
        return self._cells[events]

    def updates(self, events: int) -> int:
        """Return how many sums those events change: each counts in up to five scopes."""
        return sum(sums[0] for sums in self.cells(events).values())

    def _load(self, events: int) -> pa.Table:
        chosen = self.scenario
        return pa.Table.from_batches(
            part.columns.select(_COLUMNS)
            for start in range(0, events, _CHUNK)
            for part in parts(
                chosen.seed,
                chosen.per_hundred,
                start,
                min(events, start + _CHUNK),
                chosen.per_second,
                chosen.variant,
            )
        )


def _added_up(load: pa.Table) -> Cells:
    with duckdb.connect() as database:
        database.register("load", load)
        return {
            (scope, key, window_ms): tuple(sums)
            for scope, column in _KEYS.items()
            for key, window_ms, *sums in database.execute(_QUERY.format(key=column)).fetchall()
        }


def found_cells(records: Iterable[tuple[bytes | None, bytes | None]]) -> Cells:
    """Return what records of updates leave in the end, from their Kafka keys and values.

    A key is `scope|key|window`, perhaps with a further part: what differs in it alone is added up.
    A value is the eight sums, or an object with `start` and `value` where the engine has a form of
    its own; the window is no part of the key then. Of equal keys the last record counts. Raise
    Unreadable.
    """
    newest: dict[tuple[str, int | None], bytes] = {}
    for key, value in records:
        if key is None or value is None:
            continue
        name = key.decode().strip('"')
        newest[name, json.loads(value)["start"] if value[:1] == b"{" else None] = value
    cells: Cells = {}
    for (name, start_ms), value in newest.items():
        cell, sums = _read(name, start_ms, json.loads(value))
        before = cells.get(cell)
        cells[cell] = sums if before is None else _both(before, sums)
    return cells


def _read(name: str, start_ms: int | None, told: object) -> tuple[Cell, tuple[int, ...]]:
    sums = told["value"] if isinstance(told, dict) else told
    places = name.split("|")
    if start_ms is not None:
        places.insert(2, str(start_ms))
    if len(places) < _PLACES or not isinstance(sums, list) or len(sums) != len(SUMS):
        raise Unreadable(f"{name}: {told}, expected {len(SUMS)} sums of scope|key|window")
    return (places[0], places[1], int(places[2])), tuple(sums)


def _both(one: tuple[int, ...], other: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(a + b for a, b in zip(one, other, strict=True))


def totals(cells: Mapping[Cell, tuple[int, ...]]) -> dict[str, list[int]]:
    """Return the eight sums of each scope over all keys and windows."""
    found: dict[str, tuple[int, ...]] = {}
    for (scope, _, _), sums in cells.items():
        found[scope] = _both(found.get(scope, (0,) * len(SUMS)), sums)
    return {scope: list(sums) for scope, sums in sorted(found.items())}


def differences(found: Cells, expected: Cells) -> Iterator[str]:
    """Yield for each scope that is not right how many cells differ, and the first of them."""
    for scope in _KEYS:
        wrong = sorted(
            cell
            for cell in found.keys() | expected.keys()
            if cell[0] == scope and found.get(cell) != expected.get(cell)
        )
        if wrong:
            first = "; ".join(
                f"{key} at {window_ms}: {_shown(found.get((scope, key, window_ms)))},"
                f" expected {_shown(expected.get((scope, key, window_ms)))}"
                for _, key, window_ms in wrong[:_SHOWN]
            )
            yield f"{scope}: {len(wrong)} sums differ, first {first}"
    if unknown := {scope for scope, _, _ in found} - _KEYS.keys():
        yield f"scopes: {sorted(unknown)}, expected {list(_KEYS)}"


def _shown(sums: tuple[int, ...] | None) -> str:
    return "nothing" if sums is None else str(list(sums))
