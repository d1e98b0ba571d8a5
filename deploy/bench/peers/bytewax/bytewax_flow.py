"""Bytewax: a stateful step with a dictionary of windows for each key.

Its window operators tell of a window when it closes, and are slower by an order of magnitude; this
is what it offers for updates. They are emitted for each key and batch of input, which is some
300 ms of events at the rate it has. State goes to the recovery store every five seconds.
"""

import json
from collections.abc import Iterable
from datetime import timedelta
from typing import Any

import bytewax.operators as op
from bytewax.connectors.kafka import KafkaSinkMessage
from bytewax.connectors.kafka import operators as kop
from bytewax.dataflow import Dataflow
from bytewax.recovery import RecoveryConfig, init_db_dir
from bytewax.run import cli_main
from peer import (
    BROKERS,
    GRACE_MS,
    OUTPUT,
    STATE_DIR,
    TOPIC,
    Events,
    Marks,
    Sums,
    keys_of,
    sums_of,
    window_ms,
)

_BATCH = 10_000
_SNAPSHOT = timedelta(seconds=5)
_FETCH = {"fetch.wait.max.ms": "100", "fetch.queue.backoff.ms": "10"}
_LINGER = {"compression.type": "lz4", "linger.ms": "50", "queue.buffering.max.messages": "1000000"}

Change = tuple[int, Sums]

codec, marks = Events(), Marks("bytewax", "confluent-kafka", "fastavro")


def changes(messages: list[Any]) -> Iterable[tuple[str, Change]]:
    """Return by key what a batch of events adds."""
    marks.read()
    found = []
    for message in messages:
        event = codec.decode(message.value)
        change = window_ms(event), sums_of(event)
        found += [(key, change) for key in keys_of(event)]
    return found


class Windows(op.StatefulBatchLogic[Change, Change, dict[int, list[int]]]):
    """The windows of one key, until an hour after their end."""

    def __init__(self, kept: dict[int, list[int]] | None) -> None:
        self._kept = kept or {}

    def on_batch(self, values: list[Change]) -> tuple[list[Change], bool]:
        """Add up, and emit what has changed."""
        changed = {}
        for window, sums in values:
            kept = self._kept.get(window)
            if kept is None:
                kept = self._kept[window] = [0] * len(sums)
                self._forget(window)
            for i, each in enumerate(sums):
                kept[i] += each
            changed[window] = kept
        marks.folded(len(values))
        return [(window, tuple(kept)) for window, kept in changed.items()], self.RETAIN

    def snapshot(self) -> dict[int, list[int]]:
        """Return what the recovery store keeps."""
        return {window: list(sums) for window, sums in self._kept.items()}

    def _forget(self, newest: int) -> None:
        for window in [each for each in self._kept if each < newest - GRACE_MS]:
            del self._kept[window]


def message(change: tuple[str, Change]) -> KafkaSinkMessage[bytes, bytes]:
    """Return the record that tells of a change."""
    key, (window, sums) = change
    return KafkaSinkMessage(f"{key}|{window}".encode(), json.dumps(sums).encode())


flow = Dataflow("sums")
source = kop.input(
    "events",
    flow,
    brokers=[BROKERS],
    topics=[TOPIC],
    tail=False,
    batch_size=_BATCH,
    add_config=_FETCH,
)
keyed = op.flat_map_batch("changes", source.oks, changes)
summed = op.stateful_batch("windows", keyed, Windows)
records = op.map("messages", summed, message)
kop.output("updates", records, brokers=[BROKERS], topic=OUTPUT, add_config=_LINGER)

if __name__ == "__main__":
    init_db_dir(STATE_DIR, 1)
    cli_main(flow, epoch_interval=_SNAPSHOT, recovery_config=RecoveryConfig(STATE_DIR))
