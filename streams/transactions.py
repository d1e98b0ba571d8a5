"""The one place that commits: a flush as a fenced Kafka transaction."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from confluent_kafka import (
    Consumer,
    KafkaError,
    KafkaException,
    Producer,
    TopicPartition,
)

from streams.columnar import Membership
from streams.flush import Flush, group_metadata, no_membership
from streams.records import Record

_POLL_EVERY = 1_000


class FlushFailed(Exception):
    """A flush did not reach the log, or nobody knows whether it did."""


class KafkaTransactions:
    """librdkafka's transactional producer, one for the life of a worker."""

    def __init__(
        self, client: Mapping[str, Any], group: str, transactional_id: str, timeout_ms: int
    ) -> None:
        self._group = group
        self._timeout_s = timeout_ms / 1000
        _check_layout(client, group)
        self._failed: list[KafkaError] = []
        self._producer = Producer(
            {
                **client,
                "transactional.id": transactional_id,
                "transaction.timeout.ms": timeout_ms,
                "acks": "all",
                "compression.type": "lz4",
                "linger.ms": 2,
                # The default backoff of 100 ms would be the longest part of every transaction.
                "retry.backoff.ms": 5,
                "retry.backoff.max.ms": 20,
                # With all brokers away librdkafka would begin anew from the bootstrap servers, and
                # then wait for ever, whatever the timeout, for the group coordinator it had known.
                "metadata.recovery.strategy": "none",
                "reconnect.backoff.max.ms": 1_000,
                "message.max.bytes": 8 << 20,
                "queue.buffering.max.messages": 1_000_000,
                "queue.buffering.max.kbytes": 1 << 20,
                "delivery.report.only.error": True,
                "on_delivery": self._on_delivery,
            }
        )

    def start(self) -> None:
        """Take the transactional id over, ending whatever is open under it."""
        self._producer.init_transactions(30)

    def commit(self, flush: Flush, membership: Membership) -> None:
        """Write everything and the offsets.

        Raises :class:`FlushFailed` or KafkaException if any of it, or its outcome, is in doubt, and
        NotAMember before anything is sent; the caller must end the process then.
        """
        metadata = group_metadata(self._group, membership)
        if not flush.offsets:
            raise FlushFailed(
                "flush: found no offsets, expected some: it is with them that the broker checks "
                "the membership"
            )
        self._producer.begin_transaction()
        try:
            self._write(flush)
        except (SystemError, KafkaException) as problem:
            raise FlushFailed(f"flush: {self._reason_of(problem)}") from problem
        offsets = [
            TopicPartition(tp.topic, tp.partition, offset) for tp, offset in flush.offsets.items()
        ]
        self._retrying(
            lambda: self._producer.send_offsets_to_transaction(offsets, metadata, self._timeout_s)
        )
        self._retrying(lambda: self._producer.commit_transaction(self._timeout_s))

    def _write(self, flush: Flush) -> None:
        for count, record in enumerate(flush.records):
            self._produce(record)
            if count % _POLL_EVERY == 0:
                self._producer.poll(0)
        self._deliver()

    def _produce(self, record: Record) -> None:
        # An empty list of headers would cost nearly as much as all the rest of the call.
        headers: dict[str, Any] = {"headers": [*record.headers]} if record.headers else {}
        while True:
            try:
                self._producer.produce(
                    record.topic, record.value, record.key, record.partition, **headers
                )
            except BufferError:
                self._producer.poll(0.05)
            else:
                return

    def _deliver(self) -> None:
        left = self._producer.flush(self._timeout_s)
        if left or self._failed:
            raise FlushFailed(
                f"flush: {left} records undelivered, errors {self._failed[:3]}, expected all of "
                f"them within {self._timeout_s} s"
            )

    def _retrying(self, step: Any) -> None:
        """Repeat a step while librdkafka says that this is safe; then its outcome is known."""
        deadline = time.monotonic() + self._timeout_s
        while True:
            try:
                step()
            except KafkaException as problem:
                if not problem.args[0].retriable() or time.monotonic() > deadline:
                    raise
            else:
                return

    def _reason_of(self, problem: Exception) -> BaseException:
        """Return why the client can go on no more, where it fails for that without saying it.

        What is produced after a fatal error is refused, polling may raise it in the middle of a
        delivery report and lose it, and with no transaction to save an abort only tells it.
        """
        if problem.__cause__ is not None:
            return problem.__cause__
        try:
            self._producer.poll(0)
            if isinstance(problem, SystemError) or problem.args[0].code() == KafkaError._FATAL:  # noqa: SLF001
                self._producer.abort_transaction(1)
        except KafkaException as reason:
            return reason
        return problem

    def _on_delivery(self, error: KafkaError | None, _message: Any) -> None:
        if error is not None:
            self._failed.append(error)


def _check_layout(client: Mapping[str, Any], group: str) -> None:
    """Refuse a librdkafka whose group metadata are laid out otherwise than ours."""
    consumer = Consumer({**client, "group.id": group})
    try:
        found = consumer.consumer_group_metadata()
    finally:
        consumer.close()
    if found != no_membership(group):
        raise FlushFailed(
            f"librdkafka: found group metadata {found!r}, expected {no_membership(group)!r}: "
            "install a confluent-kafka release of the range in pyproject.toml"
        )
