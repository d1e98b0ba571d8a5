"""A rebuild: everything once more from the input topics, in the next epoch.

Its beginning is one transaction. It marks every changelog partition with the new epoch, at once, so
that no two workers can find different ones, and moves the group's offsets to where reading begins.
From then on every worker that starts works in the new epoch, with state of its own; one that still
has the old epoch ends at the first sign of the new. There is no way back, and none is needed:
published records stay until newer versions of them come.

While the marks are there, workers know what is published already, and do not publish it twice.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from faust.types import TP

from schemas.catalogue import PARTIALS
from streams.definitions import Definitions
from streams.log import KafkaLog
from streams.state import Entry, newest_epoch, rebuild_entry

_TIMEOUT_S = 30.0
_STABLE_S = 90.0
_LOOK_EVERY_S = 0.1
_SHORT_REST = 1_000
_LOADING = (
    KafkaError.NOT_COORDINATOR,
    KafkaError.COORDINATOR_NOT_AVAILABLE,
    KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
)


class CannotRebuild(Exception):
    """There is nothing to rebuild, or somebody is in the way; ``next_step`` says what to do."""

    exit_code = 1

    def __init__(self, problem: str, next_step: str) -> None:
        super().__init__(problem)
        self.next_step = next_step


@dataclass(frozen=True, slots=True)
class Begun:
    """The epoch of a rebuild that is under way, and whether it was so before."""

    epoch: int
    goes_on: bool


@dataclass(slots=True)
class Rebuild:
    """Begins and ends the rebuild of one group; ``client`` is librdkafka's configuration."""

    client: Mapping[str, Any]
    group: str
    definitions: Definitions
    _log: KafkaLog = field(init=False)

    def __post_init__(self) -> None:
        self._log = KafkaLog(self.client)

    def begin(self) -> Begun:
        """Mark the next epoch as begun; a rebuild that was interrupted just goes on.

        Raises :class:`CannotRebuild` where nothing was processed before, or a transaction of a
        worker stays open.
        """
        self._await_stable()
        epoch, is_marked = self._newest()
        if epoch < 0:
            raise CannotRebuild(
                "state: none, expected some of an earlier epoch: nothing was processed yet",
                "start a worker with `andon worker`: it reads the inputs from their beginning",
            )
        if is_marked:
            return Begun(epoch, goes_on=True)
        starts = dict(self._starts())
        marks = {tp: rebuild_entry(epoch + 1, start) for tp, start in starts.items()}
        self._write(marks, starts)
        return Begun(epoch + 1, goes_on=False)

    def end(self, epoch: int) -> None:
        """Take the marks away: what is decided from now on is new."""
        self._write({tp: rebuild_entry(epoch, None) for tp in self.partitions()}, {})

    def partitions(self) -> Iterator[TP]:
        """Yield the partitions that workers consume, inputs and partials."""
        for topic in self.definitions.sources:
            for partition in range(self.definitions.catalogue[topic].partitions):
                yield TP(topic, partition)

    def members(self) -> int:
        """Return how many workers the group has."""
        admin = AdminClient({**self.client})
        deadline = time.monotonic() + _TIMEOUT_S
        while True:
            asked = admin.describe_consumer_groups([self.group], request_timeout=_TIMEOUT_S)
            try:
                return len(asked[self.group].result(_TIMEOUT_S).members)
            except KafkaException as problem:
                # A broker that has just started has yet to load who was in its groups.
                if problem.args[0].code() not in _LOADING or time.monotonic() > deadline:
                    raise
            time.sleep(_LOOK_EVERY_S)

    def _changelogs(self) -> list[TP]:
        return [TP(self.definitions.changelog(tp.topic), tp.partition) for tp in self.partitions()]

    def _await_stable(self) -> None:
        """Wait until what workers have left open is committed or aborted, by the broker at last."""
        changelogs = self._changelogs()
        ends = self._log.ends(changelogs, stable=False)
        deadline = time.monotonic() + _STABLE_S
        while True:
            stable = self._log.ends(changelogs, stable=True)
            if all(stable[tp] >= ends[tp] for tp in changelogs):
                return
            if time.monotonic() > deadline:
                raise CannotRebuild(
                    f"changelogs: found a transaction open for {_STABLE_S:.0f} s, expected none",
                    "see that no worker runs, and begin again",
                )
            time.sleep(_LOOK_EVERY_S)

    def _newest(self) -> tuple[int, bool]:
        """Return the newest epoch that has state or marks, and whether its rebuild is under way."""
        epoch, marked = -1, -1
        for topic in self.definitions.sources:
            changelog = self.definitions.changelog(topic)
            partitions = range(self.definitions.catalogue[topic].partitions)
            marks: dict[tuple[int, bytes], bool] = {}
            for records in self._log.read(changelog, partitions):
                for partition, found in records.items():
                    keys = [record.key or b"" for record in found if record.value is not None]
                    epoch = max(epoch, newest_epoch(keys))
                    for record in found:
                        if (record.key or b"").endswith(b"|rebuild"):
                            marks[partition, record.key or b""] = record.value is not None
            marked = max(marked, newest_epoch(key for (_, key), there in marks.items() if there))
        return epoch, epoch >= 0 and marked == epoch

    def _starts(self) -> Iterator[tuple[TP, int]]:
        """Yield where reading begins: inputs at their first record, partials after their last."""
        for topic in self.definitions.sources:
            partitions = range(self.definitions.catalogue[topic].partitions)
            for partition, (first, end) in self._log.ranges(topic, partitions).items():
                yield TP(topic, partition), end if topic == PARTIALS else first

    def _write(self, entries: Mapping[TP, Entry], offsets: Mapping[TP, int]) -> None:
        # One id for all rebuilds of the group: who comes second ends the first.
        name = f"{self.group}-rebuild"
        producer = Producer({**self.client, "transactional.id": name, "acks": "all"})
        producer.init_transactions(_TIMEOUT_S)
        producer.begin_transaction()
        for tp, entry in entries.items():
            changelog = self.definitions.changelog(tp.topic)
            producer.produce(changelog, entry.value, entry.key, partition=tp.partition)
        if offsets:
            places = [TopicPartition(tp.topic, tp.partition, at) for tp, at in offsets.items()]
            producer.send_offsets_to_transaction(places, self._no_membership(), _TIMEOUT_S)
        producer.commit_transaction(_TIMEOUT_S)

    def _no_membership(self) -> Any:
        """Return the metadata of nobody: a group without members takes offsets from anyone."""
        consumer = Consumer({**self.client, "group.id": self.group})
        try:
            return consumer.consumer_group_metadata()
        finally:
            consumer.close()


@dataclass(slots=True)
class Progress:
    """How far a rebuild has come, by the offsets that the group has committed.

    The inputs may grow meanwhile: it is done once everything that was there ``settled_s`` seconds
    ago is folded, and all partials are merged that had come of it.
    """

    rebuild: Rebuild
    settled_s: float = 3.0
    done: int = 0
    total: int = 0
    _ends: list[tuple[float, dict[TP, int]]] = field(default_factory=list)
    _folded: dict[TP, int] = field(default_factory=dict)

    def look(self) -> bool:
        """Look again; return whether the rebuild has caught up."""
        tps = list(self.rebuild.partitions())
        inputs = [tp for tp in tps if tp.topic != PARTIALS]
        positions = _committed(self.rebuild.client, self.rebuild.group, tps)
        ranges = _ranges(self.rebuild.client, inputs)
        self.total = sum(end - first for first, end in ranges.values())
        self.done = sum(max(0, positions[tp] - first) for tp, (first, _) in ranges.items())
        ends = self._ends_before({tp: end for tp, (_, end) in ranges.items()})
        if not self._folded and ends and self._is_through(positions, ends):
            # Partials lie in the log, committed or not, before the offsets of what they came of.
            partials = [tp for tp in tps if tp.topic == PARTIALS]
            self._folded = KafkaLog(self.rebuild.client).ends(partials, stable=False)
        return bool(self._folded) and self._is_through(positions, self._folded)

    def _ends_before(self, ends: dict[TP, int]) -> dict[TP, int]:
        """Return where the inputs ended some seconds ago, nothing as long as nobody knows."""
        now = time.monotonic()
        self._ends.append((now, ends))
        while len(self._ends) > 1 and self._ends[1][0] <= now - self.settled_s:
            del self._ends[0]
        seen_s, before = self._ends[0]
        return before if now - seen_s >= self.settled_s else {}

    def _is_through(self, positions: Mapping[TP, int], ends: Mapping[TP, int]) -> bool:
        """Tell whether no record lies between; the last offsets may be markers of transactions."""
        rests = {tp: end for tp, end in ends.items() if positions[tp] < end}
        if any(end - positions[tp] > _SHORT_REST for tp, end in rests.items()):
            return False
        log = KafkaLog(self.rebuild.client)
        stable = log.ends(rests, stable=True)
        if any(stable[tp] < end for tp, end in rests.items()):
            return False
        spans = (({tp.partition: positions[tp]}, {tp.partition: end}) for tp, end in rests.items())
        found = (
            log.read(tp.topic, [*span[0]], *span) for tp, span in zip(rests, spans, strict=True)
        )
        return not any(True for records in found for _ in records)


def _ranges(client: Mapping[str, Any], tps: Sequence[TP]) -> dict[TP, tuple[int, int]]:
    log = KafkaLog(client)
    found: dict[TP, tuple[int, int]] = {}
    for topic in dict.fromkeys(tp.topic for tp in tps):
        partitions = [tp.partition for tp in tps if tp.topic == topic]
        found |= {TP(topic, p): span for p, span in log.ranges(topic, partitions).items()}
    return found


def _committed(client: Mapping[str, Any], group: str, tps: Sequence[TP]) -> dict[TP, int]:
    consumer = Consumer({**client, "group.id": group})
    try:
        asked = [TopicPartition(tp.topic, tp.partition) for tp in tps]
        found = consumer.committed(asked, _TIMEOUT_S)
        return {TP(each.topic, each.partition): each.offset for each in found}
    finally:
        consumer.close()
