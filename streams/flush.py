"""The flush: what a worker collected becomes records and offsets of one Kafka transaction.

:class:`Engine` holds the stages of all partitions that this worker owns. It does no I/O: given the
batches of a flush it moves the state on and returns a :class:`Flush`, everything that follows from
them. :class:`Transaction` puts it into Kafka whole, fenced by the membership of the group:

1. begin; produce every record, state first; wait until the broker has them all;
2. send the offsets with the generation and member id that the partitions were assigned with: here a
   worker that lost its membership is refused;
3. commit.

Whatever fails, the process ends: what memory holds may then differ from the log, and the successor
starts from the log. Nothing is repaired in memory.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from faust.types import TP

from processors.actions import action_record, decision_id, subject_key, suppression_record
from processors.merge import Stretch
from processors.rules import Firing
from schemas.catalogue import ACTIONS, AS_OF, PARTIALS, SUPPRESSIONS, WATERMARKS
from schemas.headers import cloud_event_headers
from streams.basis import Basis
from streams.columnar import Batch, Membership
from streams.definitions import Definitions
from streams.fold import FoldStage, Taken, fold_topic, immediate_actions, take_together
from streams.merge import Decided, MergeStage
from streams.partials import Writer, destination_of, partials_records
from streams.publish import KpiRecords, Publication
from streams.published import Published
from streams.records import Record
from streams.state import Advance, Entry, basis_entry

VERSION_BITS = 48

#: About so many KPI records go out with one flush, some 2 KB each; what is left goes with the next.
PUBLISH_ROWS = 20_000


@dataclass(slots=True)
class Flush:
    """Everything that follows from the batches of one flush, to be visible whole or not at all.

    ``progress`` holds a record for each partition with anything in ``state``. ``offsets`` names
    every partition whose state or results are in it, moved or not: it is with offsets that the
    broker tells a member from one that was. ``added`` has the partials partitions with new sums,
    ``saved`` those whose state is in the log whole, after this.
    """

    progress: dict[TP, Record] = field(default_factory=dict)
    state: list[Record] = field(default_factory=list)
    outputs: list[Record] = field(default_factory=list)
    offsets: dict[TP, int] = field(default_factory=dict)
    added: set[TP] = field(default_factory=set)
    saved: set[TP] = field(default_factory=set)
    events: int = 0
    kpi_records: int = 0
    kpi_since_ms: list[int] = field(default_factory=list)
    actions: Counter[str] = field(default_factory=Counter)

    @property
    def records(self) -> list[Record]:
        """All records, state first: a zombie's late commit then cannot leave state behind.

        Progress comes before all, for it names the writer: whatever of an open transaction is in a
        changelog, the successor learns there whose transaction it has to end.
        """
        return [*self.progress.values(), *self.state, *self.outputs]

    def __bool__(self) -> bool:
        return bool(self.progress or self.outputs)


@dataclass(slots=True)
class Engine:
    """The stages of one worker and what a flush makes of them.

    ``bases`` are to be written with the next progress of their partitions. ``published`` is, in a
    rebuild, what is in the topics already: that is decided again, and not published again. One that
    ``hurries``, far behind its input, publishes with checkpoints only: what it is at is old, and
    would be replaced at once. Inputs are folded every ``pace_ms``, 0 for at any time. Scopes of the
    shortest interval keep step with that: it is rounded to whole paces, at least one. They are
    published with a merge that comes half a pace before they are due, and wait as long for one
    after it: what a merge brings is then not kept for the rest of an interval. The others are many
    records, and hold nobody up in a flush of their own; if none comes for half a pace, they go with
    any. Hopping windows that still fill up have their first record then, further ones with
    checkpoints only, until they are the fullest.
    """

    definitions: Definitions
    transactional_id: str
    epoch: int
    folds: dict[TP, FoldStage] = field(default_factory=dict)
    merges: dict[TP, MergeStage] = field(default_factory=dict)
    stale: dict[TP, tuple[bytes, ...]] = field(default_factory=dict)
    bases: dict[TP, Basis] = field(default_factory=dict)
    published: Published | None = None
    hurries: bool = False
    pace_ms: int = 0
    _records: dict[str, KpiRecords] = field(default_factory=dict)
    _codecs: dict[str, Any] = field(default_factory=dict)
    _published_ms: dict[tuple[str, TP], int] = field(default_factory=dict)
    _to_publish: dict[str, list[TP]] = field(default_factory=dict)
    _least_ms: int = 0
    _most_often: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._codecs = {
            topic: self.definitions.codec(topic)
            for topic in (PARTIALS, ACTIONS, SUPPRESSIONS, AS_OF, WATERMARKS, "andon.kpis.v1")
        }
        self._records = {
            scope.id: KpiRecords(self.definitions.registry, scope, self._codecs["andon.kpis.v1"])
            for scope in self.definitions.registry.scopes
            if scope.windows
        }
        every_ms = {
            scope.id: scope.publish_every_ms
            for scope in self.definitions.registry.scopes
            if scope.windows
        }
        self._least_ms = min(every_ms.values(), default=0)
        self._most_often = {name for name, each in every_ms.items() if each == self._least_ms}

    @property
    def positions(self) -> dict[TP, int]:
        """The offset of the next record of every partition that is recovered."""
        stages: dict[TP, FoldStage | MergeStage] = {**self.folds, **self.merges}
        return {tp: stage.position for tp, stage in stages.items()}

    def forget(self, tps: Sequence[TP]) -> None:
        """Drop the state of partitions that are no longer ours, or in doubt."""
        for tp in tps:
            self.folds.pop(tp, None)
            self.merges.pop(tp, None)
            self.stale.pop(tp, None)
            self.bases.pop(tp, None)

    def flush(
        self,
        batches: Sequence[Batch],
        now_ms: int,
        *,
        advances: Mapping[TP, Advance] | None = None,
        publish_all: bool = False,
        checkpoint: Collection[TP] = (),
    ) -> Flush:
        """Take the batches, log the advances, and return what follows.

        ``publish_all`` publishes changed KPIs whatever the interval; ``checkpoint`` writes the
        state of these partitions down whole, which implies it for them.
        """
        flush = Flush()
        by_partition: dict[TP, list[Batch]] = {}
        for batch in batches:
            by_partition.setdefault(batch.tp, []).append(batch)
        self._fold(flush, by_partition, advances or {}, now_ms)
        moved = self._merge(flush, by_partition, now_ms)
        self._publish(
            flush,
            now_ms,
            moved=moved,
            takes=bool(batches),
            whole=self.merges if publish_all else checkpoint,
        )
        for tp in moved | {tp for tp in flush.offsets if tp in self.folds}:
            self._write_progress(flush, tp)
        # State does not tell what is changed and not yet published.
        waiting = {tp for tps in self._to_publish.values() for tp in tps}
        flush.saved = set(checkpoint) & set(self.positions) - waiting
        self._write_checkpoints(flush)
        return flush

    @property
    def is_behind(self) -> bool:
        """Tell whether more has changed than one flush publishes: take no partials meanwhile."""
        return bool(self._to_publish)

    def is_due(self, now_ms: int, *, alone: bool = True) -> bool:
        """Tell whether any scope has changes to go out with no merge.

        ``alone`` says that a flush for them would hold nobody up.
        """
        return self.is_behind or any(
            self._is_scope_due(scope_id, tp, self._look_ms(scope_id, now_ms, takes=not alone))
            and stage.merge.has_changed(scope_id, filling=False)
            for scope_id in self._records
            for tp, stage in self.merges.items()
        )

    # -- fold ---------------------------------------------------------------------------------

    def _fold(
        self,
        flush: Flush,
        batches: Mapping[TP, list[Batch]],
        advances: Mapping[TP, Advance],
        now_ms: int,
    ) -> None:
        taken: dict[str, Taken] = {}
        stretches: dict[TP, Stretch] = {}
        starts = {tp: stage.position for tp, stage in self.folds.items()}
        for topic, tps in self._by_topic(batches).items():
            found = take_together([(self.folds[tp], batches[tp]) for tp in tps])
            taken[topic] = found
            flush.outputs += self._unpublished(found.aside)
            flush.events += found.count
            stretches |= dict(zip(tps, found.stretches, strict=True))
        for tp, stage in self.folds.items():
            if tp in advances and advances[tp].position == stage.position:
                # Of a partition that has moved meanwhile it is not true any more.
                stage.advance(advances[tp])
                stretches[tp] = stage.stretch(starts[tp])
                flush.outputs += self._advance_record(tp, advances[tp])
        if not stretches:
            return
        plans = self.definitions.inputs
        sections = [s for topic, found in taken.items() for s in fold_topic(plans[topic], found)]
        times = [found.append_time_ms for found in taken.values()]
        oldest = min((time for time in times if time is not None), default=None)
        flush.outputs += partials_records(
            self._codecs[PARTIALS], self._writer(), list(stretches.values()), sections, oldest
        )
        for topic, found in taken.items():
            for action in immediate_actions(self.definitions, plans[topic], found, now_ms):
                key = subject_key(action)
                partition = destination_of(key.decode(), self._partitions(ACTIONS))
                self._act(flush, action, partition)
        for tp, stretch in stretches.items():
            self.folds[tp].announced |= stretch.tells_time
            self.folds[tp].begun = True
            flush.offsets[tp] = self.folds[tp].position

    def _by_topic(self, batches: Mapping[TP, list[Batch]]) -> dict[str, list[TP]]:
        """Return the input partitions that batches are of, by topic."""
        found: dict[str, list[TP]] = {}
        for tp in self.folds:
            if tp in batches:
                found.setdefault(tp.topic, []).append(tp)
        return found

    def _writer(self) -> Writer:
        definitions, partitions = self.definitions, self._partitions(PARTIALS)
        return Writer(
            self.transactional_id,
            definitions.fingerprint,
            definitions.edition,
            self.epoch,
            partitions,
        )

    def _advance_record(self, tp: TP, advance: Advance) -> list[Record]:
        if advance.reason == "EMPTY":
            # It decides about no event: that the partition is announced says all.
            return []
        value = {
            "topic": tp.topic,
            "partition": tp.partition,
            "position": advance.position,
            "watermark": advance.watermark_ms,
            "reason": advance.reason,
        }
        key = f"{tp.topic}|{tp.partition}".encode()
        return [Record(WATERMARKS, 0, key, self._codecs[WATERMARKS].encode(value))]

    # -- merge --------------------------------------------------------------------------------

    def _merge(self, flush: Flush, batches: Mapping[TP, list[Batch]], now_ms: int) -> set[TP]:
        moved = set()
        for tp, stage in self.merges.items():
            if tp in batches:
                self._decide(flush, stage, stage.take(batches[tp]), now_ms)
                flush.offsets[tp] = stage.position
                moved.add(tp)
                if stage.added:
                    flush.added.add(tp)
        return moved

    def _decide(
        self, flush: Flush, stage: MergeStage, decided: Sequence[Decided], now_ms: int
    ) -> None:
        for each in decided:
            if isinstance(each.outcome, Firing):
                action = action_record(each.outcome, each.as_of, now_ms)
                self._act(flush, action, stage.partition)
                continue
            record = suppression_record(each.outcome, each.as_of, now_ms)
            if self.published is None or not self.published.has_id(record["suppression_id"]):
                value = self._codecs[SUPPRESSIONS].encode(record)
                key = subject_key(record)
                flush.outputs.append(Record(SUPPRESSIONS, stage.partition, key, value))

    def _unpublished(self, aside: list[Record]) -> list[Record]:
        published = self.published
        return aside if published is None else [r for r in aside if not published.has_aside(r)]

    def _act(self, flush: Flush, action: Mapping[str, Any], partition: int) -> None:
        record_id = decision_id(action)
        if self.published is not None and self.published.has_id(record_id):
            return
        value = self._codecs[ACTIONS].encode(action)
        kind = f"andon.action.{action['action_type'].lower()}"
        source = f"/andon/rules/{action['rule_id']}"
        headers = cloud_event_headers(kind, source, record_id, action["event_time"])
        flush.outputs.append(Record(ACTIONS, partition, subject_key(action), value, [*headers]))
        flush.actions[action["action_type"]] += action["status"] == "OPEN"

    # -- publication --------------------------------------------------------------------------

    def _is_scope_due(self, scope_id: str, tp: TP, now_ms: int) -> bool:
        return not self.hurries and now_ms >= self._next_due_ms(scope_id, tp)

    @property
    def _leeway_ms(self) -> int:
        return self.pace_ms // 2

    def _next_due_ms(self, scope_id: str, tp: TP) -> int:
        every = self.definitions.registry.scope(scope_id).publish_every_ms
        if scope_id in self._most_often and self.pace_ms:
            every = max(1, round(every / self.pace_ms)) * self.pace_ms
        return self._published_ms.get((scope_id, tp), 0) + every

    def _look_ms(
        self, scope_id: str, now_ms: int, *, is_moved: bool = False, takes: bool = False
    ) -> int:
        """Return up to when a scope of a partition is to be due, to go out now.

        ``is_moved`` says that the flush merges something of the partition, ``takes`` that it takes
        anything of any.
        """
        if scope_id in self._most_often:
            return now_ms + (self._leeway_ms if is_moved else -self._leeway_ms)
        return now_ms - self._leeway_ms if takes else now_ms

    def _publish(
        self, flush: Flush, now_ms: int, *, moved: set[TP], takes: bool, whole: Collection[TP]
    ) -> None:
        if self.hurries:
            self._put_off(now_ms)
        for scope_id in self._records:
            look_ms = {
                tp: self._look_ms(scope_id, now_ms, is_moved=tp in moved, takes=takes)
                for tp in self.merges
            }
            waiting = self._to_publish.get(scope_id, [])
            due = [
                tp
                for tp, stage in self.merges.items()
                if tp not in waiting
                and (tp in whole or self._is_scope_due(scope_id, tp, look_ms[tp]))
                and stage.merge.has_changed(scope_id, filling=tp in whole)
            ]
            if due:
                self._to_publish[scope_id] = waiting + due
        published: set[TP] = set()
        for scope_id in list(self._to_publish):
            published |= self._publish_scope(flush, scope_id, now_ms, moved=moved, whole=whole)
        for tp in published:
            self._write_as_of(flush, self.merges[tp])
            flush.offsets[tp] = self.merges[tp].position

    def _put_off(self, now_ms: int) -> None:
        """Have what is published most often go out first, once there is time again."""
        for scope_id in self._records:
            for tp in self.merges:
                self._published_ms[scope_id, tp] = now_ms - self._least_ms

    def _publish_scope(
        self, flush: Flush, scope_id: str, now_ms: int, *, moved: set[TP], whole: Collection[TP]
    ) -> set[TP]:
        """Publish what has changed in a scope, as far as there is room; return the partitions."""
        waiting = [tp for tp in self._to_publish.pop(scope_id) if tp in self.merges]
        publications: list[Publication] = []
        published: set[TP] = set()
        room = PUBLISH_ROWS - flush.kpi_records
        while waiting and room > 0:
            stage, filling = self.merges[waiting[0]], waiting[0] in whole
            found = self._publications(stage, scope_id, room, filling=filling)
            room -= sum(len(each.changed.rows) for each in found)
            publications += found
            published.add(waiting[0])
            if room > 0 or not stage.merge.has_changed(scope_id, filling=filling):
                waiting.pop(0)
        if publications:
            records = self._records[scope_id].records(publications, now_ms)
            flush.outputs += records
            flush.kpi_records += len(records)
            for tp in published:
                self._note_publication(scope_id, tp, now_ms, is_moved=tp in moved)
        if waiting:
            self._to_publish[scope_id] = waiting
        return published

    def _note_publication(self, scope_id: str, tp: TP, now_ms: int, *, is_moved: bool) -> None:
        due_ms = self._next_due_ms(scope_id, tp)
        if scope_id in self._most_often and not is_moved and now_ms < due_ms:
            # A checkpoint's few records between two merges: the next merge is as due as before.
            return
        # Somewhat early or late, it keeps its pace: on average that of its interval.
        is_in_time = abs(now_ms - due_ms) <= self._leeway_ms
        self._published_ms[scope_id, tp] = due_ms if is_in_time else now_ms

    def _publications(
        self, stage: MergeStage, scope_id: str, most: int, *, filling: bool
    ) -> list[Publication]:
        version = self.epoch << VERSION_BITS | stage.position
        as_of_id = stage.partition << VERSION_BITS | stage.position
        return [
            Publication(stage.partition, version, as_of_id, changed)
            for changed in stage.merge.changed(scope_id, most, filling=filling)
        ]

    def _write_as_of(self, flush: Flush, stage: MergeStage) -> None:
        as_of_id = stage.partition << VERSION_BITS | stage.position
        if stage.append_time_ms is not None:
            flush.kpi_since_ms.append(stage.append_time_ms)
            stage.append_time_ms = None
        if stage.as_of_id == as_of_id:
            return
        stage.as_of_id = as_of_id
        record = {"as_of_id": as_of_id, "positions": stage.merge.as_of()}
        value = self._codecs[AS_OF].encode(record)
        flush.outputs.append(Record(AS_OF, stage.partition, str(as_of_id).encode(), value))

    # -- state --------------------------------------------------------------------------------

    def _write_progress(self, flush: Flush, tp: TP) -> None:
        stage = self.folds.get(tp) or self.merges[tp]
        entry = stage.progress(self.transactional_id).entry(self.epoch)
        flush.progress[tp] = Record(self._changelog(tp), tp.partition, *entry)
        if tp in self.bases:
            self._write_state(flush, tp, [basis_entry(self.bases.pop(tp), self.epoch)])
        flush.offsets[tp] = stage.position

    def _write_checkpoints(self, flush: Flush) -> None:
        folds = [(tp, fold) for tp, fold in self.folds.items() if tp in flush.saved]
        merges = [(tp, merge) for tp, merge in self.merges.items() if tp in flush.saved]
        for tp, fold in folds:
            # State says that merges know of the partition: none is written before they do.
            if fold.begun and (fold.checkpoint != fold.position or fold.advances):
                self._write_state(flush, tp, fold.blocks.save(fold.state, self.epoch))
                fold.checkpoint, fold.advances = fold.position, []
                self._write_progress(flush, tp)
        for tp, merge in merges:
            if merge.checkpoint != merge.position and merge.merge.whole:
                self._write_state(flush, tp, merge.blocks.save(merge.merge, self.epoch))
                merge.checkpoint = merge.position
                self._write_progress(flush, tp)
        stale = sorted(flush.saved & self.stale.keys())
        for tp in [tp for tp in stale if tp in self.merges or self.folds[tp].begun]:
            self._write_state(flush, tp, [Entry(key, None) for key in self.stale.pop(tp)])
            self._write_progress(flush, tp)

    def _write_state(self, flush: Flush, tp: TP, entries: Sequence[Entry]) -> None:
        changelog = self._changelog(tp)
        flush.state += [Record(changelog, tp.partition, *entry) for entry in entries]

    def _changelog(self, tp: TP) -> str:
        return self.definitions.changelog(tp.topic)

    def _partitions(self, topic: str) -> int:
        return self.definitions.catalogue[topic].partitions


class NotAMember(Exception):
    """Offsets would be sent under no real membership, which a broker accepts from anyone."""


def group_metadata(group: str, membership: Membership) -> bytes:
    """Return the membership in librdkafka's form, for ``send_offsets_to_transaction``.

    Layout of librdkafka 2: magic, generation (int32, little endian), group, member, and 1 for "no
    static instance id". Raises :class:`NotAMember` for a generation below 1 or an empty member id.
    """
    if membership.generation < 1 or not membership.member_id:
        raise NotAMember(
            f"membership: found generation {membership.generation} and member "
            f"{membership.member_id!r}, expected those of an assignment"
        )
    return _metadata(group, membership)


def _metadata(group: str, membership: Membership) -> bytes:
    generation = struct.pack("<i", membership.generation)
    names = group.encode() + b"\0" + membership.member_id.encode() + b"\0"
    return b"CGMDv2:" + generation + names + b"\x01"


def no_membership(group: str) -> bytes:
    r"""Return what a client without a membership has: the layout is compared with librdkafka's own.

    >>> no_membership("g")
    b'CGMDv2:\xff\xff\xff\xffg\x00\x00\x01'
    """
    return _metadata(group, Membership(-1, ""))


class Transaction(Protocol):
    """Puts a flush into the log, whole or not at all."""

    def start(self) -> None:
        """Get ready; raise if the log cannot be reached."""

    def commit(self, flush: Flush, membership: Membership) -> None:
        """Write everything and the offsets; raise if any of it, or its outcome, is in doubt."""
