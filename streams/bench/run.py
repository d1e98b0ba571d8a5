"""One scenario: load, worker, measurement, judgement.

The worker is a process like any other, and nobody asks it anything while it is measured. All times
come from what it leaves behind: its log, the broker's timestamps, and the samples of its process.
"""

import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import numpy as np
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from schemas.catalogue import (
    AS_OF,
    INTERACTIONS,
    KPIS,
    PARTIALS,
    Catalogue,
    create_topics,
    load_catalogue,
)
from schemas.client import offset_ranges, read_all
from schemas.codec import Codec
from schemas.errors import TopicMissing
from schemas.registry import open_registry
from streams.bench.latency import Appended, Latency, Published, latencies_ms, summarise
from streams.bench.scenarios import Scenario
from streams.bench.send import outgoing, require_load, send_all, send_paced
from streams.bench.watch import ProcessSamples, Received, kpi_records, sampled
from streams.cli.children import Child, Children
from streams.definitions import load_definitions
from streams.settings import Settings
from streams.verify import verify

SCOPE: Final = "queue"

_START_S: Final = 60.0
_LEAST_EVENTS_PER_S: Final = 1_000
_SLACK_S: Final = 3.0


class NotMeasurable(Exception):
    """A run left no trace that the measurement needs."""

    exit_code = 1
    next_step = "read the worker's log in the directory that was kept"


@dataclass(frozen=True, slots=True)
class Result:
    """What a run has shown; latencies are None where none was measured, problems empty if well.

    ``seconds`` is from first event to the last KPI record of the scopes that publish most often, or
    in a rebuild to the last partials,
    ``seconds_to_last_record`` to that of all. ``cpu_share`` is that of one core over the latter.
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

    @property
    def verified(self) -> bool:
        """Whether everything published is what the input implies."""
        return not self.problems


@dataclass(frozen=True, slots=True)
class _Run:
    """What a worker that has ended left behind; instants are the wall clock's, in seconds."""

    taken_over_s: list[float]
    ended_s: float
    samples: ProcessSamples
    published: list[tuple[float, str]]

    def between(self, start_s: float, end_s: float) -> int:
        """Return how many KPI records were published in between, both ends included."""
        return sum(start_s <= at_s <= end_s for at_s, _ in self.published)


def run(
    scenario: Scenario, settings: Settings, children: Children, tell: Callable[[str], None]
) -> Result:
    """Run a scenario on the empty Kafka of the settings and return what was measured.

    Raises CommandError where the worker fails, LoadLost and NotMeasurable.
    """
    bench = _Bench(scenario, settings, children, tell)
    bench.make_topics()
    kinds = {"catch-up": bench.catch_up, "steady": bench.steady, "rebuild": bench.rebuild}
    return kinds[scenario.kind]()


def make_topics(
    scenario: Scenario, settings: Settings, children: Children, tell: Callable[[str], None]
) -> None:
    """Create the topics of the catalogue, and wait until they have leaders."""
    _Bench(scenario, settings, children, tell).make_topics()


def work_off(
    scenario: Scenario, settings: Settings, children: Children, tell: Callable[[str], None]
) -> Result:
    """Measure a catch-up on input topics that hold the scenario's events already.

    Raises CommandError where the worker fails, LoadLost and NotMeasurable.
    """
    return _Bench(scenario, settings, children, tell).work_off()


class _Bench:
    def __init__(
        self,
        scenario: Scenario,
        settings: Settings,
        children: Children,
        tell: Callable[[str], None],
    ) -> None:
        self._scenario = scenario
        self._settings = settings
        self._children = children
        self._tell = tell
        self._client = {**settings.kafka_client(), "log_level": 3}
        self._catalogue: Catalogue = load_catalogue(settings.topics_file)
        self._scopes = [s for s in load_definitions(settings).registry.scopes if s.windows]
        self._events = scenario.events + scenario.warm_up_events

    def make_topics(self) -> None:
        create_topics(AdminClient(self._client), self._catalogue)
        self._children.wait_until(self._are_led, "new topics", _START_S)

    def _are_led(self) -> bool:
        try:
            for topic in self._catalogue.topics:
                offset_ranges(self._client, topic.name)
        except (KafkaException, TopicMissing):
            return False
        return True

    # -- the kinds ------------------------------------------------------------------------------

    def catch_up(self) -> Result:
        self._send_all()
        return self.work_off()

    def work_off(self) -> Result:
        self._tell("working them off")
        worker = self._start_worker()
        with sampled(worker.process.pid) as samples:
            self._finish()
        left = self._left_behind(worker, samples)
        start_s = max(at for at in left.taken_over_s if at <= left.published[0][0])
        frequent = self._frequent_scopes()
        whole_s = max(at for at, scope in left.published if scope in frequent)
        return self._result(left, (start_s, whole_s, left.published[-1][0]), self._events, None)

    def rebuild(self) -> Result:
        self._send_all()
        self._tell("working them off")
        self._start_worker()
        self._finish()
        self._tell("rebuilding")
        began_s = time.time()
        rebuilding = self._children.start("rebuild", "rebuild")
        log = self._settings.state_dir / "rebuild" / "worker-0.log"
        self._children.wait_until(lambda: _starts(log) > 0, "worker", _START_S)
        with sampled(_pid(log)) as samples:
            self._children.finish(rebuilding.name, self._longest_s)
        taken_over = _taken_over(log)
        start_s = taken_over[0]
        folded_s = max(at for at, _ in self._times_in(PARTIALS))
        published = [each for each in self._times_in(KPIS) if each[0] >= began_s]
        if not published or folded_s <= start_s:
            raise NotMeasurable(f"{log}: nothing was published anew, expected everything")
        left = _Run(taken_over, folded_s, samples, published)
        return self._result(left, (start_s, folded_s, published[-1][0]), self._events, None)

    def steady(self) -> Result:
        assert self._scenario.rate is not None
        events = list(self._load())
        worker = self._start_worker()
        with (
            sampled(worker.process.pid) as samples,
            kpi_records(self._client, SCOPE, self._catalogue[KPIS].partitions) as received,
        ):
            self._children.wait_until(lambda: bool(_taken_over(worker.log)), "worker", _START_S)
            self._tell(f"sending {self._scenario.rate:,} events/s")
            send_paced(self._client, events, self._scenario.rate)
            self._finish()
        require_load(self._client, self._catalogue, self._events)
        left = self._left_behind(worker, samples)
        appended, published = self._seen(received)
        measured = np.argsort(appended.append_ms, kind="stable")[self._scenario.warm_up_events :]
        latency = summarise(latencies_ms(appended, published)[measured])
        start_s, end_s = appended.append_ms[measured[[0, -1]]].tolist()
        span = start_s / 1000, end_s / 1000, end_s / 1000
        return self._result(left, span, len(measured), latency)

    def _send_all(self) -> None:
        self._tell(f"sending {self._events:,} events")
        send_all(self._client, self._load())
        require_load(self._client, self._catalogue, self._events)

    def _load(self) -> Iterator[tuple[str, bytes, bytes]]:
        chosen = self._scenario
        return outgoing(
            self._catalogue, chosen.seed, chosen.per_hundred, self._events, chosen.per_second
        )

    def _frequent_scopes(self) -> set[str]:
        least_ms = min(scope.publish_every_ms for scope in self._scopes)
        return {scope.id for scope in self._scopes if scope.publish_every_ms == least_ms}

    # -- the worker -----------------------------------------------------------------------------

    def _start_worker(self) -> Child:
        # Longer than any scope waits to publish: what is published at the end is no part of this.
        idle_s = max(scope.publish_every_ms for scope in self._scopes) / 1000 + _SLACK_S
        return self._children.start("worker", "worker", "--exit-when-idle", f"{idle_s:g}")

    def _finish(self) -> None:
        self._children.finish("worker", self._longest_s)

    @property
    def _longest_s(self) -> float:
        return 5 * _START_S + self._events / _LEAST_EVENTS_PER_S

    def _left_behind(self, worker: Child, samples: ProcessSamples) -> _Run:
        ended = _times_of("input_ended", worker.log)
        if not ended:
            raise NotMeasurable(f"{worker.log}: no input_ended, expected one")
        before = [each for each in self._times_in(KPIS) if each[0] < ended[0]]
        if not before:
            raise NotMeasurable(f"{KPIS}: no record before the input's end, expected some")
        return _Run(_taken_over(worker.log), ended[0], samples, before)

    def _times_in(self, topic: str) -> list[tuple[float, str]]:
        """Return when the records of a topic were written, in seconds, and their keys' scopes."""
        return sorted(
            (message.timestamp()[1] / 1000, (message.key() or b"").decode().partition("|")[0])
            for messages in read_all(self._client, topic)
            for message in messages
        )

    # -- what came of it ------------------------------------------------------------------------

    def _seen(self, received: list[Received]) -> tuple[Appended, Published]:
        """Return the events as they were appended and the records as they were received."""
        codes: dict[str, int] = {}
        return self._appended(codes), self._published(received, codes)

    def _appended(self, codes: dict[str, int]) -> Appended:
        codec = self._codec(INTERACTIONS)
        keys, places = [], []
        for messages in read_all(self._client, INTERACTIONS):
            found = codec.columns([message.value() for message in messages], [])
            names = found.frame.get_column("queue_id").to_list()
            keys += [codes.setdefault(name, len(codes)) for name in names]
            for i in found.index.tolist():
                message = messages[i]
                places.append((message.partition(), message.offset(), message.timestamp()[1]))
        partition, offset, append_ms = np.array(places, np.int64).reshape(-1, 3).T
        return Appended(np.array(keys, np.int64), partition, offset, append_ms.astype(float))

    def _published(self, received: list[Received], codes: dict[str, int]) -> Published:
        found = self._codec(KPIS).columns([each.value for each in received], [])
        vectors = self._vectors()
        nothing = np.zeros(self._catalogue[INTERACTIONS].partitions, np.int64)
        ids = found.frame.get_column("as_of_id").to_list()
        rows = [received[i] for i in found.index.tolist()]
        names = [each.key.split("|")[1] for each in rows]
        return Published(
            np.array([codes.setdefault(name, len(codes)) for name in names], np.int64),
            np.array([each.received_ms for each in rows]),
            np.array([vectors.get(id_, nothing) for id_ in ids]).reshape(-1, len(nothing)),
        )

    def _vectors(self) -> dict[int, np.ndarray[Any, Any]]:
        """Return by as_of_id the position of each partition of the interactions."""
        codec = self._codec(AS_OF)
        vectors = {}
        for messages in read_all(self._client, AS_OF):
            for message in messages:
                record = codec.decode(message.value())
                vector = np.zeros(self._catalogue[INTERACTIONS].partitions, np.int64)
                for each in record["positions"]:
                    if each["topic"] == INTERACTIONS:
                        vector[each["partition"]] = each["position"]
                vectors[record["as_of_id"]] = vector
        return vectors

    def _codec(self, topic: str) -> Codec:
        contract = self._catalogue[topic].contract
        assert contract is not None
        return Codec(contract, open_registry(None), topic)

    def _result(
        self, left: _Run, span: tuple[float, float, float], events: int, latency: Latency | None
    ) -> Result:
        start_s, whole_s, last_s = span
        seconds, until_last_s = whole_s - start_s, last_s - start_s
        if min(seconds, until_last_s) <= 0:
            raise NotMeasurable(f"{events} events: no time has passed, expected more events")
        cpu_s = left.samples.cpu_between_s(start_s, last_s)
        return Result(
            scenario=self._scenario.id,
            events=events,
            seconds=seconds,
            seconds_to_last_record=until_last_s,
            events_per_s=events / seconds,
            cpu_us_per_event=cpu_s / events * 1e6,
            cpu_share=cpu_s / until_last_s,
            peak_rss_mb=left.samples.peak_rss_mb,
            kpi_records=left.between(start_s, last_s),
            latency=latency,
            problems=tuple(self._judged(latency)),
        )

    def _judged(self, latency: Latency | None) -> Iterator[str]:
        """Yield what is wrong with what the topics hold now."""
        self._tell("verifying")
        report = verify(self._settings)
        if not report.complete:
            yield (
                f"verify: {report.difference_count} differences and {report.provisional_count} in"
                f" what may still change, expected none; first"
                f" {next(iter((*report.differences, *report.provisional)), 'an account')}"
            )
        account = report.account()
        for name in ("consumed", "applied"):
            if account[name] != self._events:
                yield f"account.{name}: {account[name]}, expected {self._events}"
        if report.lags:
            yield f"lag: {sum(lag.records for lag in report.lags)} records, expected none"
        if latency is not None and latency.unseen:
            yield f"latency: {latency.unseen} events in no record of their queue, expected none"


def _taken_over(log: Path) -> list[float]:
    return _times_of("partitions_taken_over", log)


def _times_of(event: str, log: Path) -> list[float]:
    """Return when a worker has logged an event, seconds of the wall clock."""
    return [datetime.fromisoformat(each["timestamp"]).timestamp() for each in _logged(event, log)]


def _starts(log: Path) -> int:
    return len(_logged("worker_started", log)) if log.exists() else 0


def _pid(log: Path) -> int:
    return int(_logged("worker_started", log)[-1]["pid"])


def _logged(event: str, log: Path) -> list[dict[str, Any]]:
    lines = log.read_text(errors="replace").splitlines()
    return [json.loads(line) for line in lines if f'"{event}"' in line]


def plain(result: Result) -> dict[str, Any]:
    """Return a result as plain JSON values, latencies beside the rest; None is what has no value.

    The names are those of the history, where it has them.
    """
    latency = result.latency
    quantiles = {
        name: None if latency is None or math.isnan(value := getattr(latency, name)) else value
        for name in ("p50_ms", "p99_ms", "p999_ms", "max_ms")
    }
    return {
        "scenario": result.scenario,
        "events": result.events,
        "seconds": result.seconds,
        "seconds_to_last_record": result.seconds_to_last_record,
        "events_per_s": result.events_per_s,
        "cpu_us_per_event": result.cpu_us_per_event,
        "cpu_share": result.cpu_share,
        **quantiles,
        "peak_rss_mb": result.peak_rss_mb,
        "kpi_records": result.kpi_records,
        "verified": result.verified,
        "problems": list(result.problems),
    }
