"""The log as recovery reads it: a port, and Kafka behind it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

from confluent_kafka import IsolationLevel, Producer, TopicCollection, TopicPartition, Uuid
from confluent_kafka.admin import AdminClient, OffsetSpec
from faust.types import TP

from schemas.client import list_offsets, offset_ranges, read_all
from streams.records import Fetched

_TIMEOUT_S = 30
_NO_ID = str(Uuid(0, 0))


class Log(Protocol):
    """What recovery asks of a log of transactions."""

    def ends(self, partitions: Iterable[TP], *, stable: bool) -> dict[TP, int]:
        """Return last stable offsets, or high watermarks, of partitions."""

    def ranges(self, topic: str, partitions: Sequence[int]) -> dict[int, tuple[int, int]]:
        """Return the first offset and the last stable offset (exclusive) of partitions."""

    def topic_id(self, topic: str) -> str:
        """Return what tells a topic from another of its name, empty where the log does not say."""

    def read(
        self,
        topic: str,
        partitions: Sequence[int],
        begin: Mapping[int, int] | None = None,
        end: Mapping[int, int] | None = None,
        *,
        committed: bool = True,
    ) -> Iterator[dict[int, list[Fetched]]]:
        """Yield records by partition, in the log's order, up to what its end is now.

        ``begin`` and ``end`` (exclusive) bound the offsets. Without ``committed`` the records of
        open and of aborted transactions come too.
        """

    def end_transactions(self, transactional_ids: Sequence[str]) -> None:
        """End whatever is open under the ids of writers that are gone; a live one is fenced."""


def _fetched(message: Any) -> Fetched:
    return Fetched(
        message.offset(),
        message.timestamp()[1],
        message.key(),
        message.value(),
        message.headers() or (),
    )


def topic_ids(admin: AdminClient, topics: Sequence[str]) -> dict[str, str]:
    """Return the ids of topics, empty for brokers that give none. Raises KafkaException."""
    described = admin.describe_topics(TopicCollection([*topics]), request_timeout=_TIMEOUT_S)
    found = {name: str(future.result().topic_id) for name, future in described.items()}
    return {name: "" if topic_id == _NO_ID else topic_id for name, topic_id in found.items()}


class KafkaLog:
    """The log of a Kafka cluster; ``client`` is librdkafka's configuration."""

    def __init__(self, client: Mapping[str, Any], timeout_s: float = _TIMEOUT_S) -> None:
        self._client = client
        self._timeout_s = timeout_s
        self._admin = AdminClient(dict(client))

    def ends(self, partitions: Iterable[TP], *, stable: bool) -> dict[TP, int]:
        """Return last stable offsets, or high watermarks, of partitions."""
        levels = IsolationLevel
        level = levels.READ_COMMITTED if stable else levels.READ_UNCOMMITTED
        latest = OffsetSpec.latest()  # type: ignore[no-untyped-call]
        asked = {TopicPartition(tp.topic, tp.partition): latest for tp in partitions}
        found = list_offsets(self._admin, asked, level, self._timeout_s)
        return {TP(*place): offset for place, offset in found.items()}

    def ranges(self, topic: str, partitions: Sequence[int]) -> dict[int, tuple[int, int]]:
        """Return the first offset and the last stable offset (exclusive) of partitions."""
        return offset_ranges(self._client, topic, partitions)

    def topic_id(self, topic: str) -> str:
        """Return the topic's id; a broker before Kafka 2.8 gives none."""
        return topic_ids(self._admin, [topic])[topic]

    def read(
        self,
        topic: str,
        partitions: Sequence[int],
        begin: Mapping[int, int] | None = None,
        end: Mapping[int, int] | None = None,
        *,
        committed: bool = True,
    ) -> Iterator[dict[int, list[Fetched]]]:
        """Yield records by partition. Raises TopicMissing, or KafkaException if refused."""
        isolation = "read_committed" if committed else "read_uncommitted"
        client = {**self._client, "isolation.level": isolation}
        for messages in read_all(client, topic, partitions=partitions, begin=begin, end=end):
            found: dict[int, list[Fetched]] = {}
            for message in messages:
                found.setdefault(int(message.partition() or 0), []).append(_fetched(message))
            yield found

    def end_transactions(self, transactional_ids: Sequence[str]) -> None:
        """End whatever is open under the ids of writers that are gone; a live one is fenced."""
        for transactional_id in transactional_ids:
            producer = Producer({**self._client, "transactional.id": transactional_id})
            producer.init_transactions(_TIMEOUT_S)
