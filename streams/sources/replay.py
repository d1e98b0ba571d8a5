"""Replay: events of any source to the input topics, in the order and at the pace of their time."""

import json
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np
import polars as pl
from confluent_kafka import KafkaError, Message, Producer

from schemas.catalogue import Catalogue
from schemas.client import producer_config
from schemas.codec import Codec
from schemas.contract import load_contract
from schemas.errors import ContractViolation
from schemas.headers import cloud_event_headers
from schemas.registry import SchemaRegistry
from streams.sources.events import Skipped, SourceEvent

MAX_SPEED: Final = math.inf

_CHUNK: Final = 5_000
_POLL_EVERY: Final = 500
_SLICE_S: Final = 0.2
_FLUSH_S: Final = 60.0


RecordHeaders = list[tuple[str, str | bytes | None]]


@dataclass(frozen=True, slots=True)
class Outgoing:
    """One record as the producer sends it."""

    topic: str
    key: bytes
    value: bytes
    headers: RecordHeaders
    event_time_ms: int


@dataclass(slots=True)
class Replayed:
    """What a replay did: records delivered by topic, what it left out, and how long it took."""

    delivered: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    skipped: list[Skipped] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def events_per_second(self) -> float:
        """Delivered records a second, from the first encoded to the last acknowledged."""
        return self.delivered.total() / self.seconds if self.seconds else 0.0

    @property
    def is_whole(self) -> bool:
        """Whether every event was delivered."""
        return not self.skipped and not self.failed


class Encoder:
    """Turns events into records of the input topics, many at a time."""

    def __init__(self, catalogue: Catalogue, registry: SchemaRegistry) -> None:
        self._codecs = {
            topic.contract: Codec(topic.contract, registry, topic.name)
            for topic in catalogue.inputs
            if topic.contract is not None
        }

    def encode(self, events: Sequence[SourceEvent]) -> tuple[list[Outgoing], list[Skipped]]:
        """Return the records in the order of the events, and the events that break their contract.

        Raises ``RegistryUnavailable`` where the registry does not answer.
        """
        values: dict[int, bytes] = {}
        skipped: dict[int, Skipped] = {}
        for contract, codec in self._codecs.items():
            numbers = [n for n, event in enumerate(events) if event.contract == contract]
            if not numbers:
                continue
            encoded = _encode_all(codec, [events[n].record for n in numbers])
            for n, value in zip(numbers, encoded, strict=True):
                if isinstance(value, bytes):
                    values[n] = value
                else:
                    skipped[n] = Skipped(events[n].place or events[n].event_id, value)
        kept = sorted(values)
        return (
            self._outgoing([events[n] for n in kept], [values[n] for n in kept]),
            [skipped[n] for n in sorted(skipped)],
        )

    def _outgoing(self, events: list[SourceEvent], values: list[bytes]) -> list[Outgoing]:
        times_ms = [event.event_time_ms for event in events]
        return [
            Outgoing(
                self._codecs[event.contract].topic, event.key.encode(), value, headers, time_ms
            )
            for event, value, headers, time_ms in zip(
                events, values, headers_of(events, times_ms), times_ms, strict=True
            )
        ]


def headers_of(events: Sequence[SourceEvent], times_ms: Sequence[int]) -> list[RecordHeaders]:
    """Return each event's CloudEvents headers; its type is its contract.

    The same as ``cloud_event_headers`` of each, with the times written all at once and the rest
    once for each contract and source: one by one they would cost more than encoding and sending.
    """
    common: dict[tuple[str, str], RecordHeaders] = {}
    texts = np.datetime_as_string(np.array(times_ms, "datetime64[ms]"), unit="ms").tolist()
    headers = []
    for event, text in zip(events, texts, strict=True):
        kind = event.contract, event.source
        if kind not in common:
            *first, _, _ = cloud_event_headers(*kind, "", 0)
            common[kind] = [*first]
        own: RecordHeaders = [("ce_id", event.event_id), ("ce_time", text + "Z")]
        headers.append(common[kind] + own)
    return headers


def _encode_all(codec: Codec, records: Sequence[Mapping[str, Any]]) -> list[bytes | str]:
    """Return for each record its bytes, or what is wrong with it."""
    try:
        frame = pl.DataFrame(records, schema=codec.contract.columns, orient="row")
        batches = frame.rechunk().to_arrow().to_batches()
        values: list[bytes | str] = [v for batch in batches for v in codec.encode_columns(batch)]
    except (ContractViolation, pl.exceptions.PolarsError, TypeError, OverflowError):
        return [_encode_one(codec, record) for record in records]
    # The writer knows types alone; what every reader checks is checked here by the same code.
    for rejected in codec.columns(values, []).rejected:  # type: ignore[arg-type]
        values[rejected.index] = rejected.message
    return values


def _encode_one(codec: Codec, record: Mapping[str, Any]) -> bytes | str:
    try:
        return codec.encode(codec.record(dict(record)))
    except ContractViolation as violation:
        return str(violation)


@dataclass(frozen=True, slots=True)
class Pace:
    """When an event is due: event time runs ``speed`` times as fast as the clock.

    >>> Pace(speed=60, first_ms=0).due_s(120_000)
    2.0
    """

    speed: float
    first_ms: int

    def due_s(self, event_time_ms: int) -> float:
        """Return seconds after the start at which an event of this time is due."""
        return (event_time_ms - self.first_ms) / 1000 / self.speed


def shifted_to_now(events: Sequence[SourceEvent], speed: float, now_ms: int) -> list[SourceEvent]:
    """Return the events as if they happened now: none lies ahead of the clock when it is sent.

    At speed 1 the first happens at ``now_ms``; faster, they begin in the past and the last one is
    caught up with at the end. Every instant moves by the same span, and the ids name it: they are
    other events than those of the file.
    """
    if not events:
        return []
    first_ms = min(event.event_time_ms for event in events)
    last_ms = max(event.event_time_ms for event in events)
    shift_ms = now_ms + round((last_ms - first_ms) / speed) - last_ms
    return [
        replace(
            event,
            record={
                **event.record,
                **_moved(event.record, _instants(event.contract), shift_ms),
                "event_id": f"{event.event_id}+{shift_ms}",
            },
        )
        for event in events
    ]


def _instants(contract: str) -> list[str]:
    fields = load_contract(contract).schema["fields"]
    return [f["name"] for f in fields if "timestamp-millis" in json.dumps(f["type"])]


def _moved(record: Mapping[str, Any], names: list[str], shift_ms: int) -> dict[str, int]:
    return {name: record[name] + shift_ms for name in names if record.get(name) is not None}


class Replay:
    """Sends events to the input topics with an idempotent producer and checks every delivery."""

    def __init__(self, client_config: Mapping[str, Any], encoder: Encoder) -> None:
        self._encoder = encoder
        config = producer_config(
            client_config,
            # The partition of a key as the Java clients choose it.
            linger_ms=5,
            queue_buffering_max_messages=200_000,
        )
        # What is tried again is no news, and what has failed is told by its delivery report.
        self._producer = Producer({**config, "log_level": 3})
        self._done = Replayed()

    def run(
        self,
        events: Sequence[SourceEvent],
        speed: float = MAX_SPEED,
        progress: Callable[[int, int], None] = lambda _sent, _event_time_ms: None,
    ) -> Replayed:
        """Send the events in their order and return when all are acknowledged.

        ``progress`` is told events sent and the event time reached. With a finite ``speed`` an
        event waits until it is due; one that is older than its predecessor goes at once.
        """
        started = time.monotonic()
        pace = Pace(speed, events[0].event_time_ms if events else 0)
        for sent, record in enumerate(self._records(events), start=1):
            self._wait_until(started + pace.due_s(record.event_time_ms), sent, record, progress)
            self._send(record)
            if sent % _POLL_EVERY == 0:
                self._producer.poll(0)
                progress(sent, record.event_time_ms)
        self._settle()
        self._done.seconds = time.monotonic() - started
        return self._done

    def _settle(self) -> None:
        deadline = time.monotonic() + _FLUSH_S
        while len(self._producer) and time.monotonic() < deadline:
            self._producer.poll(_SLICE_S)
        if len(self._producer):
            self._done.failed[f"not acknowledged within {_FLUSH_S:g} s"] += len(self._producer)

    def _records(self, events: Sequence[SourceEvent]) -> Iterator[Outgoing]:
        for start in range(0, len(events), _CHUNK):
            outgoing, skipped = self._encoder.encode(events[start : start + _CHUNK])
            self._done.skipped += skipped
            yield from outgoing

    def _wait_until(
        self, due_s: float, sent: int, record: Outgoing, progress: Callable[[int, int], None]
    ) -> None:
        # Short slices: deliveries are reported, and Ctrl-C is heard, in between.
        while (left_s := due_s - time.monotonic()) > 0:
            progress(sent - 1, record.event_time_ms)
            self._producer.poll(min(left_s, _SLICE_S))

    def _send(self, record: Outgoing) -> None:
        while True:
            try:
                self._producer.produce(
                    record.topic,
                    record.value,
                    record.key,
                    headers=record.headers,
                    on_delivery=self._delivered,
                )
            except BufferError:
                self._producer.poll(_SLICE_S)
            else:
                return

    def _delivered(self, error: KafkaError | None, message: Message) -> None:
        if error is None:
            self._done.delivered[str(message.topic())] += 1
        else:
            self._done.failed[error.str()] += 1
