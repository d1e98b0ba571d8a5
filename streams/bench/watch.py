"""What a run is seen through: the process from the system's side, KPI records from a reader's."""

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import psutil
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaException, TopicPartition

from schemas.catalogue import KPIS
from schemas.client import consumer_config

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


@dataclass(frozen=True, slots=True)
class Received:
    """A KPI record's Kafka key and value, and when a reader of committed records got it."""

    received_ms: float
    key: str
    value: bytes


@contextmanager
def kpi_records(client: Mapping[str, Any], scope: str, partitions: int) -> Iterator[list[Received]]:
    """Give the KPI records of a scope as they get readable, until the block ends.

    Raises KafkaException at the end where the broker refused.
    """
    received: list[Received] = []
    problems: list[KafkaException] = []
    prefix = f"{scope}|".encode()
    consumer = Consumer(consumer_config(client, fetch_wait_max_ms=100))
    consumer.assign([TopicPartition(KPIS, p, OFFSET_BEGINNING) for p in range(partitions)])

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
                key, value = message.key(), message.value()
                if key is not None and value is not None and key.startswith(prefix):
                    received.append(Received(now_ms, key.decode(), value))

    try:
        with _thread(read):
            yield received
    finally:
        consumer.close()
    if problems:
        raise problems[0]


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
