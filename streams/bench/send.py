"""The load on its way to Kafka: as fast as it goes, or at an even rate."""

import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from operator import itemgetter
from typing import Any, Final

from confluent_kafka import Producer

from schemas.catalogue import Catalogue
from schemas.client import offset_ranges, producer_config
from schemas.codec import Codec
from schemas.registry import open_registry
from streams.bench.load import USUAL, Stretch, Variant, parts

_CHUNK: Final = 50_000
_TICK_S: Final = 0.005
_FLUSH_S: Final = 300.0
_POLL_EVERY: Final = 10_000

Outgoing = tuple[str, bytes, bytes]
"""Topic, key and value."""


class LoadLost(Exception):
    """The topics do not hold what was sent, so nothing can be measured on them."""

    exit_code = 1
    next_step = "look at the broker's log (`--keep` leaves it), then run again"


def outgoing(
    catalogue: Catalogue,
    seed: int,
    per_hundred: Mapping[str, int],
    events: int,
    per_second: int = 1_000,
    variant: Variant = USUAL,
    *,
    start: int = 0,
    chunk: int = _CHUNK,
) -> Iterator[Outgoing]:
    """Yield the first so many events of the load but those before ``start``, encoded.

    They are made a chunk at a time.
    """
    topics = {topic.contract: topic.name for topic in catalogue.inputs}
    registry = open_registry(None)
    codecs = {name: Codec(name, registry, topics[name]) for name in per_hundred}
    for first in range(start, events, chunk):
        stop = min(events, first + chunk)
        made: list[tuple[int, Outgoing]] = []
        for part in parts(seed, per_hundred, first, stop, per_second, variant):
            values = codecs[part.contract].encode_columns(part.columns)
            topic = topics[part.contract]
            rows = zip(part.numbers.tolist(), part.keys, values, strict=True)
            made += [(number, (topic, key, value)) for number, key, value in rows]
        if len(per_hundred) > 1:
            made.sort(key=itemgetter(0))
        yield from (event for _, event in made)


def send_all(client: Mapping[str, Any], events: Iterable[Outgoing]) -> None:
    """Send as fast as the broker takes them; return when it has all of them."""
    producer = _producer(client, linger_ms=50)
    for count, event in enumerate(events):
        _send(producer, event)
        if count % _POLL_EVERY == 0:
            producer.poll(0)
    _finish(producer)


def send_paced(
    client: Mapping[str, Any],
    events: Iterator[Outgoing],
    stretches: Sequence[Stretch],
    over: threading.Event | None = None,
) -> int:
    """Send each stretch's events at its rate, evenly; whoever falls behind catches up.

    Ends early when ``over`` is set. Returns how many events were sent.
    """
    producer = _producer(client, linger_ms=5)
    begins_s = time.monotonic()
    sent = 0
    for stretch in stretches:
        own = 0
        while own < stretch.events and not (over and over.is_set()):
            due = int((time.monotonic() - begins_s) * stretch.per_second) + 1
            for event in islice(events, min(due, stretch.events) - own):
                _send(producer, event)
            own = max(own, min(due, stretch.events))
            producer.poll(0)
            time.sleep(_TICK_S)
        sent += own
        begins_s += stretch.events / stretch.per_second
    _finish(producer)
    return sent


def require_load(client: Mapping[str, Any], catalogue: Catalogue, events: int) -> None:
    """Return if the input topics hold exactly so many records; raise LoadLost."""
    held = sum(
        end - first
        for topic in catalogue.inputs
        for first, end in offset_ranges(client, topic.name).values()
    )
    if held != events:
        raise LoadLost(f"input topics: {held} records, expected {events}")


def _producer(client: Mapping[str, Any], linger_ms: int) -> Producer:
    return Producer(
        producer_config(
            client,
            linger_ms=linger_ms,
            batch_size=1 << 20,
            batch_num_messages=20_000,
            queue_buffering_max_messages=1_000_000,
        )
    )


def _send(producer: Any, event: Outgoing) -> None:
    topic, key, value = event
    while True:
        try:
            producer.produce(topic, value, key)
        except BufferError:
            producer.poll(0.05)
        else:
            return


def _finish(producer: Any) -> None:
    if left := producer.flush(_FLUSH_S):
        raise LoadLost(f"producer: {left} events undelivered, expected none")
