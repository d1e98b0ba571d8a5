"""What all kinds of scenarios share: topics, load, workers, what these leave behind, the judge.

A worker is a process like any other, and nobody asks it anything while it is measured. All times
come from what it leaves behind: its log, the broker's timestamps, and the samples of its process.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Final
from urllib.request import urlopen

import numpy as np
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient
from prometheus_client.parser import text_string_to_metric_families

from schemas.catalogue import KPIS, Catalogue, create_topics
from schemas.client import offset_ranges, read_all
from schemas.errors import TopicMissing
from streams.bench.latency import Latency, Reals
from streams.bench.scenarios import Scenario
from streams.bench.seen import head_of_key
from streams.bench.send import Outgoing, outgoing, require_load, send_all
from streams.bench.watch import ProcessSamples
from streams.cli.children import Child, Children
from streams.definitions import load_definitions
from streams.settings import Settings
from streams.verify import verify

START_S: Final = 60.0
_LEAST_EVENTS_PER_S: Final = 1_000
_SLACK_S: Final = 3.0
_KEPT_MS: Final = str(7 * 24 * 3_600_000)
#: A load that is made while it is sent comes in pieces that hold nothing up.
_SMALL_CHUNK: Final = 1_000


class NotMeasurable(Exception):
    """A run left no trace that the measurement needs."""

    exit_code = 1
    next_step = "read the worker's log in the directory that was kept"


@dataclass(frozen=True, slots=True)
class Result:
    """What a run has shown; latencies are None where none was measured, problems empty if well.

    ``seconds`` is from first event to the last KPI record of the longest windows of the scopes that
    publish most often, or in a rebuild to the last partials,
    ``seconds_to_last_record`` to that of all. ``cpu_share`` is that of one core over the latter.
    Rate and CPU are NaN where they would say nothing.
    ``latency`` is that from an event to its queue's KPI record, ``latencies`` are all that were
    measured, by what they are of. ``details`` are figures that only this kind of scenario has.
    """

    scenario: str
    events: int
    seconds: float
    seconds_to_last_record: float
    events_per_s: float
    cpu_us_per_event: float
    cpu_share: float
    peak_rss_mb: float
    kpi_records: int
    latency: Latency | None
    problems: tuple[str, ...]
    latencies: Mapping[str, Latency] = field(default_factory=dict)
    details: Mapping[str, Any] = field(default_factory=dict)

    @property
    def verified(self) -> bool:
        """Whether everything published is what the input implies."""
        return not self.problems


@dataclass(frozen=True, slots=True)
class Left:
    """What workers that have ended left behind; instants are the wall clock's, in seconds.

    ``published`` has by scope and window when their KPI records were, in order.
    """

    taken_over_s: Sequence[float]
    samples: Sequence[ProcessSamples]
    published: Mapping[str, Reals]

    @property
    def first_s(self) -> float:
        """When the first KPI record was published."""
        return float(min(times[0] for times in self.published.values()))

    @property
    def last_s(self) -> float:
        """When the last KPI record was published."""
        return float(max(times[-1] for times in self.published.values()))

    def between(self, start_s: float, end_s: float) -> int:
        """Return how many KPI records were published in between, both ends included."""
        return sum(
            int(np.count_nonzero((times >= start_s) & (times <= end_s)))
            for times in self.published.values()
        )

    def cpu_between_s(self, start_s: float, end_s: float) -> float:
        """Return the CPU seconds that all workers together spent in between."""
        return sum(each.cpu_between_s(start_s, end_s) for each in self.samples)


@dataclass(frozen=True, slots=True)
class Span:
    """From when to when is measured, in seconds of the wall clock; see Result for the two ends."""

    start_s: float
    end_s: float
    last_s: float


class Stage:
    """One scenario on the empty Kafka of the settings: what its kind plays on."""

    def __init__(
        self,
        scenario: Scenario,
        settings: Settings,
        children: Children,
        tell: Callable[[str], None],
    ) -> None:
        self.scenario = scenario
        self.settings = settings
        self.children = children
        self.tell = tell
        self.client = {**settings.kafka_client(), "log_level": 3}
        self.definitions = load_definitions(settings)
        self.catalogue = self.definitions.catalogue
        self.scopes = [s for s in self.definitions.registry.scopes if s.windows]
        self.events = scenario.events + scenario.warm_up_events

    def make_topics(self) -> None:
        """Make the topics and wait until each has a leader; raises CommandError."""
        create_topics(AdminClient(self.client), _uncompacted(self.catalogue))
        self.wait_until_led(*(topic.name for topic in self.catalogue.topics))

    def wait_until_led(self, *topics: str) -> None:
        """Return when each of the topics has a leader; raises CommandError."""

        def led() -> bool:
            try:
                for topic in topics:
                    offset_ranges(self.client, topic)
            except (KafkaException, TopicMissing):
                return False
            return True

        self.children.wait_until(led, "new topics", START_S)

    # -- the load -------------------------------------------------------------------------------

    def send_all(self) -> None:
        """Send the whole load as fast as it goes; raises LoadLost."""
        self.tell(f"sending {self.events:,} events")
        send_all(self.client, self.load())
        require_load(self.client, self.catalogue, self.events)

    def load(self, events: int | None = None, **pieces: int) -> Iterator[Outgoing]:
        """Return the scenario's events, encoded, or so many; see `outgoing` for the pieces."""
        chosen = self.scenario
        return outgoing(
            self.catalogue,
            chosen.seed,
            chosen.per_hundred,
            self.events if events is None else events,
            chosen.per_second,
            chosen.variant,
            **pieces,
        )

    def load_as_sent(self, events: int | None = None, start: int = 0) -> Iterator[Outgoing]:
        """Return what `load` does from ``start`` on, each made shortly before it is taken."""
        return self.load(events, start=start, chunk=_SMALL_CHUNK)

    # -- the workers ----------------------------------------------------------------------------

    def start_worker(self, name: str = "worker") -> Child:
        """Start a worker that ends when it has nothing left to do."""
        # Longer than any scope waits to publish: what is published at the end is no part of this.
        idle_s = max(scope.publish_every_ms for scope in self.scopes) / 1000 + _SLACK_S
        return self.children.start(name, "worker", "--exit-when-idle", f"{idle_s:g}")

    def wait_for_takeover(self, worker: Child) -> None:
        """Return when the worker has taken partitions over; raises CommandError."""
        self.children.wait_until(lambda: bool(taken_over(worker.log)), worker.name, START_S)

    def finish(self, *names: str) -> None:
        """Wait until workers have ended by themselves; raises CommandError."""
        self.children.finish_all(names or ("worker",), self.longest_s)

    def metric(self, worker: str, name: str) -> list[float]:
        """Return what a worker says now of a gauge, a value for each partition; raise OSError."""
        [*_, started] = logged("worker_started", self.children.named(worker).log)
        with urlopen(started["metrics"], timeout=START_S) as answer:  # noqa: S310 - our own log
            families = text_string_to_metric_families(answer.read().decode())
            samples = (sample for family in families for sample in family.samples)
            return [sample.value for sample in samples if sample.name == name]

    @property
    def longest_s(self) -> float:
        """So long may anything take."""
        return 5 * START_S + self.events / _LEAST_EVENTS_PER_S

    def left_behind(self, workers: Sequence[Child], samples: Sequence[ProcessSamples]) -> Left:
        """Return what workers left behind before the input's end; raises NotMeasurable."""
        ended = [at for worker in workers for at in times_of("input_ended", worker.log)]
        if not ended:
            raise NotMeasurable(f"{workers[0].log}: no input_ended, expected one")
        published = self.times_in(KPIS, until_s=min(ended))
        if not published:
            raise NotMeasurable(f"{KPIS}: no record before the input's end, expected some")
        taken = sorted(at for worker in workers for at in taken_over(worker.log))
        return Left(taken, samples, published)

    def times_in(
        self, topic: str, since_s: float = 0.0, until_s: float = np.inf
    ) -> dict[str, Reals]:
        """Return by the keys' heads when records of a topic were written, in order, in seconds."""
        found: dict[str, list[float]] = {}
        for messages in read_all(self.client, topic):
            for message in messages:
                if since_s <= (at_s := message.timestamp()[1] / 1000) < until_s:
                    found.setdefault(head_of_key(message.key()), []).append(at_s)
        return {head: np.sort(np.array(times)) for head, times in found.items()}

    # -- what came of it ------------------------------------------------------------------------

    def result(
        self,
        left: Left,
        span: Span,
        events: int,
        latencies: Mapping[str, Latency] | None = None,
        details: Mapping[str, Any] | None = None,
        sent: int | None = None,
    ) -> Result:
        """Return the result of a span in which so many events came, judged over all ``sent``.

        Raises NotMeasurable where no time has passed.
        """
        seconds, until_last_s = span.end_s - span.start_s, span.last_s - span.start_s
        if min(seconds, until_last_s) <= 0:
            raise NotMeasurable(f"{events} events: no time has passed, expected more events")
        cpu_s = left.cpu_between_s(span.start_s, span.last_s)
        latencies = latencies or {}
        return Result(
            scenario=self.scenario.id,
            events=events,
            seconds=seconds,
            seconds_to_last_record=until_last_s,
            events_per_s=events / seconds,
            cpu_us_per_event=cpu_s / events * 1e6,
            cpu_share=cpu_s / until_last_s,
            peak_rss_mb=sum(each.peak_rss_mb for each in left.samples),
            kpi_records=left.between(span.start_s, span.last_s),
            latency=latencies.get("queue"),
            problems=tuple(self._judged(latencies, self.events if sent is None else sent)),
            latencies=latencies,
            details=details or {},
        )

    def _judged(self, latencies: Mapping[str, Latency], sent: int) -> Iterator[str]:
        """Yield what is wrong with what the topics hold now."""
        self.tell("verifying")
        report = verify(self.settings, self.scenario.judged_one_in)
        if not report.complete:
            yield (
                f"verify: {report.difference_count} differences and {report.provisional_count} in"
                f" what may still change, expected none; first"
                f" {next(iter((*report.differences, *report.provisional)), 'an account')}"
            )
        account = report.account()
        for name in ("consumed", "applied"):
            if account[name] != sent:
                yield f"account.{name}: {account[name]}, expected {sent}"
        if report.lags:
            yield f"lag: {sum(lag.records for lag in report.lags)} records, expected none"
        for what, latency in latencies.items():
            if latency.unseen:
                yield f"latency: {latency.unseen} of {what} never seen, expected none"
            elif not latency.n:
                yield f"latency: none of {what}, expected some"


def _uncompacted(catalogue: Catalogue) -> Catalogue:
    """Return the catalogue with KPI records that the broker keeps however often they are replaced.

    Each of them is looked at after the run, and compaction begins as soon as a segment is full.
    """
    kept = {"min.compaction.lag.ms": _KEPT_MS}
    return Catalogue(
        tuple(
            replace(topic, config={**topic.config, **kept}) if topic.name == KPIS else topic
            for topic in catalogue
        )
    )


def taken_over(log: Path) -> list[float]:
    """Return when a worker has taken partitions over, seconds of the wall clock."""
    return times_of("partitions_taken_over", log)


def times_of(event: str, log: Path) -> list[float]:
    """Return when a worker has logged an event, seconds of the wall clock."""
    return [datetime.fromisoformat(each["timestamp"]).timestamp() for each in logged(event, log)]


def logged(event: str, log: Path) -> list[dict[str, Any]]:
    """Return what a process has logged of an event, nothing where it has logged nothing yet."""
    if not log.exists():
        return []
    lines = log.read_text(errors="replace").splitlines()
    return [json.loads(line) for line in lines if f'"{event}"' in line]
