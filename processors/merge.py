"""Merge: partials of all source partitions add up to windows, finals and rule ticks.

One :class:`Merge` holds the state of one partials partition. Blocks are applied in the order of
the log; everything that follows - sums, which KPIs are final, which ticks rules have seen - is a
function of the blocks applied, so that reading them again gives the same.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from math import gcd

import numpy as np
import polars as pl
from numpy.typing import NDArray

from processors.additions import (
    MOST_WAITING,
    Addition,
    Columns,
    Target,
    Waiting,
    added_up,
    split,
)
from processors.fold import NO_PANE, Section
from processors.keys import KEY_SEPARATOR
from processors.kpis import Registry, Scope, WindowSpec
from processors.rules import Firing, GroupState, RuleBook, RuleGroup, Suppressed, advance
from processors.rules import Sample as SampleIds
from processors.segment_store import Frozen, Place, SegmentStore
from processors.segments import Segment, SumRows, head_of
from processors.watermark import BEFORE_ALL_MS, combined
from processors.windows import window_end, window_starts

#: Stands for the rule panes where a window's place in its scope is asked for.
PANES = -1

#: Segments at rest are packed once they take more than this.
HOT_BYTES = 16 * 1024 * 1024

#: A segment is at rest that nothing has touched since so many blocks, new segments, or rows that
#: were given to segments, ago: one block of a worker that catches up may hold hours.
FREEZE_EVERY = 16
FREEZE_OPENED = 128
FREEZE_ROWS = 100_000

SamplesOf = Callable[[tuple[str, ...], str], list[SampleIds]]


class ChainBroken(Exception):
    """Partials do not join: a stretch of a source is missing or came twice in part."""


@dataclass(frozen=True, slots=True)
class SourceTime:
    """What finality needs to know of a source: its topic, partitions, grace and reach."""

    topic: str
    partitions: int
    grace_ms: int
    reach_ms: int


@dataclass(frozen=True, slots=True)
class Stretch:
    """The positions ``(from, to]`` of a source partition that a block covers.

    Without a watermark, a stretch of records says nothing about time: none of them could be read.
    An empty one says that the partition holds no event yet, and holds nothing back. ``begins`` says
    that nothing of the partition was counted before it: no other can be the first of its chain.
    """

    topic: str
    partition: int
    from_position: int
    to_position: int
    watermark_ms: int | None
    begins: bool = False

    @property
    def tells_time(self) -> bool:
        """Tell whether it says where the event time of its partition stands."""
        return self.watermark_ms is not None or self.from_position == self.to_position


@dataclass(frozen=True, slots=True)
class Block:
    """One record of partials: part ``part`` of the ``parts`` that a flush has for us."""

    sources: tuple[Stretch, ...]
    part: int
    parts: int
    sections: tuple[Section, ...]


@dataclass(frozen=True, slots=True)
class Link:
    """How far the blocks of one source partition have been applied."""

    to_position: int
    part: int
    parts: int

    @property
    def whole(self) -> bool:
        """Tell whether all parts up to here are applied."""
        return self.part == self.parts - 1


@dataclass(frozen=True, slots=True)
class MergePlan:
    """What a merge is defined by: the registry, the rules, and the sources' times."""

    registry: Registry
    rules: RuleBook
    sources: Mapping[str, SourceTime]


@dataclass(frozen=True, slots=True)
class Changed:
    """Rows of a segment to publish. ``final`` holds the sources that are final there."""

    scope: Scope
    window: WindowSpec
    segment: Segment
    rows: NDArray[np.intp]
    keys: list[str]
    final: frozenset[str]
    watermark_ms: int | None


@dataclass(slots=True)
class ScopeState:
    """Keys and segments of one scope.

    ``changed`` are the windows with rows to publish; ``due`` orders, per source, the windows to
    come final; ``ticked`` is, per topic, up to where rules have seen its panes, and ``joined``
    where that was when a partition known to be empty got its first event: rules never see what it
    holds from before. What is ``waiting`` is in no window yet.
    """

    scope: Scope
    pane_ms: int  # of the rule panes
    keys: list[str] = field(default_factory=list)
    codes: dict[str, int] = field(default_factory=dict)
    saved_keys: int = 0
    segments: SegmentStore = field(default_factory=SegmentStore)
    changed: set[Place] = field(default_factory=set)
    due: dict[str, list[tuple[int, int, int]]] = field(default_factory=dict)
    samples: dict[int, dict[tuple[int, str, SampleIds], int]] = field(default_factory=dict)
    ticked: dict[str, int] = field(default_factory=dict)
    joined: dict[tuple[str, int], int] = field(default_factory=dict)
    waiting: Waiting = field(init=False)
    _parts: list[tuple[str, ...]] = field(default_factory=list)
    _ranks: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))

    def __post_init__(self) -> None:
        self.waiting = Waiting(len(self.scope.histograms))

    def add_up(self) -> None:
        """Add what waits to its windows."""
        for target, added in self.waiting.take():
            for place in target.places:
                segment = self.segments.get(place)
                assert segment is not None
                added.add_to(segment, revises=place in target.revised)

    def in_order(self, codes: NDArray[np.int32]) -> NDArray[np.intp]:
        """Return the places of codes in the order of their keys."""
        if len(self._ranks) < len(self.keys):
            order = sorted(range(len(self.keys)), key=self.keys.__getitem__)
            self._ranks = np.empty(len(order), np.int64)
            self._ranks[order] = np.arange(len(order))
        return np.argsort(self._ranks[codes])

    def parts_of(self, codes: NDArray[np.int32]) -> list[tuple[str, ...]]:
        """Return the values of the key columns of each code."""
        new = self.keys[len(self._parts) :]
        self._parts += [tuple(key.split(KEY_SEPARATOR)) for key in new]
        return [self._parts[code] for code in codes.tolist()]

    def codes_of(self, keys: Sequence[str]) -> NDArray[np.int32]:
        """Return the code of each key, giving new keys one."""
        found = list(map(self.codes.get, keys))
        if None in found:
            for key in keys:
                if key not in self.codes:
                    self.codes[key] = len(self.keys)
                    self.keys.append(key)
            found = list(map(self.codes.get, keys))
        return np.array(found, np.int32)


@dataclass(slots=True)
class GroupRuntime:
    """Rules that look at the same window of a scope, and how far they have come.

    ``own`` is 1 for each sum of the scope that their sources add to, 0 for the others.
    """

    group: RuleGroup
    scope: Scope
    sources: frozenset[str]
    own: NDArray[np.int64]
    state: GroupState
    running: Segment
    next_tick_ms: int | None = None


Outcome = Firing | Suppressed


class Merge:
    """State of one partials partition."""

    def __init__(self, plan: MergePlan) -> None:
        self.plan = plan
        self.position = 0
        self.chain: dict[tuple[str, int], Link] = {}
        self.watermarks: dict[tuple[str, int], int | None] = {}
        self.skipped = 0
        self.too_late = 0
        self._in_part: set[tuple[str, int]] = set()
        self._settled = 0
        self._opened = 0
        self._given = 0
        self.scopes = {
            scope.id: ScopeState(scope, _rule_pane_ms(plan.rules, scope))
            for scope in plan.registry.scopes
        }
        self.groups = [self._group(group) for group in plan.rules.groups]
        self._reading = {scope.id: set[str]() for scope in plan.registry.scopes}
        for group in self.groups:
            self._reading[group.scope.id] |= group.sources

    # -- blocks -------------------------------------------------------------------------------

    def apply(self, block: Block) -> None:
        """Add one block; a block that was applied before is skipped and counted.

        Raises :class:`ChainBroken` if a source's stretch does not join the one before it.
        """
        known = {self._follows(block, stretch) for stretch in block.sources}
        if known == {False}:
            self.skipped += 1
            return
        if len(known) > 1:
            raise ChainBroken(f"partials.sources: {block.sources} cover old and new positions")
        for section in block.sections:
            self._add(section)
        last = block.part == block.parts - 1
        for stretch in block.sources:
            source = (stretch.topic, stretch.partition)
            self.chain[source] = Link(stretch.to_position, block.part, block.parts)
            self._in_part.add(source)
            if last:
                self._in_part.discard(source)
                if stretch.tells_time:
                    self._note_watermark(source, stretch.watermark_ms)

    @property
    def whole(self) -> bool:
        """Tell whether no block is applied in part: only then do sums belong to positions."""
        return not self._in_part

    def as_of(self) -> list[dict[str, object]]:
        """Return the position of every source partition that the sums include."""
        return [
            {"topic": topic, "partition": partition, "position": link.to_position}
            for (topic, partition), link in sorted(self.chain.items())
        ]

    def seen_by_rules(self, scope_id: str) -> list[dict[str, object]]:
        """Return :meth:`as_of` with the instant from which on rules of a scope see a partition."""
        joined = self.scopes[scope_id].joined
        return [
            {**place, "from_time": joined.get((topic, partition))}
            for place, (topic, partition) in zip(self.as_of(), sorted(self.chain), strict=True)
        ]

    def _follows(self, block: Block, stretch: Stretch) -> bool:
        link = self.chain.get((stretch.topic, stretch.partition))
        if link is None:
            joins = block.part == 0 and stretch.begins
        elif block.part == 0:
            joins = link.whole and stretch.from_position == link.to_position
        else:
            joins = (stretch.to_position, block.part) == (link.to_position, link.part + 1)
        if joins:
            return True
        if link is not None and link.whole and stretch.to_position <= link.to_position:
            return False
        found = f"({stretch.from_position}, {stretch.to_position}] part {block.part}"
        expected = "the first of the partition" if link is None else f"them to follow {link}"
        raise ChainBroken(
            f"{stretch.topic}[{stretch.partition}]: found partials {found}, expected {expected}: "
            "partials or state of the merge are lost; run `andon rebuild`"
        )

    def _note_watermark(self, source: tuple[str, int], watermark_ms: int | None) -> None:
        known = self.watermarks.get(source)
        if known is None and watermark_ms is not None and source in self.watermarks:
            for state in self.scopes.values():
                if source[0] in state.ticked:
                    state.joined[source] = state.ticked[source[0]]
        if known is None or watermark_ms is None:
            self.watermarks[source] = watermark_ms if known is None else known
        else:
            self.watermarks[source] = max(known, watermark_ms)

    # -- sums ---------------------------------------------------------------------------------

    def _add(self, section: Section) -> None:
        keys = section.rows.get_column("key").to_list()
        is_sums, is_samples = section.kind == "sums", section.kind == "samples"
        columns = None if is_samples else Columns.of(section.rows, section.names)
        for scope, part in section.parts:
            state = self.scopes[scope]
            codes = state.codes_of(keys[part])
            if columns is None:
                self._add_samples(state, section.source, section.rows[part], codes)
                continue
            own = columns.rows(part)
            addition = own.addition(state.scope, codes)
            self._add_to_windows(state, section.source, addition, own["pane"])
            if is_sums and section.source in self._reading[scope]:
                self._add_to_panes(state, section.source, addition, own["rule"])

    def _add_to_windows(
        self, state: ScopeState, source: str, addition: Addition, panes: NDArray[np.int64]
    ) -> None:
        for pane, own in split(addition, panes):
            places = _places_of(pane, state.scope.windows, self.plan.registry.zone)
            target = self._target(state, source, places, own)
            self._given += len(own.codes) * len(target.places)
            if target.places:
                state.waiting.put(target, own)
        if state.waiting.rows > max(MOST_WAITING, len(state.keys)):
            state.add_up()

    def _target(
        self, state: ScopeState, source: str, places: tuple[Place, ...], addition: Addition
    ) -> Target:
        """Return what rows are for, of the windows of their pane: as it stands now."""
        found, revised = [], []
        for place in places:
            segment = state.segments.get(place) or self._open(state, place)
            if segment is None:
                self.too_late += len(addition.codes)
                continue
            found.append(place)
            if source in segment.final:
                revised.append(place)
        state.changed.update(found)
        return Target(tuple(found), frozenset(revised))

    def _open(self, state: ScopeState, place: Place) -> Segment | None:
        """Make the segment of a window; None if the window is over for good."""
        index, start = place
        window = state.scope.windows[index]
        end = window_end(start, window.kind, window.size_ms, self.plan.registry.zone)
        if self._over(state.scope, end):
            # It was final and is gone: a total of late rows alone would pass for the whole.
            return None
        segment = Segment(start, end, len(state.scope.sums), len(state.scope.histograms))
        state.segments.put(place, segment)
        self._opened += 1
        self._make_due(state, place, segment.end_ms, segment.final)
        return segment

    def _make_due(
        self, state: ScopeState, place: Place, end_ms: int, final: Collection[str]
    ) -> None:
        for source in state.scope.sources:
            if source not in final:
                time = self.plan.sources[source]
                due = end_ms + time.grace_ms + time.reach_ms
                heapq.heappush(state.due.setdefault(source, []), (due, *place))

    def _over(self, scope: Scope, end_ms: int) -> bool:
        return all(
            self.source_watermark(scope, source) >= end_ms + time.grace_ms + time.reach_ms
            for source, time in self.plan.sources.items()
            if source in scope.sources
        )

    def _add_to_panes(
        self, state: ScopeState, source: str, addition: Addition, panes: NDArray[np.int64]
    ) -> None:
        ticked = max(self._ticked(state, source), NO_PANE + 1)
        for start, own in split(addition, panes - panes % state.pane_ms, panes >= ticked):
            segment = state.segments.get((PANES, start))
            if segment is None:
                segment = Segment(start, start + state.pane_ms, len(state.scope.sums))
                state.segments.put((PANES, start), segment)
            added_up([own], 0).add_to(segment)

    def _add_samples(
        self, state: ScopeState, source: str, rows: pl.DataFrame, codes: NDArray[np.int32]
    ) -> None:
        ticked = self._ticked(state, source)
        names = ("rule", "count", "sample", "event_time", "interaction_id", "evaluation_id")
        columns = (rows.get_column(name).to_list() for name in names)
        for code, pane, count, sample, *ids in zip(codes.tolist(), *columns, strict=True):
            if pane >= ticked:
                counts = state.samples.setdefault(pane - pane % state.pane_ms, {})
                entry = (code, sample, SampleIds(*ids))
                counts[entry] = counts.get(entry, 0) + count

    # -- time ---------------------------------------------------------------------------------

    def topic_watermark(self, source: str) -> int | None:
        """Return the combined watermark of a source's topic.

        None if every partition is known to be empty; before all instants while one is unknown.
        """
        time = self.plan.sources[source]
        partitions = [(time.topic, partition) for partition in range(time.partitions)]
        if any(partition not in self.watermarks for partition in partitions):
            return BEFORE_ALL_MS
        return combined([self.watermarks[partition] for partition in partitions])

    def source_watermark(self, scope: Scope, source: str) -> int:
        """Return the combined watermark of a source in a scope.

        A source whose topic is empty holds nothing back: the scope's other sources decide.
        """
        own = self.topic_watermark(source)
        if own is not None:
            return own
        others = [self.topic_watermark(other) for other in scope.sources]
        lowest = combined(others)
        return BEFORE_ALL_MS if lowest is None else lowest

    def _watermark(self, scope: Scope) -> int | None:
        """Return the combined watermark of a scope's sources, None while one is not known."""
        watermark = combined([self.topic_watermark(source) for source in scope.sources])
        return None if watermark == BEFORE_ALL_MS else watermark

    def settle(self) -> list[Outcome]:
        """Follow the watermarks: make due KPIs final, run due ticks; return what rules decided.

        Does nothing while a block is applied in part. What it does is a function of the blocks
        applied only if it is called after each.
        """
        if not self.whole:
            return []
        for state in self.scopes.values():
            for source in state.scope.sources:
                self._make_final(state, source)
        outcomes: list[Outcome] = []
        ticks = [group.next_tick_ms for group in self.groups]
        for group in self.groups:
            outcomes += self._run_ticks(group)
        if ticks != [group.next_tick_ms for group in self.groups]:
            for state in self.scopes.values():
                self._drop_panes(state)
        self._settled += 1
        if (
            self._settled % FREEZE_EVERY == 0
            or self._opened >= FREEZE_OPENED
            or self._given >= FREEZE_ROWS
        ):
            self._freeze()
        return outcomes

    def _freeze(self) -> None:
        self._opened = self._given = 0
        for state in self.scopes.values():
            state.add_up()
            watermark = self._watermark(state.scope)
            over_ms = BEFORE_ALL_MS if watermark is None else watermark
            state.segments.freeze(HOT_BYTES // len(self.scopes), over_ms)

    def _make_final(self, state: ScopeState, source: str) -> None:
        due = state.due.get(source)
        if not due or due[0][0] > (watermark := self.source_watermark(state.scope, source)):
            return
        while due and due[0][0] <= watermark:
            _, index, start = heapq.heappop(due)
            if state.segments.make_final((index, start), source):
                state.changed.add((index, start))

    # -- publication --------------------------------------------------------------------------

    def has_changed(self, scope_id: str, *, filling: bool = True) -> bool:
        """Tell whether a scope has rows for :meth:`changed`, and all blocks are whole."""
        state = self.scopes[scope_id]
        if filling or not self.whole:
            return bool(state.changed) and self.whole
        held = self._filling(state)
        if len(held) < len(state.changed):
            return True
        state.add_up()
        return any(len(state.segments.hot[place].new_rows()) for place in held)

    def _filling(self, state: ScopeState) -> set[Place]:
        """Return the changed hopping windows that have a fuller one beside them."""
        newest: dict[int, int] = {}
        for index, start in state.changed:
            newest[index] = max(start, newest.get(index, start))
        windows, hot = state.scope.windows, state.segments.hot
        return {
            (index, start)
            for index, start in state.changed
            if start > newest[index] - windows[index].size_ms + windows[index].hop_ms
            and (index, start) in hot
            and not hot[index, start].final
        }

    def changed(
        self, scope_id: str, most: int | None = None, *, filling: bool = True
    ) -> Iterator[Changed]:
        """Yield the rows of a scope that changed, counting them as published.

        With ``most`` it ends after the segment that reaches so many rows; the others stay changed.
        Without ``filling``, of hopping windows that are not yet the fullest one only rows are
        yielded that never were. A segment whose every source is final is forgotten after this.
        """
        state = self.scopes[scope_id]
        state.add_up()
        held = set() if filling else self._filling(state)
        watermark = self._watermark(state.scope)
        count = 0
        for place in sorted(state.changed):
            if most is not None and count >= most:
                return
            segment = state.segments.look(place)
            if place not in held:
                rows = segment.dirty_rows()
                state.changed.discard(place)
            elif not len(rows := segment.new_rows()):
                continue
            count += len(rows)
            keys = [state.keys[code] for code in segment.codes[rows].tolist()]
            window = state.scope.windows[place[0]]
            final = frozenset(segment.final)
            yield Changed(state.scope, window, segment, rows, keys, final, watermark)
            state.segments.clean(place, rows)
            if place not in held and len(final) == len(state.scope.sources):
                state.segments.drop(place)

    # -- rules --------------------------------------------------------------------------------

    def _group(self, group: RuleGroup) -> GroupRuntime:
        scope = group.scope
        sources = frozenset(source for kpi in _kpis_of(group) for source in scope.kpis[kpi].sources)
        measures = self.plan.registry.measures
        own = [measures[name].source in sources for name in scope.sums]
        return GroupRuntime(
            group,
            scope,
            sources,
            np.array(own, dtype=np.int64),
            GroupState(),
            Segment(0, 0, len(scope.sums)),
        )

    def _group_watermark(self, runtime: GroupRuntime) -> int | None:
        return combined([self.topic_watermark(source) for source in runtime.sources])

    def _run_ticks(self, runtime: GroupRuntime) -> list[Outcome]:
        watermark = self._group_watermark(runtime)
        if watermark is None or watermark == BEFORE_ALL_MS:
            return []
        every = runtime.group.every_ms
        last = watermark - watermark % every
        outcomes: list[Outcome] = []
        while (tick := self._next_tick(runtime, last)) <= last:
            outcomes += self._tick(runtime, tick)
            runtime.next_tick_ms = tick + every
        ticked = self.scopes[runtime.scope.id].ticked
        for topic in {self.plan.sources[source].topic for source in runtime.sources}:
            ticked[topic] = max(ticked.get(topic, BEFORE_ALL_MS), last)
        return outcomes

    def _ticked(self, state: ScopeState, source: str) -> int:
        return state.ticked.get(self.plan.sources[source].topic, BEFORE_ALL_MS)

    def _next_tick(self, runtime: GroupRuntime, last_ms: int) -> int:
        """Return the next tick, which is after ``last_ms`` if none is due."""
        due = runtime.next_tick_ms
        is_busy = runtime.running.sums.any() or not _is_quiet(runtime.state)
        if due is not None and (due > last_ms or is_busy):
            return due
        # Nothing in the window and nothing going on: the next tick is that of new data, but none
        # after the first that is not due, for into its panes events may still come in time.
        after = BEFORE_ALL_MS if due is None else due - runtime.group.every_ms
        data = self._next_data_tick(runtime, after)
        not_due = last_ms + runtime.group.every_ms
        runtime.next_tick_ms = tick = not_due if data is None else min(data, not_due)
        runtime.running = Segment(0, 0, len(runtime.scope.sums))
        self.rebuild_running(runtime)
        return tick

    def _next_data_tick(self, runtime: GroupRuntime, after_ms: int) -> int | None:
        store = self.scopes[runtime.scope.id].segments
        starts = [
            start for places in (store.hot, store.cold) for index, start in places if index == PANES
        ]
        later = [start for start in starts if start >= after_ms]
        if not later:
            return None
        every = runtime.group.every_ms
        return min(later) // every * every + every

    def _tick(self, runtime: GroupRuntime, tick_ms: int) -> list[Outcome]:
        every, size = runtime.group.every_ms, runtime.group.window_ms
        self._move(runtime, tick_ms - every, tick_ms, sign=1)
        self._move(runtime, tick_ms - every - size, tick_ms - size, sign=-1)
        state = self.scopes[runtime.scope.id]
        running = runtime.running
        filled = np.flatnonzero(running.sums.any(axis=1))
        if not len(filled) and _is_quiet(runtime.state):
            return []
        filled = filled[state.in_order(running.codes[filled])]
        kpis = self.plan.registry.evaluate(runtime.scope, running.sums[filled], {})
        return advance(
            runtime.group,
            runtime.state,
            tick_ms,
            state.parts_of(running.codes[filled]),
            kpis.values,
            kpis.n,
            self._samples(state, tick_ms - size, tick_ms),
        )

    def _move(self, runtime: GroupRuntime, start_ms: int, end_ms: int, *, sign: int) -> None:
        state = self.scopes[runtime.scope.id]
        for start in range(start_ms, end_ms, state.pane_ms):
            pane = state.segments.get((PANES, start))
            if pane is not None and pane.rows:
                runtime.running.add(SumRows(pane.codes, pane.sums * (sign * runtime.own)))

    def _samples(self, state: ScopeState, start_ms: int, end_ms: int) -> SamplesOf:
        found: dict[tuple[int, str], Counter[SampleIds]] = {}

        def look() -> None:
            for start in range(start_ms, end_ms, state.pane_ms):
                for (code, sample, ids), count in state.samples.get(start, {}).items():
                    found.setdefault((code, sample), Counter())[ids] += count

        def newest(key: tuple[str, ...], sample_id: str) -> list[SampleIds]:
            # Most ticks quote nothing.
            if not found:
                look()
            counts = found.get((state.codes[KEY_SEPARATOR.join(key)], sample_id), Counter())
            keep = self.plan.registry.samples[sample_id].keep
            # What was taken back keeps its place: of older ones the counts may not be whole.
            return [ids for ids in sorted(counts, key=_newest_first)[:keep] if counts[ids] > 0]

        return newest

    def _drop_panes(self, state: ScopeState) -> None:
        needed = [self._needed_from(g) for g in self.groups if g.scope.id == state.scope.id]
        if not needed:
            return
        for places in (state.segments.hot, state.segments.cold):
            for place in [p for p in places if p[0] == PANES and p[1] < min(needed)]:
                state.segments.drop(place)
                state.samples.pop(place[1], None)

    def _needed_from(self, runtime: GroupRuntime) -> int:
        """Return the start of the oldest pane that the rules of a group have still to see."""
        if runtime.next_tick_ms is not None:
            return runtime.next_tick_ms - runtime.group.every_ms - runtime.group.window_ms
        # Rules whose sources are all empty see nothing in any pane; others have yet to begin.
        return -BEFORE_ALL_MS if self._group_watermark(runtime) is None else BEFORE_ALL_MS

    # -- recovery -----------------------------------------------------------------------------

    def restore(self, scope_id: str, place: Place, packed: bytes) -> None:
        """Put back a segment that a checkpoint wrote; it stays packed until it is needed."""
        state, head = self.scopes[scope_id], head_of(packed)
        if place[0] != PANES:
            state.segments.cold[place] = Frozen(packed, unsaved=False)
            self._make_due(state, place, head.end_ms, head.final)
        elif head.end_ms - head.start_ms == state.pane_ms:
            state.segments.cold[place] = Frozen(packed, unsaved=False)
        else:
            # Rules of another grid made it: theirs begin with the panes to come.
            state.segments.dropped.add(place)

    def rebuild_running(self, runtime: GroupRuntime) -> None:
        """Add up again what the rules of a group see, from the restored panes."""
        if runtime.next_tick_ms is not None:
            last = runtime.next_tick_ms - runtime.group.every_ms
            self._move(runtime, last - runtime.group.window_ms, last, sign=1)

    @property
    def nbytes(self) -> int:
        """Bytes held, roughly, but for what waits."""
        return sum(state.segments.nbytes for state in self.scopes.values())


def _is_quiet(state: GroupState) -> bool:
    """Tell whether no episode is under way: what is left only remembers when rules last fired."""
    return all(
        standing.episode_start_ms is None and standing.few_start_ms is None
        for standings in state.standings.values()
        for standing in standings.values()
    )


def _newest_first(ids: SampleIds) -> tuple[int, str, str]:
    # The order in which the fold chooses, so that no cut of the input changes the choice.
    return (-ids.event_time_ms, ids.interaction_id, ids.evaluation_id or "")


def _kpis_of(group: RuleGroup) -> set[int]:
    """Positions of the KPIs that any condition of the group's rules names."""
    return {
        kpi
        for rule in group.rules
        for condition in (rule.when, rule.clear, *rule.guards)
        if condition is not None
        for kpi in condition.kpis
    }


def _rule_pane_ms(rules: RuleBook, scope: Scope) -> int:
    return gcd(*(g.every_ms for g in rules.groups if g.scope.id == scope.id)) or scope.pane_ms


@lru_cache(maxsize=4_096)
def _places_of(pane_ms: int, windows: tuple[WindowSpec, ...], zone: str) -> tuple[Place, ...]:
    """Return the windows that a pane lies in."""
    instants = np.array([pane_ms])
    return tuple(
        (index, int(starts[0]))
        for index, window in enumerate(windows)
        for starts in window_starts(instants, window.kind, window.size_ms, window.hop_ms, zone)
    )
