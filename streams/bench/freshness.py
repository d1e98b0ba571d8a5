"""What is seen from outside: how far the workers are, and how fresh what they publish is."""

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Self, cast

from confluent_kafka import (
    OFFSET_END,
    Consumer,
    IsolationLevel,
    KafkaException,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient, OffsetSpec

from schemas.catalogue import KPIS, Catalogue
from schemas.client import consumer_config, list_offsets

_LOOK_S: Final = 0.2
_ASK_S: Final = 3.0


@dataclass(frozen=True, slots=True)
class Mark:
    """A moment: wall clock in ms, and the positions that the inputs were committed to by then."""

    at_ms: float
    positions: Mapping[tuple[str, int], int]


class Watch:
    """Follows the group's committed positions and the committed KPI records; a context.

    `client` is librdkafka's configuration, for the broker itself where workers go another way.
    """

    def __init__(self, client: Mapping[str, Any], group: str, catalogue: Catalogue) -> None:
        self._group = group
        self._asked = [
            TopicPartition(topic.name, p)
            for topic in catalogue.inputs
            for p in range(topic.partitions)
        ]
        self._kpi_partitions = range(catalogue[KPIS].partitions)
        self._client = dict(client)
        self._asker = Consumer(consumer_config(client, group_id=group))
        self._reader = Consumer(consumer_config(client, fetch_wait_max_ms=100))
        self._reader.assign([TopicPartition(KPIS, p, OFFSET_END) for p in self._kpi_partitions])
        self._positions: dict[tuple[str, int], int] = {}
        self._written_ms: dict[int, float] = {}
        self._over = threading.Event()
        self._threads = [
            threading.Thread(target=work, name=work.__name__, daemon=True)
            for work in (self._follow_positions, self._follow_records)
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()
        self._asker.close()
        self._reader.close()

    @property
    def processed(self) -> int:
        """How many input records are processed, as the group has committed them."""
        return sum(self._positions.values())

    def mark(self) -> Mark:
        """Return this moment."""
        at_ms = time.time() * 1000
        self._look()
        return Mark(at_ms, dict(self._positions))

    def is_fresh_since(self, mark: Mark) -> bool:
        """Tell whether every part of the pipeline has moved on.

        Of each partition of the KPI topic a record written later is committed, and of each input
        partition more is processed, or all there is: whoever owned it before, somebody does now.
        """
        return not self._stale_since(mark) and not self._waiting_since(mark)

    def missing_since(self, mark: Mark) -> str:
        """Return which partitions have not moved on, for a message."""
        inputs = [f"{topic}-{partition}" for topic, partition in self._waiting_since(mark)]
        return f"no new records in {KPIS} {self._stale_since(mark)}, no progress in {inputs}"

    def _stale_since(self, mark: Mark) -> list[int]:
        return [p for p in self._kpi_partitions if self._written_ms.get(p, 0.0) <= mark.at_ms]

    def _waiting_since(self, mark: Mark) -> list[tuple[str, int]]:
        positions = self._positions
        still = [key for key, held in mark.positions.items() if positions[key] <= held]
        latest = OffsetSpec.latest()  # type: ignore[no-untyped-call]
        asked = {TopicPartition(*key): latest for key in still}
        try:
            ends = list_offsets(
                AdminClient(self._client), asked, IsolationLevel.READ_COMMITTED, _ASK_S
            )
        except (KafkaException, TimeoutError):
            return still
        return [key for key in still if ends[key] > positions[key]]

    def members(self) -> int:
        """Return how many members the group has; -1 where the broker does not say."""
        try:
            # A new client: one that has lost its broker may not find the coordinator again.
            admin = AdminClient(self._client)
            described = admin.describe_consumer_groups([self._group], request_timeout=_ASK_S)
            return len(described[self._group].result(_ASK_S).members)
        except (KafkaException, TimeoutError):
            return -1

    def _look(self) -> None:
        try:
            found = self._asker.committed(self._asked, _ASK_S)
        except KafkaException:
            return  # the broker is away: what is known stays
        for each in found:
            if each.error is None:
                self._positions[each.topic, each.partition] = max(0, each.offset)

    def _follow_positions(self) -> None:
        while not self._over.wait(_LOOK_S):
            self._look()

    def _follow_records(self) -> None:
        while not self._over.is_set():
            for message in self._reader.consume(5_000, _LOOK_S):
                if message.error() is None:
                    partition = cast(int, message.partition())
                    written_ms = message.timestamp()[1]
                    before_ms = self._written_ms.get(partition, 0.0)
                    self._written_ms[partition] = max(before_ms, float(written_ms))
