"""The product beside its peers: one topic that grows, and every engine once a round.

A peer reads the topic as it is when its turn comes, from its beginning to its end. The slow ones
come first, while the topic is short: so each has a prefix of one and the same load, and none reads
past what it is to do. Nothing else runs meanwhile but the broker.
"""

import json
import os
import resource
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final

from confluent_kafka.admin import AdminClient, NewTopic

from schemas.catalogue import INTERACTIONS
from schemas.client import read_all
from schemas.errors import TopicMissing
from streams.bench.history import calibration_ms
from streams.bench.peer_setup import PEERS_DIR, PYTHON_COMMON, Ready
from streams.bench.ratios import OURS, EngineRun, Figures
from streams.bench.run import work_off
from streams.bench.send import Outgoing, require_load, send_all
from streams.bench.stage import START_S, Result, Stage
from streams.bench.sums import Cells, Expected, Unreadable, differences, found_cells, totals
from streams.bench.watch import ProcessSamples, sampled
from streams.cli import CommandError
from streams.settings import PREFIX

_LEAST_EVENTS_PER_S: Final = 200
_PARTITIONS: Final = 4
_SCHEMA: Final = PEERS_DIR.parents[2] / "schemas" / "avro" / "interaction.avsc"
#: Records of the past stay, and so does their order.
_OUTPUT_CONFIG: Final = {"message.timestamp.type": "LogAppendTime", "retention.ms": "-1"}
#: What a process may use besides what its samples show: the moments before the first and after
#: the last of them.
_UNSEEN_CPU_S: Final = 2.0
_UNSEEN_SHARE: Final = 0.1


class NoMarks(Exception):
    """A peer has ended without saying when it began and when it was through."""


@dataclass(frozen=True, slots=True)
class Marks:
    """When a peer had read its first event and changed its last sum, seconds of the wall clock."""

    first_s: float
    last_s: float
    versions: str


@dataclass(frozen=True, slots=True)
class Ours:
    """A run of the product: as its scenario tells it, and as one engine among others."""

    result: Result
    run: EngineRun


@dataclass(frozen=True, slots=True)
class Round:
    """What one round has shown: all engines, and the product as its scenario tells it."""

    runs: list[EngineRun]
    ours: Result


@dataclass(frozen=True, slots=True)
class _Seen:
    """What a peer has shown; without marks, or with a problem, it was not well."""

    marks: Marks | None
    samples: ProcessSamples
    problem: str | None


def read_marks(lines: Sequence[str]) -> Marks:
    """Return the marks in what a peer has written; raise NoMarks."""
    found: dict[str, dict[str, Any]] = {}
    for line in lines:
        if line.startswith('{"mark"'):
            told = json.loads(line)
            found.setdefault(told["mark"], told)
    if missing := {"first", "last"} - found.keys():
        raise NoMarks(f"marks: {sorted(found)}, expected {sorted(missing)} too")
    first, last = found["first"], found["last"]
    if last["at_s"] <= first["at_s"]:
        raise NoMarks(f"marks: {last['at_s']} after {first['at_s']}, expected a later one")
    return Marks(first["at_s"], last["at_s"], first.get("versions", ""))


def run_round(
    number: int,
    peers: Sequence[Ready],
    expected: Expected,
    stage: Stage,
) -> Round:
    """Run the product and the peers, each once, on an empty stage of the expected scenario.

    Raises CommandError where the product fails, LoadLost and NotMeasurable; a peer that fails has a
    run with the problem.
    """
    return _Round(number, expected, stage).run(peers)


class _Round:
    def __init__(self, number: int, expected: Expected, stage: Stage) -> None:
        self._number = number
        self._expected = expected
        self._stage = stage
        self._admin = AdminClient(stage.client)

    def run(self, peers: Sequence[Ready]) -> Round:
        self._stage.make_topics()
        load, whole = self._stage.load(), self._stage.events
        runs, sent = [], 0
        for events in sorted({each.events for each in peers} | {whole}):
            self._send(load, sent, events)
            sent = events
            if events == whole:
                ours = self._ours()
                runs.append(ours.run)
            runs += [self._theirs(each) for each in peers if each.events == events]
        return Round(runs, ours.result)

    def _send(self, load: Iterator[Outgoing], sent: int, events: int) -> None:
        stage = self._stage
        stage.tell(f"sending {events - sent:,} events: {events:,} in all")
        send_all(stage.client, islice(load, events - sent))
        require_load(stage.client, stage.catalogue, events)

    # -- the product ----------------------------------------------------------------------------

    def _ours(self) -> Ours:
        self._stage.tell(f"{OURS}: {self._stage.events:,} events")
        calibrated = calibration_ms()
        result = work_off(self._stage)
        figures = Figures(
            seconds=result.seconds,
            events_per_s=result.events_per_s,
            cpu_us_per_event=result.cpu_us_per_event,
            cpu_share=result.cpu_share,
            peak_rss_mb=result.peak_rss_mb,
        )
        run = EngineRun(OURS, self._number, result.events, calibrated, "", figures, result.problems)
        return Ours(result, run)

    # -- a peer ---------------------------------------------------------------------------------

    def _theirs(self, ready: Ready) -> EngineRun:
        peer = ready.peer
        self._stage.tell(f"{peer.id}: {ready.events:,} events")
        name = f"peer-{peer.id}-{self._number}"
        output = peer.output.format(id=name)
        if not peer.own_output:
            self._make_output(output)
        calibrated = calibration_ms()
        seen = self._watched(ready, name, output)
        cells, problems = self._judged(ready.events, output, seen)
        self._delete_topics(name)
        return EngineRun(
            engine=peer.id,
            round=self._number,
            events=ready.events,
            calibration_ms=calibrated,
            versions=seen.marks.versions if seen.marks else ready.versions,
            figures=_figures(ready.events, seen.marks, seen.samples) if seen.marks else None,
            problems=problems,
            totals=totals(cells),
        )

    def _watched(self, ready: Ready, name: str, output: str) -> _Seen:
        """Run a peer to its end, and return what it has shown."""
        before_s = _children_cpu_s()
        children = self._stage.children
        child = children.launch(name, ready.command, self._environment(ready, name, output))
        problem = None
        with sampled(child.process.pid) as samples:
            try:
                children.finish(name, START_S + ready.events / _LEAST_EVENTS_PER_S)
            except CommandError as failure:
                problem = str(failure)
        try:
            marks = read_marks(child.log.read_text(errors="replace").splitlines())
        except NoMarks as missing:
            return _Seen(None, samples, problem or f"{child.log}: {missing}")
        outside_s = _children_cpu_s() - before_s - max(samples.cpu_s, default=0.0)
        if outside_s > _UNSEEN_CPU_S + _UNSEEN_SHARE * max(samples.cpu_s, default=0.0):
            problem = problem or f"{outside_s:.1f} s of CPU in other processes, expected none"
        return _Seen(marks, samples, problem)

    def _environment(self, ready: Ready, name: str, output: str) -> dict[str, str]:
        settings = self._stage.settings
        state_dir = settings.state_dir / name
        state_dir.mkdir()
        kept = {key: value for key, value in os.environ.items() if not key.startswith(PREFIX)}
        return {
            **kept,
            "PYTHONPATH": str(PYTHON_COMMON),
            "PEER_ID": name,
            "PEER_BROKERS": settings.kafka_bootstrap_servers,
            "PEER_TOPIC": INTERACTIONS,
            "PEER_OUTPUT": output,
            "PEER_UPDATES": str(self._expected.updates(ready.events)),
            "PEER_SCHEMA": str(_SCHEMA),
            "PEER_STATE_DIR": str(state_dir),
            **dict(ready.peer.environment),
        }

    def _judged(self, events: int, output: str, seen: _Seen) -> tuple[Cells, tuple[str, ...]]:
        """Return what a peer has sent in the end, and what is wrong with it."""
        if seen.problem is not None:
            return {}, (seen.problem,)
        try:
            found = found_cells(
                (message.key(), message.value())
                for messages in read_all(self._stage.client, output)
                for message in messages
            )
        except (Unreadable, TopicMissing) as problem:
            return {}, (str(problem),)
        return found, tuple(differences(found, self._expected.cells(events)))

    # -- topics ---------------------------------------------------------------------------------

    def _make_output(self, name: str) -> None:
        topic = NewTopic(name, _PARTITIONS, config=dict(_OUTPUT_CONFIG))
        self._admin.create_topics([topic])[name].result(START_S)
        self._stage.wait_until_led(name)

    def _delete_topics(self, part: str) -> None:
        """Delete what a peer has made on the broker: the next one is to find it idle."""
        topics = [each for each in self._admin.list_topics(timeout=START_S).topics if part in each]
        for deleted in self._admin.delete_topics(topics).values() if topics else ():
            deleted.result(START_S)


def _figures(events: int, marks: Marks, samples: ProcessSamples) -> Figures:
    seconds = marks.last_s - marks.first_s
    cpu_s = samples.cpu_between_s(marks.first_s, marks.last_s)
    return Figures(
        seconds=seconds,
        events_per_s=events / seconds,
        cpu_us_per_event=cpu_s / events * 1e6,
        cpu_share=cpu_s / seconds,
        peak_rss_mb=samples.peak_rss_mb,
    )


def _children_cpu_s() -> float:
    """Return the CPU seconds of all processes below this one that have ended, theirs included."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
