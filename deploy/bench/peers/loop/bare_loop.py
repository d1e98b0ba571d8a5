"""No framework: librdkafka, a columnar decoder, five group-bys a batch, and a dictionary.

It keeps nothing that would outlive it, sends nothing while it works, and knows no late events. This
is what the libraries allow in Python when nobody asks for anything else.
"""

import json
import os
from pathlib import Path

import polars as pl
import pyruhvro
from confluent_kafka import OFFSET_BEGINNING, Consumer, Producer, TopicPartition
from peer import BROKERS, ID, OUTPUT, THRESHOLD_MS, TOPIC, UPDATES, WINDOW_MS, Marks

_BATCH = 20_000
_WAIT_S = 0.1
#: It asks for more at once when its queue has room again, not a second later.
_FETCH = {
    "fetch.wait.max.ms": 100,
    "fetch.queue.backoff.ms": 10,
    "queued.max.messages.kbytes": 200_000,
}
_FRAMING_BYTES = 5
_KEYS = {
    "overall": pl.lit("all"),
    **{scope: pl.col(f"{scope}_id") for scope in ("queue", "team", "issue", "agent")},
}
_ANSWERED = pl.col("event_type") == "ANSWERED"
_COMPLETED = pl.col("event_type") == "COMPLETED"
_SUMS = [
    pl.len(),
    (pl.col("event_type") == "OFFERED").sum().alias("offered"),
    _ANSWERED.sum().alias("answered"),
    (_ANSWERED & (pl.col("queue_wait_ms") <= THRESHOLD_MS)).sum().alias("in_time"),
    pl.col("queue_wait_ms").filter(_ANSWERED).sum(),
    *(pl.col(f"{each}_ms").filter(_COMPLETED).sum() for each in ("talk", "hold")),
    pl.col("after_contact_work_ms").filter(_COMPLETED).sum(),
]

Kept = dict[tuple[str, str, int], list[int]]


def fold(kept: Kept, values: list[bytes], schema: str) -> int:
    """Add a batch up; return how many sums of single events that were."""
    batch = pyruhvro.deserialize_array([value[_FRAMING_BYTES:] for value in values], schema)
    at_ms = pl.col("event_time").cast(pl.Int64)
    events = pl.DataFrame(batch).lazy().with_columns(window=at_ms - at_ms % WINDOW_MS)
    grouped = [
        events.with_columns(key=key).filter(pl.col("key").is_not_null()).group_by("key", "window")
        for key in _KEYS.values()
    ]
    updates = 0
    for scope, rows in zip(_KEYS, pl.collect_all([g.agg(_SUMS) for g in grouped]), strict=True):
        for key, window, *sums in rows.iter_rows():
            before = kept.get((scope, key, window))
            kept[scope, key, window] = (
                sums if before is None else [a + b for a, b in zip(before, sums, strict=True)]
            )
            updates += sums[0]
    return updates


def send(kept: Kept) -> None:
    """Hand the sums over for comparison; the clock has stopped by then."""
    producer = Producer({"bootstrap.servers": BROKERS, "linger.ms": 50})
    for (scope, key, window), sums in kept.items():
        producer.produce(OUTPUT, json.dumps(sums).encode(), f"{scope}|{key}|{window}".encode())
        producer.poll(0)
    producer.flush()


def main() -> None:
    """Work the topic off."""
    schema = Path(os.environ["PEER_SCHEMA"]).read_text()
    marks = Marks("confluent-kafka", "polars", "pyruhvro")
    consumer = Consumer({"bootstrap.servers": BROKERS, "group.id": ID, **_FETCH})
    partitions = consumer.list_topics(TOPIC, timeout=30).topics[TOPIC].partitions
    consumer.assign([TopicPartition(TOPIC, number, OFFSET_BEGINNING) for number in partitions])
    kept: Kept = {}
    over = UPDATES == 0
    while not over:
        values = [m.value() or b"" for m in consumer.consume(_BATCH, _WAIT_S) if not m.error()]
        if values:
            marks.read()
            over = marks.folded(fold(kept, values, schema))
    send(kept)
    consumer.close()


if __name__ == "__main__":
    main()
