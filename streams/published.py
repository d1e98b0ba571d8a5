"""What the topics hold already of that which a rebuild decides once more.

A rebuild decides as the epochs before it did. What a reader has once got is not published again: an
action or its withdrawal by its id, a suppression by its, a record that was set aside by where it
lay.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any
from uuid import UUID

import numpy as np
from faust.types import TP
from numpy.typing import NDArray

from processors.actions import decision_id
from schemas.catalogue import ACTIONS, DEAD_LETTERS, LATE, SUPPRESSIONS, WATERMARKS
from schemas.headers import ERRORS
from streams.definitions import Definitions
from streams.log import Log
from streams.records import Fetched, Record
from streams.state import Advance

_IDS: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    ACTIONS: decision_id,
    SUPPRESSIONS: itemgetter("suppression_id"),
}
_PATIENCE_S = 60.0
_LOOK_EVERY_S = 0.05


class StillOpen(Exception):
    """A transaction that has begun before the rebuild is neither committed nor aborted."""


@dataclass(slots=True)
class Published:
    """Ids of decisions, and by topic and partition the offsets of records that were set aside.

    An id takes some 100 bytes, an offset 8.
    """

    ids: set[bytes] = field(default_factory=set)
    offsets: dict[tuple[str, TP], NDArray[np.int64]] = field(default_factory=dict)

    def has_id(self, text: str) -> bool:
        """Tell whether a decision of this id is out."""
        return UUID(text).bytes in self.ids

    def has_aside(self, record: Record) -> bool:
        """Tell whether what a record sets aside was set aside there before."""
        tp, offset = _origin(record.headers)
        known = self.offsets.get((record.topic, tp))
        if known is None:
            return False
        at = int(np.searchsorted(known, offset))
        return at < len(known) and int(known[at]) == offset


def read_published(log: Log, definitions: Definitions, check: Callable[[], None]) -> Published:
    """Return what is out by now, open transactions included once they are decided.

    ``check`` is called now and then, and may raise. Raises :class:`StillOpen`.
    """
    published = Published()
    partitions = {
        topic: range(definitions.catalogue[topic].partitions)
        for topic in (*_IDS, LATE, DEAD_LETTERS)
    }
    _await_stable(log, [TP(topic, p) for topic, own in partitions.items() for p in own], check)
    for topic, id_of in _IDS.items():
        codec = definitions.codec(topic)
        for record in _records(log, topic, partitions[topic], check):
            if record.value:
                value = codec.read(record.value, record.headers)
                published.ids.add(UUID(id_of(value)).bytes)
    for topic in (LATE, DEAD_LETTERS):
        found: dict[TP, list[int]] = {}
        for record in _records(log, topic, partitions[topic], check):
            tp, offset = _origin(record.headers)
            found.setdefault(tp, []).append(offset)
        for tp, offsets in found.items():
            published.offsets[topic, tp] = np.unique(np.array(offsets, dtype=np.int64))
    return published


def read_advances(log: Log, definitions: Definitions) -> dict[TP, list[Advance]]:
    """Return the logged advances of each input partition, one a position, in order."""
    codec = definitions.codec(WATERMARKS)
    highest: dict[TP, dict[int, Advance]] = {}
    for records in log.read(WATERMARKS, range(definitions.catalogue[WATERMARKS].partitions)):
        for record in (each for found in records.values() for each in found):
            value = codec.read(record.value, record.headers)
            advance = Advance(value["position"], value["watermark"], value["reason"])
            own = highest.setdefault(TP(value["topic"], value["partition"]), {})
            known = own.get(advance.position)
            if known is None or advance.watermark_ms > known.watermark_ms:
                own[advance.position] = advance
    return {tp: [own[position] for position in sorted(own)] for tp, own in highest.items()}


def _records(
    log: Log, topic: str, partitions: range, check: Callable[[], None]
) -> Iterator[Fetched]:
    for records in log.read(topic, partitions):
        check()
        for found in records.values():
            yield from found


def _origin(headers: Iterable[tuple[str, Any]] | None) -> tuple[TP, int]:
    """Return where a record lay that was set aside; nowhere if it does not say."""
    said = dict(headers or ())
    topic = (said.get(ERRORS + "topic") or b"").decode()
    partition = int(said.get(ERRORS + "partition") or -1)
    return TP(topic, partition), int(said.get(ERRORS + "offset") or -1)


def _await_stable(log: Log, tps: list[TP], check: Callable[[], None]) -> None:
    ends = log.ends(tps, stable=False)
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        check()
        stable = log.ends(tps, stable=True)
        undecided = [tp for tp in tps if stable[tp] < ends[tp]]
        if not undecided:
            return
        if time.monotonic() > deadline:
            raise StillOpen(
                f"{undecided[0].topic}[{undecided[0].partition}]: found records up to "
                f"{ends[undecided[0]]} undecided for {_PATIENCE_S:.0f} s, expected their "
                "transactions to end: see that no worker hangs, and start again"
            )
        time.sleep(_LOOK_EVERY_S)
