"""No framework: librdkafka, a columnar decoder, five group-bys a batch, and a dictionary.

It keeps nothing that would outlive it, sends nothing while it works, and knows no late events. This
is what the libraries allow in Python when nobody asks for anything else.
"""

import gc
import json
import os
from pathlib import Path

import polars as pl
import pyruhvro
from confluent_kafka import OFFSET_BEGINNING, Consumer, Producer, TopicPartition
from peer import BROKERS, ID, OUTPUT, THRESHOLD_MS, TOPIC, UPDATES, WINDOW_MS, Marks

_BATCH = 20_000
_WAIT_S = 0.5
#: It asks for more at once when its queue has room again, not a second later.
_FETCH = {
    "fetch.wait.max.ms": 100,
    "fetch.queue.backoff.ms": 10,
    "queued.max.messages.kbytes": 200_000,
}
_FRAMING_BYTES = 5
_SCOPES = ("queue", "team", "issue", "agent")
_AT_MS = pl.col("event_time").cast(pl.Int64)
_OFFERED, _ANSWERED, _COMPLETED = (
    pl.col("event_type") == kind for kind in ("OFFERED", "ANSWERED", "COMPLETED")
)
#: Worked out once for all group-bys, which then have nothing to do but add.
_COLUMNS = {
    "events": pl.lit(1, pl.Int64),
    "offered": _OFFERED.cast(pl.Int64),
    "answered": _ANSWERED.cast(pl.Int64),
    "in_time": (_ANSWERED & (pl.col("queue_wait_ms") <= THRESHOLD_MS)).cast(pl.Int64),
    "wait": pl.when(_ANSWERED).then("queue_wait_ms"),
    "talk": pl.when(_COMPLETED).then("talk_ms"),
    "hold": pl.when(_COMPLETED).then("hold_ms"),
    "after": pl.when(_COMPLETED).then("after_contact_work_ms"),
}

Kept = dict[tuple[str, str, int], list[int]]


def fold(kept: Kept, values: list[bytes], schema: str) -> int:
    """Add a batch up; return how many sums of single events that were."""
    batch = pyruhvro.deserialize_array([value[_FRAMING_BYTES:] for value in values], schema)
    ids = [f"{scope}_id" for scope in _SCOPES]
    window = (_AT_MS - _AT_MS % WINDOW_MS).alias("window")
    events = pl.DataFrame(batch).select(pl.lit("all").alias("all"), window, *ids, **_COLUMNS)
    sums = pl.col(list(_COLUMNS)).sum()
    updates = 0
    for scope, by in zip(("overall", *_SCOPES), ("all", *ids), strict=True):
        known = events.filter(pl.col(by).is_not_null())
        for key, at_ms, *added in known.group_by(by, "window").agg(sums).iter_rows():
            before = kept.setdefault((scope, key, at_ms), [0] * len(added))
            for i, each in enumerate(added):
                before[i] += each
            updates += added[0]
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
    # Nothing here makes cycles, and every batch has thousands of objects to look through.
    gc.disable()
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
