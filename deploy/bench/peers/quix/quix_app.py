"""Quix Streams: expand to keys, group by them through Kafka, reduce in tumbling windows.

Every single update is emitted; it has no interval. State is in RocksDB, with changelog topics and a
commit every five seconds, which is what it does by default.
"""

from typing import Any

from peer import (
    BROKERS,
    GRACE_MS,
    ID,
    OUTPUT,
    STATE_DIR,
    TOPIC,
    WINDOW_MS,
    Events,
    Marks,
    keys_of,
    sums_of,
)
from quixstreams import Application
from quixstreams.models import Deserializer, SerializationContext

_PRODUCER = {"compression.type": "lz4", "linger.ms": 50, "queue.buffering.max.messages": 1_000_000}

codec, marks = Events(), Marks("quixstreams", "confluent-kafka", "fastavro")


class Framed(Deserializer):
    """Decodes the events of the topic."""

    def __call__(self, value: bytes, ctx: SerializationContext) -> dict[str, Any]:
        """Return an event."""
        marks.read()
        return codec.decode(value)


def changes(event: dict[str, Any]) -> list[dict[str, Any]]:
    """Return by key what an event adds."""
    sums = sums_of(event)
    return [{"key": key, "sums": sums} for key in keys_of(event)]


def main() -> None:
    """Work the topic off."""
    app = Application(
        broker_address=BROKERS,
        consumer_group=ID,
        auto_offset_reset="earliest",
        state_dir=STATE_DIR,
        producer_extra_config=_PRODUCER,
        consumer_extra_config={"fetch.wait.max.ms": 100},
        loglevel="ERROR",
    )
    events = app.topic(
        TOPIC,
        key_deserializer="bytes",
        value_deserializer=Framed(),
        timestamp_extractor=lambda value, *_: value["event_time"],
    )
    output = app.topic(OUTPUT, key_serializer="str", value_serializer="json")

    def last(_: Any) -> None:
        if marks.folded(1):
            app.stop()

    (
        app.dataframe(events)
        .apply(changes, expand=True)
        .group_by("key", name="by-key")
        .tumbling_window(WINDOW_MS, grace_ms=GRACE_MS)
        .reduce(
            lambda kept, new: [a + b for a, b in zip(kept, new["sums"], strict=True)],
            lambda first: list(first["sums"]),
        )
        .current()
        .update(last)
        .to_topic(output)
    )
    app.run()


if __name__ == "__main__":
    main()
