"""The watchdog: a worker that gets nowhere ends, so that its supervisor starts it again.

Faust can stall for ever, and so can a broker's answer. A thread of its own looks at four things:

- the event loop beats;
- a worker without partitions gets some, and one that recovers gets on with it;
- a partition with records behind its position is fetched from, and what was taken is committed;
- the brokers answer.

What has stood still for ``stall_timeout_s`` ends the process with what stood still, and with the
stacks of all threads. Ends of partitions are measured here and not by the fetcher, which may be
what has stalled. Should even this thread not get to run, because something holds the interpreter
lock, a thread of the C library ends the process.
"""

from __future__ import annotations

import asyncio
import faulthandler
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import structlog
from confluent_kafka import KafkaException
from faust.types import TP

from streams.log import KafkaLog
from streams.metrics import METRICS

log = structlog.get_logger(__name__)

#: How often the thread looks, at least, and how long it waits for the brokers to answer.
LOOK_EVERY_S = 1.0
ANSWER_S = 5.0

#: A group waits for members that have stalled: who joins has so many times the patience.
JOINING = 2

#: What a worker does that the group has no partition for.
STANDS_BY = "stands by"

#: Stacks go to the file itself: what holds the worker may also hold Python's stream.
_STDERR = 2

#: How long the last words may take.
_LAST_WORDS_S = 10.0

_NEXT_STEP = (
    "the worker ends, for its supervisor to start it again; if that comes back, look at the "
    "brokers and at the stacks below"
)


@dataclass(frozen=True, slots=True)
class Place:
    """How far a partition is: fetched up to, committed up to, and whether anything lies between.

    ``fetched`` is None as long as the fetcher does not know; what is not wanted now is not fetched.
    """

    fetched: int | None
    committed: int
    is_held: bool
    is_wanted: bool = True


@dataclass(frozen=True, slots=True)
class Standing:
    """What a worker is at. ``steps`` grows while it recovers; ``places`` are those it processes."""

    doing: str
    steps: int
    places: Mapping[TP, Place]


@dataclass(slots=True)
class Patience:
    """Adds up for how long each thing has stood still; pure, fed by :class:`Watchdog`."""

    limit_s: float
    waited_s: dict[str, float] = field(default_factory=dict)
    _seen: dict[str, Any] = field(default_factory=dict)

    def look(
        self, elapsed_s: float, beats: int, standing: Standing, ends: Mapping[TP, int] | None
    ) -> list[str]:
        """Return what has stood still for too long, in words.

        ``elapsed_s`` is the time since the last look. ``ends`` are the last stable offsets of the
        partitions, None if the brokers did not answer.
        """
        standing_still = dict(self._stand_still(beats, standing, ends))
        self.waited_s = {what: self.waited_s.get(what, 0.0) + elapsed_s for what in standing_still}
        return [
            f"{what}: found {found} for {self.waited_s[what]:.0f} s, expected {expected}"
            for what, (found, expected) in standing_still.items()
            if self.waited_s[what] >= self.limit_s * (JOINING if what == "worker" else 1)
        ]

    def _stand_still(
        self, beats: int, standing: Standing, ends: Mapping[TP, int] | None
    ) -> Iterator[tuple[str, tuple[str, str]]]:
        """Yield what has not moved since the last look although it should have."""
        if not self._has_moved("loop", beats):
            yield "event loop", ("no turn", "one every moment")
        at_work = standing.places or standing.doing == STANDS_BY
        if not self._has_moved("doing", (standing.doing, standing.steps)) and not at_work:
            yield "worker", (f"that it {standing.doing}", "to be at work")
        if ends is None:
            yield "brokers", ("no answer", "the ends of the partitions")
        for tp, place in standing.places.items():
            name = f"{tp.topic}[{tp.partition}]"
            has_moved = self._has_moved(name, (place.fetched, place.committed))
            end = (ends or {}).get(tp, 0)
            lag = end - (place.committed if place.fetched is None else place.fetched)
            if not has_moved and (place.is_held or (place.is_wanted and lag > 0)):
                found = f"position {place.committed}, fetched up to {place.fetched}, of {end}"
                yield name, (found, "progress")

    def _has_moved(self, what: str, now: Any) -> bool:
        before = self._seen.get(what)
        self._seen[what] = now
        return bool(before != now)


class Watchdog:
    """Looks after a worker from a thread of its own."""

    def __init__(
        self, client: Mapping[str, Any], limit_s: float, standing: Callable[[], Standing]
    ) -> None:
        self.ends: Mapping[TP, int] = {}
        self._client = client
        self._every_s = min(LOOK_EVERY_S, limit_s / 5)
        self._patience = Patience(limit_s)
        self._standing = standing
        self._beats = 0
        self._seen = Standing("starts", 0, {})

    async def run(self) -> None:
        """Beat, and tell of lags, until cancelled; the thread runs for the life of the process."""
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()
        while True:
            self._seen = self._standing()
            self._beats += 1
            for tp, place in self._seen.places.items():
                if tp in self.ends and place.fetched is not None:
                    METRICS.lag(tp.topic, tp.partition, max(0, self.ends[tp] - place.fetched))
            METRICS.stalled(max(self._patience.waited_s.values(), default=0.0))
            await asyncio.sleep(self._every_s / 2)

    def _watch(self) -> None:
        kafka = KafkaLog(self._client, timeout_s=ANSWER_S)
        # A process that was put to sleep as a whole has not stalled.
        most_s = 2 * (self._every_s + ANSWER_S)
        last = time.monotonic()
        while True:
            last_resort_s = self._patience.limit_s + most_s + _LAST_WORDS_S
            faulthandler.dump_traceback_later(last_resort_s, exit=True, file=_STDERR)
            time.sleep(self._every_s)
            standing, beats = self._seen, self._beats
            ends = _ends(kafka, standing)
            now = time.monotonic()
            stalled = self._patience.look(min(now - last, most_s), beats, standing, ends)
            last = now
            self.ends = ends or self.ends
            if stalled:
                _end_process(stalled)


def _ends(kafka: KafkaLog, standing: Standing) -> Mapping[TP, int] | None:
    if not standing.places:
        return {}
    try:
        return kafka.ends(standing.places, stable=True)
    except (KafkaException, TimeoutError):
        return None


def _end_process(stalled: list[str]) -> None:
    """Say why, and end; whatever holds the worker may also hold what says so."""
    faulthandler.dump_traceback_later(_LAST_WORDS_S, exit=True, file=_STDERR)
    log.critical("worker_stalled", error="; ".join(stalled), next_step=_NEXT_STEP)
    faulthandler.dump_traceback(file=_STDERR)
    os._exit(1)
