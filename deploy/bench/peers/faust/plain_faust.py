"""Faust as its documentation shows it: an agent, one event at a time, and a table.

A worker has the partitions that it was given, and a table's changelog follows the partition of the
event; so the keys hold the partition, and whoever reads adds up. Windows are part of the key:
Faust closes those of its own by the wall clock. The changelog is what is sent on, too.
"""

import asyncio
import os
import sys
from collections import deque
from typing import Any

import faust
from peer import BROKERS, ID, STATE_DIR, TOPIC, Events, Marks, keys_of, sums_of, window_ms

_PARTITIONS = 4
#: Without these every change of a table is a request of its own.
_TUNED: dict[str, Any] = {"producer_linger": 0.05, "producer_compression_type": "lz4"}

app = faust.App(
    ID,
    broker=f"kafka://{BROKERS}",
    consumer_auto_offset_reset="earliest",
    topic_partitions=_PARTITIONS,
    topic_disable_leader=True,
    store="memory://",
    datadir=STATE_DIR,
    web_enabled=False,
    **(_TUNED if os.environ.get("PEER_TUNED") else {}),
)
events = app.topic(TOPIC, key_type=bytes, value_type=bytes, value_serializer="raw")
table = app.Table("sums", partitions=_PARTITIONS)
codec, marks = Events(), Marks("faust-streaming", "aiokafka")
#: More writes than Faust lets wait.
written: deque[Any] = deque(maxlen=10_000)
send_changelog = table.send_changelog


def note(*args: Any, **named: Any) -> Any:
    """Send a write of the table on its way, and keep what tells that it has arrived."""
    written.append(send_changelog(*args, **named))
    return written[-1]


table.send_changelog = note  # type: ignore[method-assign]


async def add_up(stream: Any) -> None:
    """Add every event to its sums, a write each."""
    async for event in stream.events():
        marks.read()
        record = codec.decode(event.value)
        sums, window, updates = sums_of(record), window_ms(record), 0
        for key in keys_of(record):
            name = f"{key}|{window}|{event.message.partition}"
            before = table.get(name)
            table[name] = [a + b for a, b in zip(before or (0,) * len(sums), sums, strict=True)]
            updates += 1
        if marks.folded(updates):
            # Faust's own flush leaves out the write in hand, and gives up after 0.1 s.
            await asyncio.gather(*written)
            # What Faust does to end takes long, and nobody waits for it.
            os._exit(0)


app.agent(events, concurrency=1)(add_up)

if __name__ == "__main__":
    sys.argv = [sys.argv[0], "worker", "--loglevel", "warn", "--without-web"]
    app.main()
