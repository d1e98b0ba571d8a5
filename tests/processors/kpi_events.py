"""Events and their KPIs, without a stream: one key, one window."""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from processors.histogram import SparseCounts, bucket_of
from processors.kpis import KPI_STATES, Registry, load_registry
from schemas.contract import contract_schemas, load_contract

SHIPPED = Path(__file__).parents[2] / "deploy" / "kpis"
REFERENCE_JOB = Path(__file__).parents[2] / "deploy" / "bench" / "kpis"

_USUAL: Mapping[str, Mapping[str, Any]] = {
    "interaction": {"handler": "HUMAN", "channel": "VOICE", "direction": "INBOUND"},
    "survey": {"event_type": "ANSWERED"},
    "evaluation": {
        "status": "SUBMITTED",
        "purpose": "REGULAR",
        "evaluator_kind": "HUMAN",
        "auto_failed": False,
        "items": [],
    },
}


@cache
def shipped() -> Registry:
    return load_registry(SHIPPED, contract_schemas())


def events(contract: str, *groups: Mapping[str, Any]) -> pl.DataFrame:
    """Return a decoded frame; each group gives ``times`` (default 1) equal events."""
    rows = []
    for group in groups:
        row = {"event_id": "e", "version": 1, "event_time": 0, **_USUAL[contract], **group}
        rows += [row] * row.pop("times", 1)
    return pl.DataFrame(rows, schema=load_contract(contract).columns, strict=False)


def interactions(*groups: Mapping[str, Any]) -> pl.DataFrame:
    return events("interaction", *groups)


def surveys(*groups: Mapping[str, Any]) -> pl.DataFrame:
    return events("survey", *groups)


def evaluations(*groups: Mapping[str, Any]) -> pl.DataFrame:
    return events("evaluation", *groups)


def kpis(
    registry: Registry, scope_id: str, frames: Mapping[str, pl.DataFrame]
) -> dict[str, tuple[float | None, int, str]]:
    """Return value, n and state of every KPI of the scope over all events of the frames."""
    scope = registry.scope(scope_id)
    sums = dict.fromkeys(scope.sums, 0)
    histograms: dict[str, SparseCounts] = {}
    for source, frame in frames.items():
        prepared = registry.prepare(source, frame)
        for measure in registry.measures.values():
            if measure.source != source:
                continue
            column = prepared.select(measure.expression).to_series()
            if measure.id in sums:
                sums[measure.id] = column.sum()
            elif measure.id in scope.histograms:
                buckets = bucket_of(column.drop_nulls().to_numpy())
                found = zip(*np.unique(buckets, return_counts=True), strict=True)
                entries = [(0, int(bucket), int(count)) for bucket, count in found]
                histograms[measure.id] = SparseCounts.of(entries, 1)
    row = np.array([list(sums.values())], dtype=np.int64)
    columns = registry.evaluate(scope, row, histograms)
    return {
        kpi.id: (None if np.isnan(value) else float(value), int(n), KPI_STATES[state])
        for kpi, value, n, state in zip(
            scope.kpis, columns.values[0], columns.n[0], columns.states[0], strict=True
        )
    }


def values(
    registry: Registry, scope_id: str, frames: Mapping[str, pl.DataFrame], *ids: str
) -> dict[str, float | None]:
    """Return the values of some KPIs, rounded to nine decimals."""
    found = kpis(registry, scope_id, frames)
    wanted = {name: found[name][0] for name in ids}
    return {name: None if v is None else round(v, 9) for name, v in wanted.items()}
