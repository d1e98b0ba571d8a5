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

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from math import gcd
from typing import Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from processors import histogram
from processors.dedupe import BUCKET_MS, SeenIds, hash_ids
from processors.keys import KEY_SEPARATOR
from processors.kpis import Measure, Registry, Sample, Scope
from processors.segments import UNKNOWN_TIME
from processors.versions import Earlier, KeptVersions
from processors.watermark import BEFORE_ALL_MS, Lateness, expired, running_watermarks
from processors.windows import ZONE_STEP_MS

#: Column of the prepared events: the watermark of their own partition just before them.
WATERMARK = "_watermark"

#: Column of the events of a restatable topic: 1 for one that counts, -1 for the version that it
#: takes back, 0 for those that were taken back before. Without the column all count.
WEIGHT = "_weight"

#: Stands for the pane of events that came too late for rules: before any pane.
NO_PANE = int(np.iinfo(np.int64).min)

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

    @classmethod
    def joined(cls, several: Sequence[Admission]) -> Admission:
        """Return what became of several stretches whose frames lie one below the other."""
        firsts = accumulate((len(each.applied) for each in several), initial=0)
        return cls(
            np.concatenate([each.applied for each in several]),
            np.concatenate([each.expired for each in several]),
            np.concatenate([each.watermarks for each in several]),
            {
                first + row: before
                for first, each in zip(firsts, several, strict=False)
                for row, before in each.earlier.items()
            },
        )


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
    """Rows of one kind that partials of one source carry, those of a scope one after the other.

    ``scopes`` says in their order of which scope how many rows are. ``rows`` has the key columns
    joined as ``key``; ``pane`` (start, by count time); and but for histograms ``rule``, the start
    of the pane by event time if the event was on time for it, else :data:`NO_PANE`.
    Beside these:
    sums have ``values``, what is added to each of the measures ``names``, and those of scopes with
    attributes ``attribute`` and ``attribute_time``, UNKNOWN_TIME where none is known;
    histograms ``place`` (bucket, counted on through the measures ``names``) and ``count``;
    samples ``sample``, ``event_time``, ``interaction_id``, ``evaluation_id``, ``count``.
    What is taken back counts below zero, and attributes are not taken back.
    """

    source: str
    kind: SectionKind
    names: tuple[str, ...]
    scopes: tuple[tuple[str, int], ...]
    rows: pl.DataFrame

    @property
    def parts(self) -> list[tuple[str, slice]]:
        """Each scope, and where its rows are."""
        ends = accumulate(count for _, count in self.scopes)
        pairs = zip(self.scopes, ends, strict=True)
        return [(scope, slice(end - count, end)) for (scope, count), end in pairs]


Grouping = Callable[[pl.LazyFrame], pl.LazyFrame]


@dataclass(frozen=True, slots=True)
class Query:
    """Groups prepared events for one scope; ``names`` are the columns of measures in the result."""

    scope: str
    kind: SectionKind
    names: tuple[str, ...]
    grouping: Grouping


@dataclass(frozen=True, slots=True)
class FoldPlan:
    """All that folding the events of one source takes, worked out once.

    ``values`` are the columns of its measures, ``queries`` what is asked of them; each without and
    with the weights of events.
    """

    source: str
    registry: Registry
    values: Mapping[bool, list[pl.Expr]]
    queries: Mapping[bool, list[Query]]
    sums: tuple[str, ...]
    histograms: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _ScopePlan:
    """How the events of a source are grouped for one scope.

    ``pane_ms`` is the grid that sums are counted on, ``window_pane_ms`` the coarsest one of
    windows: histograms need no finer one, and neither do sums that no rule reads.
    """

    scope: Scope
    pane_ms: int
    window_pane_ms: int
    feeds_rules: bool
    samples: tuple[Sample, ...]


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
    scopes = [
        _plan_scope(registry, source, scope, scope.id in rule_scopes, samples)
        for scope in registry.scopes
        if source in scope.sources and (scope.windows or scope.id in rule_scopes)
    ]
    by_kind = {
        kind: tuple(m.id for m in measures if (m.aggregate == "histogram") is kind)
        for kind in (False, True)
    }
    weights = {False: None, True: pl.col(WEIGHT)}
    return FoldPlan(
        source,
        registry,
        {w: [_value(m, weight) for m in measures] for w, weight in weights.items()},
        {
            w: [q for scope in scopes for q in _queries(measures, by_kind[True], scope, weight)]
            for w, weight in weights.items()
        },
        by_kind[False],
        by_kind[True],
    )


def _plan_scope(
    registry: Registry,
    source: str,
    scope: Scope,
    feeds_rules: bool,
    samples: frozenset[tuple[str, str]],
) -> _ScopePlan:
    window_pane_ms = gcd(ZONE_STEP_MS, *(window.hop_ms for window in scope.windows))
    quoted = tuple(
        sample
        for sample in registry.samples.values()
        if sample.source == source and (scope.id, sample.id) in samples
    )
    pane_ms = scope.pane_ms if feeds_rules else window_pane_ms
    return _ScopePlan(scope, pane_ms, window_pane_ms, feeds_rules, quoted)


def fold(plan: FoldPlan, events: pl.DataFrame) -> list[Section]:
    """Add the measures of applied events up by key and pane, for every scope of the source.

    ``events`` has the columns of the source's contract, :data:`WATERMARK`, and :data:`WEIGHT` if
    the topic is restatable.
    """
    is_weighted = WEIGHT in events.columns
    queries = plan.queries[is_weighted]
    if not len(events) or not queries:
        return []
    prepared = plan.registry.prepare(plan.source, events).with_columns(plan.values[is_weighted])
    if not len(prepared):
        return []
    lazy = prepared.lazy()
    engine: Literal["in-memory", "auto"] = "in-memory" if len(prepared) <= FEW_EVENTS else "auto"
    frames = pl.collect_all([query.grouping(lazy) for query in queries], engine=engine)
    # Those of the same columns go together: what a section costs hardly depends on its rows.
    alike: dict[tuple[SectionKind, bool], list[tuple[Query, pl.DataFrame]]] = {}
    for query, rows in zip(queries, frames, strict=True):
        if len(rows):
            alike.setdefault((query.kind, "attribute" in rows.columns), []).append((query, rows))
    return [_section(plan, kind, found) for (kind, _), found in alike.items()]


def _section(
    plan: FoldPlan, kind: SectionKind, found: Sequence[tuple[Query, pl.DataFrame]]
) -> Section:
    scopes = tuple((query.scope, len(rows)) for query, rows in found)
    names = plan.histograms if kind == "histogram" else ()
    columns = _joined([rows for _, rows in found], found[0][0].names)
    if kind == "sums":
        names, values = plan.sums, np.zeros((len(columns[0]), len(plan.sums)), np.int64)
        start = 0
        for query, rows in found:
            for name in query.names:
                values[start : start + len(rows), names.index(name)] = rows[name].to_numpy()
            start += len(rows)
        columns.append(pl.Series("values", values))
    return Section(plan.source, kind, names, scopes, pl.DataFrame(columns))


def _joined(frames: Sequence[pl.DataFrame], without: Sequence[str]) -> list[pl.Series]:
    """Return the columns of frames, one below the other, but for some of the first one's."""
    names = [name for name in frames[0].columns if name not in without]
    # Of frames it would cost more than of single columns, however few rows there are.
    return [pl.concat([frame.get_column(name) for frame in frames]) for name in names]


def _value(measure: Measure, weight: pl.Expr | None) -> pl.Expr:
    if measure.aggregate == "histogram":
        value = histogram.bucket_expression(measure.expression)
    else:
        value = measure.expression if weight is None else measure.expression * weight
    return value.alias(measure.id)


def _queries(
    measures: Sequence[Measure],
    histograms: tuple[str, ...],
    scope: _ScopePlan,
    weight: pl.Expr | None,
) -> list[Query]:
    count = (pl.len().cast(pl.Int64) if weight is None else weight.sum()).alias("count")
    queries: list[Query] = []
    for count_time in sorted({measure.count_time for measure in measures}):
        counted = [m for m in measures if m.count_time == count_time]
        names = tuple(m.id for m in counted if m.id in scope.scope.sums)
        if names:
            grouping = _sums(scope, count_time, names)
            queries.append(Query(scope.scope.id, "sums", names, grouping))
        queries.extend(
            Query(
                scope.scope.id,
                "histogram",
                (),
                _histogram(scope, measure, histograms.index(measure.id), count),
            )
            for measure in counted
            if measure.id in scope.scope.histograms
        )
    queries.extend(
        Query(scope.scope.id, "samples", (), _samples(scope, sample, count))
        for sample in scope.samples
    )
    return queries


def _sums(scope: _ScopePlan, count_time: str, names: tuple[str, ...]) -> Grouping:
    # Attributes hardly ever change: a row for each of them costs less than to look for the newest.
    attributes = map(pl.col, scope.scope.attributes)
    by = [*_key_columns(scope), *attributes, _pane(count_time, scope.pane_ms), _rule_pane(scope)]
    added = [pl.col(names).sum(), *_attribute_time(scope.scope)]
    shown = [_key(scope.scope), pl.col("pane"), pl.col("rule"), *_attributes(scope.scope)]
    shown.append(pl.col(names))
    return lambda events: events.group_by(by).agg(added).select(shown)


def _key_columns(scope: _ScopePlan) -> list[pl.Expr]:
    return [pl.col(name).fill_null("") for name in scope.scope.key]


def _pane(count_time: str, pane_ms: int) -> pl.Expr:
    counted = pl.coalesce(count_time, "event_time")
    return (counted - counted % pane_ms).alias("pane")


def _rule_pane(scope: _ScopePlan) -> pl.Expr:
    nowhere = pl.lit(NO_PANE, pl.Int64)
    if not scope.feeds_rules:
        return nowhere.alias("rule")
    start = pl.col("event_time") - pl.col("event_time") % scope.pane_ms
    on_time = pl.col(WATERMARK) < start + scope.pane_ms
    return pl.when(on_time).then(start).otherwise(nowhere).alias("rule")


def _key(scope: Scope) -> pl.Expr:
    if not scope.key:
        return pl.lit("").alias("key")
    return pl.concat_str([pl.col(name) for name in scope.key], separator=KEY_SEPARATOR).alias("key")


def _attribute_time(scope: Scope) -> list[pl.Expr]:
    """When the newest event of a group was; all in it have the same attributes."""
    return [pl.col("event_time").max().alias("attribute_time")] if scope.attributes else []


def _attributes(scope: Scope) -> list[pl.Expr]:
    """The attributes of a group and their time."""
    if not scope.attributes:
        return []
    is_known = pl.any_horizontal(pl.col(name).is_not_null() for name in scope.attributes)
    joined = pl.concat_str(
        [pl.col(name).fill_null("") for name in scope.attributes], separator=KEY_SEPARATOR
    )
    time = pl.when(is_known).then("attribute_time").otherwise(pl.lit(UNKNOWN_TIME, pl.Int64))
    return [joined.alias("attribute"), time.alias("attribute_time")]


def _histogram(scope: _ScopePlan, measure: Measure, number: int, count: pl.Expr) -> Grouping:
    # Rules do not read histograms, so these need no more panes than windows have.
    is_counted = pl.col(measure.id).is_not_null()
    place = (pl.col(measure.id) + number * histogram.BUCKETS).alias("place")
    by = [*_key_columns(scope), _pane(measure.count_time, scope.window_pane_ms), place]
    shown = [_key(scope.scope), pl.col("pane"), pl.col("place"), pl.col("count")]
    return lambda events: events.filter(is_counted).group_by(by).agg(count).select(shown)


def _samples(scope: _ScopePlan, sample: Sample, count: pl.Expr) -> Grouping:
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
    by = [*_key_columns(scope), _rule_pane(scope), *ids]
    is_seen = pl.col("rule") != NO_PANE
    shown = [
        _key(scope.scope),
        pl.col("rule").alias("pane"),
        pl.col("rule"),
        pl.lit(sample.id).alias("sample"),
        *map(pl.col, (*names, "count")),
    ]
    return lambda events: (
        events.filter(sample.expression)
        .group_by(by)
        .agg(count)
        .filter(is_seen)
        .sort(*names, descending=[True, False, False])
        .group_by(*scope.scope.key, "rule", maintain_order=True)
        .head(sample.keep)
        .select(shown)
    )
