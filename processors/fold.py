"""Fold: the events of a source become partials, what they add to each key and pane.

Two steps. :func:`admit` decides about each record of one partition, in its order: dead, expired,
duplicate or applied. :func:`fold` groups the applied events of any number of partitions and adds
their measures up. Both are functions of a prefix of each partition: neither batch boundaries nor
the clock change what comes out.

Where an event restates an earlier one, :func:`with_earlier` puts that one beside it, to be added
with the weight -1: all that is added up is whole numbers, so what is taken back leaves no trace. It
is taken back with the watermark of the restatement. So rules either see both or go on knowing what
they knew: what is on time now was on time before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from math import gcd
from typing import Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from processors import histogram
from processors.dedupe import BUCKET_MS, SeenIds, hash_ids
from processors.keys import KEY_SEPARATOR
from processors.kpis import Measure, Registry, Sample, Scope
from processors.versions import Earlier, KeptVersions
from processors.watermark import BEFORE_ALL_MS, Lateness, expired, running_watermarks
from processors.windows import ZONE_STEP_MS

#: Column of the prepared events: the watermark of their own partition just before them.
WATERMARK = "_watermark"

#: Column of the events of a restatable topic: 1 for one that counts, -1 for the version that it
#: takes back, 0 for those that were taken back before. Without the column all count.
WEIGHT = "_weight"

SectionKind = Literal["sums", "histogram", "samples"]

#: Up to so many events, polars' engine for what fits in memory takes half of what the other takes
#: to be set up; from many more on it takes longer.
FEW_EVENTS = 50_000


@dataclass(slots=True)
class Account:
    """Where the records of one partition went; the counts add up at any moment."""

    consumed: int = 0
    applied: int = 0
    duplicates: int = 0
    expired: int = 0
    dead_lettered: int = 0


@dataclass(slots=True)
class SourceState:
    """State of one source partition: all that a prefix of it leaves behind.

    ``seen`` is that of topics whose events come in one version, ``versions`` that of the others.
    """

    position: int = 0
    watermark_ms: int = BEFORE_ALL_MS
    account: Account = field(default_factory=Account)
    seen: SeenIds = field(default_factory=SeenIds)
    versions: KeptVersions = field(default_factory=KeptVersions)

    def advance(self, watermark_ms: int) -> None:
        """Apply a logged advance of the watermark at this position."""
        self.watermark_ms = max(self.watermark_ms, watermark_ms)


@dataclass(frozen=True, slots=True)
class Admission:
    """What became of a stretch of records: rows of the decoded frame, by outcome.

    ``watermarks`` holds, for each row of the frame, the watermark just before it. ``earlier`` has,
    for each applied row that restates, the records of the versions before it, the lowest first.
    """

    applied: NDArray[np.bool_]
    expired: NDArray[np.bool_]
    watermarks: NDArray[np.int64]
    earlier: Earlier = field(default_factory=dict)


def admit(
    state: SourceState,
    frame: pl.DataFrame,
    consumed: int,
    lateness: Lateness,
    records: Sequence[bytes] | None = None,
    advances: Iterable[tuple[int, int]] = (),
) -> Admission:
    """Decide about the decoded records of a stretch of one partition, and move the state on.

    ``frame`` holds the valid records in their order, ``consumed`` counts these and the dead ones.
    ``records`` are the rows in a form to be kept, of a restatable topic; without them an event
    counts once, and its version says nothing. ``advances`` are (row, watermark), logged ones that
    are made before that row, or after the last.
    """
    times = frame["event_time"].to_numpy()
    before_ms = state.watermark_ms
    watermarks, state.watermark_ms = running_watermarks(times, before_ms, lateness, advances)
    late = expired(times, watermarks, lateness)
    in_time = np.flatnonzero(~late)
    hashes = hash_ids(frame["event_id"].cast(pl.Binary).to_list())
    applied = np.zeros(len(frame), dtype=np.bool_)
    earlier: Earlier = {}
    closed_ms = state.watermark_ms - lateness.grace_ms - BUCKET_MS
    if records is None:
        applied[in_time] = state.seen.first_seen(hashes[in_time], times[in_time])
        state.seen.close(closed_ms)
    else:
        applied[in_time], found = state.versions.admit(
            hashes[in_time],
            frame["version"].to_numpy()[in_time],
            times[in_time],
            [records[row] for row in in_time.tolist()],
        )
        earlier = {int(in_time[row]): before for row, before in found.items()}
        state.versions.close(closed_ms)
    account = state.account
    account.consumed += consumed
    account.dead_lettered += consumed - len(frame)
    account.expired += int(late.sum())
    account.applied += int(applied.sum())
    account.duplicates += len(in_time) - int(applied.sum())
    return Admission(applied, late, watermarks, earlier)


def with_earlier(
    frame: pl.DataFrame, admission: Admission, decode: Callable[[list[bytes]], pl.DataFrame]
) -> pl.DataFrame:
    """Return the applied rows of a restatable topic, and behind them what they restate, weighted.

    ``decode`` makes rows of kept records; columns that these lack (where and when a record came)
    are those of the row that restates them.
    """
    applied = frame.filter(pl.Series(admission.applied)).with_columns(
        pl.lit(1, pl.Int64).alias(WEIGHT)
    )
    if not admission.earlier:
        return applied
    rows = [row for row, records in admission.earlier.items() for _ in records]
    weights = [w for records in admission.earlier.values() for w in (*[0] * (len(records) - 1), -1)]
    before = decode([record for records in admission.earlier.values() for record in records])
    came = frame[rows].drop(before.columns)
    before = before.hstack(came).with_columns(pl.Series(WEIGHT, weights, pl.Int64))
    return pl.concat([applied, before.select(applied.columns)])


@dataclass(frozen=True, slots=True)
class Section:
    """Rows that partials of one source and scope carry.

    ``rows`` has the key columns joined as ``key`` and ``pane`` (start, by count time); ``rule`` is
    the start of the pane by event time if the event was on time for it, else null, as it is in all
    histograms. Beside these:
    sums have a column per measure; histograms ``measure``, ``bucket``, ``count``; samples
    ``sample``, ``event_time``, ``interaction_id``, ``evaluation_id``, ``count``. What is taken back
    counts below zero, and attributes are not taken back.
    """

    source: str
    scope: str
    kind: SectionKind
    rows: pl.DataFrame


@dataclass(frozen=True, slots=True)
class ScopePlan:
    """How the events of a source are grouped for one scope.

    ``pane_ms`` is the grid that sums are counted on, ``window_pane_ms`` the coarsest one of
    windows: histograms need no finer one, and neither do sums that no rule reads.
    """

    scope: Scope
    pane_ms: int
    window_pane_ms: int
    feeds_rules: bool
    samples: tuple[Sample, ...]


@dataclass(frozen=True, slots=True)
class FoldPlan:
    """All that folding the events of one source takes, worked out once."""

    source: str
    registry: Registry
    measures: tuple[Measure, ...]
    scopes: tuple[ScopePlan, ...]


def plan_fold(
    registry: Registry,
    source: str,
    rule_scopes: frozenset[str],
    samples: frozenset[tuple[str, str]],
) -> FoldPlan:
    """Return the plan for a source.

    ``rule_scopes`` are the scopes whose panes rules read, ``samples`` the (scope, sample) pairs
    that rules quote as evidence.
    """
    measures = tuple(m for m in registry.measures.values() if m.source == source)
    scopes = tuple(
        _plan_scope(registry, source, scope, scope.id in rule_scopes, samples)
        for scope in registry.scopes
        if source in scope.sources and (scope.windows or scope.id in rule_scopes)
    )
    return FoldPlan(source, registry, measures, scopes)


def _plan_scope(
    registry: Registry,
    source: str,
    scope: Scope,
    feeds_rules: bool,
    samples: frozenset[tuple[str, str]],
) -> ScopePlan:
    window_pane_ms = gcd(ZONE_STEP_MS, *(window.hop_ms for window in scope.windows))
    quoted = tuple(
        sample
        for sample in registry.samples.values()
        if sample.source == source and (scope.id, sample.id) in samples
    )
    pane_ms = scope.pane_ms if feeds_rules else window_pane_ms
    return ScopePlan(scope, pane_ms, window_pane_ms, feeds_rules, quoted)


def fold(plan: FoldPlan, events: pl.DataFrame) -> list[Section]:
    """Add the measures of applied events up by key and pane, for every scope of the source.

    ``events`` has the columns of the source's contract, :data:`WATERMARK`, and :data:`WEIGHT` if
    the topic is restatable.
    """
    if not len(events) or not plan.scopes:
        return []
    weight = pl.col(WEIGHT) if WEIGHT in events.columns else None
    prepared = plan.registry.prepare(plan.source, events).with_columns(
        _value(measure, weight).alias(measure.id) for measure in plan.measures
    )
    if not len(prepared):
        return []
    count = (pl.len().cast(pl.Int64) if weight is None else weight.sum()).alias("count")
    lazy = prepared.lazy()
    queries = [query for scope in plan.scopes for query in _queries(plan, scope, lazy, count)]
    engine: Literal["in-memory", "auto"] = "in-memory" if len(prepared) <= FEW_EVENTS else "auto"
    frames = pl.collect_all([query for _, _, query in queries], engine=engine)
    return [
        Section(plan.source, scope.id, kind, rows)
        for (scope, kind, _), rows in zip(queries, frames, strict=True)
        if len(rows)
    ]


def _value(measure: Measure, weight: pl.Expr | None) -> pl.Expr:
    if measure.aggregate == "histogram":
        return histogram.bucket_expression(measure.expression)
    return measure.expression if weight is None else measure.expression * weight


_Query = tuple[Scope, SectionKind, pl.LazyFrame]


def _queries(
    plan: FoldPlan, scope: ScopePlan, events: pl.LazyFrame, count: pl.Expr
) -> list[_Query]:
    queries: list[_Query] = []
    sums = set(scope.scope.sums)
    for count_time in sorted({measure.count_time for measure in plan.measures}):
        counted = [m for m in plan.measures if m.count_time == count_time]
        grouped = events.group_by(_group_columns(scope, count_time))
        names = [m.id for m in counted if m.id in sums]
        if names:
            query = grouped.agg(pl.col(names).sum(), *_attribute_time(scope.scope))
            queries.append((scope.scope, "sums", query.select(*_keyed(scope.scope), *names)))
        queries.extend(
            (scope.scope, "histogram", _histogram(scope, measure, events, count))
            for measure in counted
            if measure.id in scope.scope.histograms
        )
    queries.extend(
        (scope.scope, "samples", _samples(scope, sample, events, count)) for sample in scope.samples
    )
    return queries


def _group_columns(scope: ScopePlan, count_time: str) -> list[pl.Expr]:
    # Attributes hardly ever change: a row for each of them costs less than to look for the newest.
    attributes = map(pl.col, scope.scope.attributes)
    return [*_key_columns(scope), *attributes, _pane(count_time, scope.pane_ms), _rule_pane(scope)]


def _key_columns(scope: ScopePlan) -> list[pl.Expr]:
    return [pl.col(name).fill_null("") for name in scope.scope.key]


def _pane(count_time: str, pane_ms: int) -> pl.Expr:
    counted = pl.coalesce(count_time, "event_time")
    return (counted - counted % pane_ms).alias("pane")


def _rule_pane(scope: ScopePlan) -> pl.Expr:
    if not scope.feeds_rules:
        return pl.lit(None, pl.Int64).alias("rule")
    start = pl.col("event_time") - pl.col("event_time") % scope.pane_ms
    on_time = pl.col(WATERMARK) < start + scope.pane_ms
    return pl.when(on_time).then(start).alias("rule")


def _keyed(scope: Scope) -> list[pl.Expr]:
    return [_key(scope), pl.col("pane"), pl.col("rule"), *_attributes(scope)]


def _key(scope: Scope) -> pl.Expr:
    if not scope.key:
        return pl.lit("").alias("key")
    return pl.concat_str([pl.col(name) for name in scope.key], separator=KEY_SEPARATOR).alias("key")


def _attribute_time(scope: Scope) -> list[pl.Expr]:
    """When the newest event of a group was; all in it have the same attributes."""
    return [pl.col("event_time").max().alias("attribute_time")] if scope.attributes else []


def _attributes(scope: Scope) -> list[pl.Expr]:
    """The attributes of a group and their time, both null where none is known."""
    if not scope.attributes:
        return []
    known = pl.when(pl.any_horizontal(pl.col(name).is_not_null() for name in scope.attributes))
    joined = pl.concat_str(
        [pl.col(name).fill_null("") for name in scope.attributes], separator=KEY_SEPARATOR
    )
    return [known.then(joined).alias("attribute"), known.then("attribute_time")]


def _histogram(
    scope: ScopePlan, measure: Measure, events: pl.LazyFrame, count: pl.Expr
) -> pl.LazyFrame:
    # Rules do not read histograms, so these need no more panes than windows have.
    grouped = events.filter(pl.col(measure.id).is_not_null()).group_by(
        *_key_columns(scope),
        _pane(measure.count_time, scope.window_pane_ms),
        pl.col(measure.id).alias("bucket"),
    )
    return grouped.agg(count).select(
        _key(scope.scope),
        "pane",
        pl.lit(None, pl.Int64).alias("rule"),
        pl.lit(measure.id).alias("measure"),
        "bucket",
        "count",
    )


def _samples(
    scope: ScopePlan, sample: Sample, events: pl.LazyFrame, count: pl.Expr
) -> pl.LazyFrame:
    """The newest ids of each key and pane; rows that rules cannot see are left out.

    Ids that were taken back keep their place among the newest: what is among the newest of all
    events is then among those of each flush, so their counts add up whatever the cuts.
    """
    evaluation = pl.col("evaluation_id") if "evaluation" in sample.source else pl.lit(None)
    ids = [
        pl.col("event_time"),
        pl.col("interaction_id"),
        evaluation.cast(pl.String).alias("evaluation_id"),
    ]
    names = [column.meta.output_name() for column in ids]
    newest = (
        events.filter(sample.expression)
        .group_by(*_key_columns(scope), _rule_pane(scope), *ids)
        .agg(count)
        .filter(pl.col("rule").is_not_null())
        .sort(*names, descending=[True, False, False])
        .group_by(*scope.scope.key, "rule", maintain_order=True)
        .head(sample.keep)
    )
    return newest.select(
        _key(scope.scope),
        pl.col("rule").alias("pane"),
        "rule",
        pl.lit(sample.id).alias("sample"),
        *names,
        "count",
    )


def concatenate(frames: Sequence[pl.DataFrame]) -> pl.DataFrame:
    """Join the applied events of several partitions of one topic."""
    return frames[0] if len(frames) == 1 else pl.concat(frames)
