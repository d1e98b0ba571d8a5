"""Recovery: from the changelog and the log itself to the state that the last flush left.

For each partition that was assigned:

1. note the high watermark of its changelog partition, and wait until everything up to there is
   decided. A worker that died, or sleeps, in the middle of a transaction holds this back; after a
   moment its transaction is ended by its id;
2. read the changelog: the newest checkpoint and the progress;
3. take the records between the two once more, through the same functions, and throw the outputs
   away: they are in the log already. What comes out must be what the progress says.

Processing goes on from the progress, never from the group's committed offsets.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import structlog
from faust.types import TP

from schemas.catalogue import PARTIALS
from streams.basis import Basis, misfits
from streams.columnar import Batch
from streams.flush import Engine
from streams.fold import FoldStage
from streams.log import Log
from streams.merge import MergeStage
from streams.published import read_advances, read_published
from streams.records import Fetched, Records
from streams.state import (
    Advance,
    Progress,
    Saved,
    UnknownFormat,
    newest_epoch,
    read_saved,
    writer_of,
)

logger = structlog.get_logger(__name__)

#: How long a transaction may be left open by a writer that may still end it itself: whoever gave
#: partitions away has ended his before, and is at most waiting for the marker.
PATIENCE_S = 0.3

#: A transaction that was ended so long ago and still holds records back will do so for ever.
HANGING_S = 30.0

#: The way out where saved state cannot be gone on from.
ANEW = "run `andon rebuild` to build everything anew from the input topics"

_LOOK_EVERY_S = 0.05

_NO_MARKER = (
    "the broker has no marker for a transaction that has ended, which happens to Kafka 4.3.0 to "
    "4.4.0 (KAFKA-20734) if it is killed while it writes them: list all that hang with "
    "`kafka-transactions.sh find-hanging --broker-id ID --max-transaction-timeout 1`, abort each "
    "(`abort --topic T --partition P --start-offset O`), and this worker, or the next, goes on by "
    "itself; then look with `andon verify` whether a part of it was committed elsewhere"
)


class Refused(Exception):
    """The saved state cannot be gone on from; the message says what to do."""


class Superseded(Exception):
    """The group has rebalanced again: what is being recovered may not be ours any more."""


@dataclass(frozen=True, slots=True)
class Recovery:
    """Brings partitions into an engine; ``is_current`` tells whether they are still ours.

    ``on_records`` is called each time that records were read: it gets on. ``clock`` and ``sleep``
    are in seconds.
    """

    log: Log
    engine: Engine
    is_current: Callable[[], bool]
    patience_s: float = PATIENCE_S
    on_records: Callable[[], None] = lambda: None
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep

    def run(self, tps: Iterable[TP]) -> None:
        """Recover the partitions. Raises :class:`Refused` or :class:`Superseded`."""
        by_topic: dict[str, list[int]] = {}
        for tp in sorted(tps):
            self._check_known(tp)
            by_topic.setdefault(tp.topic, []).append(tp.partition)
        changelog = self.engine.definitions.changelog
        self._await_stable(
            [TP(changelog(topic), partition) for topic in by_topic for partition in by_topic[topic]]
        )
        for topic, partitions in by_topic.items():
            self._recover_topic(topic, partitions)

    def _recover_topic(self, topic: str, partitions: Sequence[int]) -> None:
        changelog = self.engine.definitions.changelog(topic)
        entries: dict[int, list[tuple[bytes, bytes | None]]] = {p: [] for p in partitions}
        for records in self.log.read(changelog, partitions):
            self._check_current()
            self.on_records()
            for partition, found in records.items():
                entries[partition] += _entries(found)
        self._adopt(entries)
        ours = self.engine.definitions.basis(topic, self.log.topic_id(topic))
        ranges = self.log.ranges(topic, partitions)
        targets: dict[int, Progress] = {}
        rebuilding: list[TP] = []
        for partition in partitions:
            saved = self._read(topic, partition, entries[partition])
            self._check(topic, partition, saved, ours)
            self._check_range(topic, partition, saved, *ranges[partition])
            first = max(ranges[partition][0], saved.rebuild_start or 0)
            self._place(topic, partition, saved, first)
            if saved.rebuild_start is not None:
                rebuilding.append(TP(topic, partition))
            basis = saved.basis.followed_by(ours) if saved.basis is not None else ours
            if basis != saved.basis:
                self.engine.bases[TP(topic, partition)] = basis
            if saved.progress is not None:
                targets[partition] = saved.progress
        self._replay(topic, targets)
        for partition, progress in targets.items():
            self._compare(TP(topic, partition), progress)
        self._go_on_rebuilding(rebuilding)

    def _adopt(self, entries: Mapping[int, Sequence[tuple[bytes, bytes | None]]]) -> None:
        """Work in the newest rebuild epoch there is: its marks are in all partitions at once."""
        if not self.engine.positions:
            keys = (key for found in entries.values() for key, value in found if value is not None)
            self.engine.epoch = max(self.engine.epoch, newest_epoch(keys))

    def _go_on_rebuilding(self, tps: Sequence[TP]) -> None:
        if not tps:
            return
        definitions = self.engine.definitions
        if self.engine.published is None:
            self.engine.published = read_published(self.log, definitions, self._check_current)
        folds = [tp for tp in tps if tp in self.engine.folds]
        advances = read_advances(self.log, definitions) if folds else {}
        for tp in folds:
            stage = self.engine.folds[tp]
            stage.to_make = [a for a in advances.get(tp, []) if a.position >= stage.position]

    def _await_stable(self, changelogs: Sequence[TP]) -> None:
        """Wait until everything that is in the changelogs now is committed or aborted."""
        high = self.log.ends(changelogs, stable=False)
        started, before = self.clock(), dict(high)
        since = started
        is_told = False
        while True:
            self._check_current()
            stable = self.log.ends(changelogs, stable=True)
            undecided = {tp: stable[tp] for tp in changelogs if stable[tp] < high[tp]}
            if not undecided:
                return
            if undecided != before:
                # Something was decided; what comes to light behind it gets the same time.
                started, before = self.clock(), undecided
                since, is_told = started, False
            if self.clock() - started >= self.patience_s:
                self._end_open_transactions(undecided)
                started = self.clock()
            if self.clock() - since >= HANGING_S and not is_told:
                self._tell_of_hanging(undecided)
                is_told = True
            self.sleep(_LOOK_EVERY_S)

    def _end_open_transactions(self, undecided: Mapping[TP, int]) -> None:
        writers = {self._writer_at(tp, stable) for tp, stable in undecided.items()}
        gone = sorted(w for w in writers if w not in (None, self.engine.transactional_id))
        logger.warning("ending_open_transactions", partitions=len(undecided), writers=gone)
        self.log.end_transactions(gone)

    def _tell_of_hanging(self, undecided: Mapping[TP, int]) -> None:
        found = (
            f"{tp.topic}[{tp.partition}] from offset {stable} by {self._writer_at(tp, stable)}"
            for tp, stable in sorted(undecided.items())
        )
        logger.error(
            "transactions_hang",
            error=f"found records undecided for {HANGING_S:.0f} s, expected the transactions to "
            f"end: {'; '.join(found)}",
            next_step=_NO_MARKER,
        )

    def _writer_at(self, tp: TP, stable: int) -> str | None:
        """Return who holds a partition back: the writer of the record at its last stable offset.

        Others have written behind it, and committed: they may be alive, and must not be fenced.
        """
        begin = {tp.partition: stable}
        for records in self.log.read(tp.topic, [tp.partition], begin, committed=False):
            return writer_of(*_entries(records[tp.partition])[0])
        return None

    def _check_known(self, tp: TP) -> None:
        partitions = self.engine.definitions.catalogue[tp.topic].partitions
        if tp.partition >= partitions:
            raise Refused(
                f"{tp.topic}[{tp.partition}]: found a partition that was added, expected "
                f"{partitions} of them: their keys have moved; set `partitions` in "
                f"ANDON_TOPICS_FILE, for the topic and its changelog alike, and {ANEW}"
            )

    def _read(
        self, topic: str, partition: int, entries: Sequence[tuple[bytes, bytes | None]]
    ) -> Saved:
        try:
            return read_saved(entries, self.engine.epoch)
        except UnknownFormat as problem:
            raise Refused(
                f"{topic}[{partition}]: {problem}: it was written by another release; go back to "
                f"that, or {ANEW}"
            ) from problem

    def _check(self, topic: str, partition: int, saved: Saved, ours: Basis) -> None:
        place = f"{topic}[{partition}]"
        if saved.newest_epoch > self.engine.epoch:
            raise Refused(
                f"{place}: found state of rebuild epoch {saved.newest_epoch}, expected none above "
                f"{self.engine.epoch}: a rebuild has begun; start this worker again"
            )
        if saved.progress is None:
            return
        if saved.basis is None:
            raise Refused(f"{place}: found state that does not say what it rests on: {ANEW}")
        faults = [f"{place}: {fault}" for fault in misfits(saved.basis, ours, ANEW)]
        if faults:
            raise Refused("\n  ".join(faults))

    def _check_range(self, topic: str, partition: int, saved: Saved, first: int, end: int) -> None:
        progress = saved.progress
        if progress is None:
            return
        needed = progress.position if progress.checkpoint is None else progress.checkpoint
        if progress.position > end or needed < first:
            raise Refused(
                f"{topic}[{partition}]: found progress {progress.position} with checkpoint "
                f"{progress.checkpoint}, expected both within the log, [{first}, {end}]: the topic "
                f"was made anew or its retention is too short; {ANEW}"
            )

    def _place(self, topic: str, partition: int, saved: Saved, first: int) -> None:
        tp, engine = TP(topic, partition), self.engine
        if topic == PARTIALS:
            engine.merges[tp] = MergeStage.recovered(
                partition, engine.definitions, saved, first, engine.epoch
            )
        else:
            plan = engine.definitions.inputs[topic]
            engine.folds[tp] = FoldStage.recovered(
                partition, plan, engine.definitions, saved, first
            )
        if saved.stale:
            engine.stale[tp] = saved.stale

    def _replay(self, topic: str, targets: Mapping[int, Progress]) -> None:
        stages = {p: self._stage(TP(topic, p)) for p in targets}
        begin = {p: stage.position for p, stage in stages.items()}
        end = {p: progress.position for p, progress in targets.items()}
        waiting = {p: list(progress.advances) for p, progress in targets.items()}
        moving = [p for p in targets if begin[p] < end[p]]
        for records in self.log.read(topic, moving, begin, end) if moving else ():
            self._check_current()
            self.on_records()
            for partition, found in records.items():
                tp = TP(topic, partition)
                last = found[-1].offset + 1
                self._retake_to(stages[partition], tp, found, last, waiting[partition])
        for partition, stage in stages.items():
            tp = TP(topic, partition)
            # What is left are holes, and advances at the very end.
            self._retake_to(stage, tp, [], end[partition], waiting[partition])
            for advance in waiting[partition]:
                _advance(stage, advance)

    def _retake_to(
        self,
        stage: FoldStage | MergeStage,
        tp: TP,
        records: list[Fetched],
        end: int,
        waiting: list[Advance],
    ) -> None:
        """Take records up to ``end``, making each logged advance at its position."""
        while waiting and waiting[0].position < end:
            advance = waiting.pop(0)
            before = [record for record in records if record.offset < advance.position]
            records = records[len(before) :]
            _take(stage, tp, before, advance.position)
            _advance(stage, advance)
        _take(stage, tp, records, end)

    def _compare(self, tp: TP, progress: Progress) -> None:
        stage = self._stage(tp)
        found: tuple[Any, ...] = (stage.position,)
        expected: tuple[Any, ...] = (progress.position,)
        if isinstance(stage, FoldStage):
            found += (stage.watermark_ms, stage.state.account)
            expected += (progress.watermark_ms, progress.account)
        if found != expected:
            raise Refused(
                f"{tp.topic}[{tp.partition}]: found {found} after taking the records since the "
                f"checkpoint again, expected {expected}: the input has changed, or this release "
                f"counts otherwise; {ANEW}"
            )

    def _stage(self, tp: TP) -> FoldStage | MergeStage:
        return self.engine.folds.get(tp) or self.engine.merges[tp]

    def _check_current(self) -> None:
        if not self.is_current():
            raise Superseded("the group has rebalanced again")


def _take(stage: FoldStage | MergeStage, tp: TP, records: list[Fetched], after: int) -> None:
    if after > stage.position:
        nbytes = sum(len(record.value or b"") for record in records)
        stage.take([Batch(tp, stage.position, after, Records.of(records), 0, nbytes)])


def _advance(stage: FoldStage | MergeStage, advance: Advance) -> None:
    if isinstance(stage, FoldStage):
        stage.advance(advance)


def _entries(records: Sequence[Fetched]) -> list[tuple[bytes, bytes | None]]:
    return [(record.key or b"", record.value) for record in records]
