"""The newest record of each key of an output topic, as columns, and what comes after."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import polars as pl
from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from schemas.catalogue import load_catalogue
from schemas.client import consumer_config, offset_ranges, read_all
from schemas.codec import Codec
from schemas.errors import TopicMissing
from schemas.registry import open_registry
from streams.cli import CommandError
from streams.cli.common import require_kafka, say
from streams.settings import Settings

KEY, OFFSET = "_key", "_offset"

_COMPACT_EVERY = 100_000
_BATCH = 1_000
_WAIT_S = 0.5


class Newest:
    """Reads a topic to its end, and follows it from there.

    Args:
        settings: name brokers, registry and catalogue.
        topic: an output topic with a contract.
        identity: column that tells records apart; the Kafka key where it is None.
        order: column by which the newest is the greatest.
        chosen: which records are wanted.

    """

    def __init__(
        self,
        settings: Settings,
        topic: str,
        *,
        identity: str | None,
        order: str,
        chosen: pl.Expr,
    ) -> None:
        require_kafka(settings)
        url = settings.schema_registry_url
        contract = load_catalogue(settings.topics_file)[topic].contract
        assert contract is not None
        self._codec = Codec(contract, open_registry(None if url is None else str(url)), topic)
        self._client = settings.kafka_client()
        self._identity, self._order, self._chosen = identity, order, chosen
        self._ends: dict[int, int] = {}
        self._known: dict[str, int] = {}

    def read(self) -> pl.DataFrame:
        """Return the newest record of each key; raise CommandError where there is no topic."""
        try:
            self._ends = {
                p: end for p, (_, end) in offset_ranges(self._client, self._codec.topic).items()
            }
            frame = self._read_all()
        except TopicMissing as problem:
            raise CommandError(
                str(problem), "make the topics with `andon topics create`"
            ) from problem
        self._known = dict(frame.select(KEY, self._order).iter_rows())
        return frame

    def follow(self) -> Iterator[pl.DataFrame]:
        """Yield newer records as they are committed, without end."""
        consumer = Consumer(consumer_config(self._client))
        try:
            consumer.assign(
                [TopicPartition(self._codec.topic, p, end) for p, end in self._ends.items()]
            )
            while True:
                frame = self._newest([self._frame(_sound(consumer.consume(_BATCH, _WAIT_S)))])
                fresh = frame.filter(
                    [
                        order > self._known.get(key, -1)
                        for key, order in frame.select(KEY, self._order).iter_rows()
                    ]
                )
                self._known.update(fresh.select(KEY, self._order).iter_rows())
                if len(fresh):
                    yield fresh
        finally:
            consumer.close()

    def _read_all(self) -> pl.DataFrame:
        pieces = [self._frame([])]
        rows = 0
        for messages in read_all(self._client, self._codec.topic):
            pieces.append(self._frame(messages))
            rows += len(pieces[-1])
            if rows > _COMPACT_EVERY:
                pieces, rows = [self._newest(pieces)], 0
        return self._newest(pieces)

    def _frame(self, messages: Sequence[Any]) -> pl.DataFrame:
        values = [m for m in messages if m.value()]
        decoded = self._codec.columns([m.value() for m in values], [])
        for rejected in decoded.rejected:
            message = values[rejected.index]
            say(f"skipped {message.partition()}:{message.offset()}: {rejected.message}")
        kept = [values[i] for i in decoded.index.tolist()]
        keys = pl.Series(KEY, [(m.key() or b"").decode(errors="replace") for m in kept], pl.String)
        offsets = pl.Series(OFFSET, [m.offset() for m in kept], pl.Int64)
        frame = decoded.frame.with_columns(keys, offsets)
        if self._identity is not None:
            frame = frame.with_columns(pl.col(self._identity).alias(KEY))
        return frame.filter(self._chosen)

    def _newest(self, pieces: Sequence[pl.DataFrame]) -> pl.DataFrame:
        frame = pl.concat(pieces).sort(self._order, maintain_order=True)
        return frame.unique(KEY, keep="last", maintain_order=True)


def plain(frame: pl.DataFrame) -> Iterator[dict[str, Any]]:
    """Yield the records in their contract's form."""
    return frame.drop(KEY, OFFSET).iter_rows(named=True)


def _sound(messages: Sequence[Any]) -> list[Any]:
    for each in messages:
        error = each.error()
        if error is not None and error.code() != KafkaError._PARTITION_EOF:  # noqa: SLF001
            raise KafkaException(error)
    return [each for each in messages if each.error() is None]
