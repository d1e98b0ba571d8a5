"""What a run is seen through: the process from the system's side, KPI records from a reader's."""

import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Final, cast

import numpy as np
import psutil
import redis
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaException, Message, TopicPartition

from schemas.client import consumer_config
from sinks.keys import DEFAULT_KEYS, version_field

_SAMPLE_S: Final = 0.05
_FETCH_S: Final = 0.05
_FETCH: Final = 2_000


@dataclass(slots=True)
class ProcessSamples:
    """CPU seconds (user and system) and memory of a process, every 50 ms of its life."""

    at_s: list[float] = field(default_factory=list)
    cpu_s: list[float] = field(default_factory=list)
    rss: list[int] = field(default_factory=list)

    def add(self, at_s: float, cpu_s: float, rss: int) -> None:
        """Keep a sample; ``at_s`` is the wall clock's."""
        self.at_s.append(at_s)
        self.cpu_s.append(cpu_s)
        self.rss.append(rss)

    def cpu_between_s(self, start_s: float, end_s: float) -> float:
        """Return the CPU seconds that were spent between two moments of the wall clock."""
        start, end = np.interp([start_s, end_s], self.at_s, self.cpu_s)
        return float(end - start)

    def rss_mb_at(self, at_s: float) -> float:
        """Return the memory at a moment of the wall clock, in MB; raises ValueError if empty."""
        return float(np.interp(at_s, self.at_s, self.rss)) / 1e6

    @property
    def peak_rss_mb(self) -> float:
        """The most memory that any sample has found, in MB."""
        return max(self.rss, default=0) / 1e6


@contextmanager
def sampled(pid: int) -> Iterator[ProcessSamples]:
    """Give the samples of a process, which grow until the block or the process ends."""
    samples = ProcessSamples()

    def look(over: threading.Event) -> None:
        with suppress(psutil.Error):
            process = psutil.Process(pid)
            while not over.wait(_SAMPLE_S):
                with process.oneshot():
                    times, memory = process.cpu_times(), process.memory_info()
                if not memory.rss:  # it has ended, and nobody has asked for its exit code yet
                    return
                samples.add(time.time(), times.user + times.system, memory.rss)

    with _thread(look):
        yield samples


@dataclass(slots=True)
class Receptions:
    """When a reader of committed records got those of a topic it wanted, a place in each list.

    Where the records lie is enough: what they say is read again afterwards.
    """

    received_ms: list[float] = field(default_factory=list)
    partition: list[int] = field(default_factory=list)
    offset: list[int] = field(default_factory=list)

    def add(self, received_ms: float, message: Message) -> None:
        """Note a record."""
        self.received_ms.append(received_ms)
        self.partition.append(cast(int, message.partition()))
        self.offset.append(cast(int, message.offset()))

    def by_place(self) -> dict[tuple[int, int], float]:
        """Return the moments by partition and offset."""
        places = zip(self.partition, self.offset, strict=True)
        return dict(zip(places, self.received_ms, strict=True))


@contextmanager
def receptions(
    client: Mapping[str, Any], wanted: Mapping[str, tuple[int, re.Pattern[bytes]]]
) -> Iterator[dict[str, Receptions]]:
    """Give what gets readable of some topics until the block ends.

    ``wanted`` says by topic how many partitions it has and what the keys begin with. Raises
    KafkaException at the end where the broker refused.
    """
    received = {topic: Receptions() for topic in wanted}
    problems: list[KafkaException] = []
    consumer = Consumer(consumer_config(client, fetch_wait_max_ms=100))
    places = [(topic, p) for topic, (count, _) in wanted.items() for p in range(count)]
    consumer.assign([TopicPartition(*place, OFFSET_BEGINNING) for place in places])

    def note(message: Message, now_ms: float) -> None:
        topic = cast(str, message.topic())
        if wanted[topic][1].match(message.key() or b""):
            received[topic].add(now_ms, message)

    def read(over: threading.Event) -> None:
        while not over.is_set():
            # The first as soon as it is there: asked for more, the client would wait for more.
            messages = consumer.consume(1, _FETCH_S)
            now_ms = time.time() * 1000
            messages += consumer.consume(_FETCH, 0)
            for message in messages:
                if message.error():
                    problems.append(KafkaException(message.error()))
                    return
                note(message, now_ms)

    try:
        with _thread(read):
            yield received
    finally:
        consumer.close()
    if problems:
        raise problems[0]


@dataclass(slots=True)
class Shown:
    """When a reader of Redis saw which version of which KPI record, a place in each list."""

    seen_ms: list[float] = field(default_factory=list)
    name: list[str] = field(default_factory=list)
    version: list[int] = field(default_factory=list)

    def add(self, seen_ms: float, names: Sequence[str], versions: Sequence[bytes | None]) -> None:
        """Note what was there of some records; no version means that one is not there any more."""
        found = [(name, int(at)) for name, at in zip(names, versions, strict=True) if at]
        self.seen_ms += [seen_ms] * len(found)
        self.name += [name for name, _ in found]
        self.version += [version for _, version in found]


@contextmanager
def shown_in_redis(url: str, heads: Sequence[str]) -> Iterator[Shown]:
    """Give what a reader of Redis sees of some heads' records until the block ends.

    It reads as a wallboard does: told by the channel that records have changed, it asks for them.
    """
    shown = Shown()
    client = redis.Redis.from_url(url)
    pubsub = client.pubsub(ignore_subscribe_messages=True)  # type: ignore[no-untyped-call]
    pubsub.subscribe(*(DEFAULT_KEYS.changed(head) for head in heads))

    def read(over: threading.Event) -> None:
        while not over.is_set():
            message = pubsub.get_message(timeout=_FETCH_S)
            if message is None:
                continue
            names = message["data"].decode().split("\n")
            asked = client.pipeline(transaction=False)
            for series, _, start in (name.rpartition("|") for name in names):
                asked.hget(DEFAULT_KEYS.records(series), version_field(start))
            shown.add(time.time() * 1000, names, asked.execute())

    try:
        with _thread(read):
            yield shown
    finally:
        pubsub.close()
        client.close()


@contextmanager
def _thread(work: Callable[[threading.Event], None]) -> Iterator[None]:
    """Run work in a thread, which the event it is given tells to end with the block."""
    over = threading.Event()
    thread = threading.Thread(target=work, args=[over], daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
