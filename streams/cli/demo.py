"""`andon demo`: a day of a contact centre through everything, and what it has led to."""

import fcntl
import os
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient
from rich.console import Console

from deploy.local.process import free_port
from deploy.local.stack import Stack
from schemas.catalogue import ACTIONS, KPIS, PARTIALS, create_topics, load_catalogue
from schemas.client import offset_ranges
from schemas.errors import TopicMissing
from streams.cli import CommandError
from streams.cli.children import (
    Children,
    Interrupted,
    Interruption,
    end_descendants,
    end_leftovers,
    interruptible,
)
from streams.cli.common import require_kafka, say
from streams.cli.deliver import delivery_group
from streams.cli.demo_summary import Summary, show, summarise
from streams.cli.playing import parse_speed, play
from streams.cli.replay import read_events
from streams.settings import Settings, load_settings
from streams.sources.centre import Planted
from streams.sources.events import SourceEvent
from streams.sources.generated_day import DEFAULT_SEED, generate_day, planted
from streams.sources.replay import Replayed
from streams.verify.intake import extents, lags

_PLAY_S: Final = 60.0
_START_S: Final = 60.0
_STALL_S: Final = 180.0
_CLOSE_S: Final = 600.0
_IDLE_S: Final = 2
_TELL_EVERY_S: Final = 10.0
_FILE_WIDTH: Final = 140


@dataclass(frozen=True, slots=True)
class _Day:
    """What is played; nothing is planted in a recording."""

    title: str
    notice: str
    events: Sequence[SourceEvent]
    planted: Sequence[Planted] | None


def demo(
    data: Annotated[
        Path | None, typer.Option(help="Recorded calls (anonymous-bank), not a generated day.")
    ] = None,
    speed: Annotated[
        str | None, typer.Option(help="Event time against the clock: a number, max.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Other seeds give other days.")] = DEFAULT_SEED,
    exit_when_done: Annotated[
        bool, typer.Option("--exit-when-done", help="End after the summary and stop everything.")
    ] = False,
    workers: Annotated[int, typer.Option(min=1, help="Workers that share the work.")] = 1,
) -> None:
    """Play a day of a contact centre through Kafka, worker, Redis and wallboard, and sum it up.

    Takes about a minute; --speed 60 plays an hour a minute, max as fast as it goes. Starts its own
    Kafka and Valkey with fresh data, unless ANDON_KAFKA_BOOTSTRAP_SERVERS or ANDON_REDIS_URL name
    others, and leaves no process behind. Without --exit-when-done the wallboard stays until Ctrl-C.

    Exit code 1 if a planted problem was missed, anything else has fired, or verify differs.

    Example: andon demo --exit-when-done
    """
    ratio = None if speed is None else parse_speed(speed)
    try:
        with interruptible() as interruption:
            _run(_day(data, seed), ratio, workers, exit_when_done, interruption)
    except Interrupted as interrupted:
        say("stopped")
        raise typer.Exit(interrupted.exit_code) from None


def _day(data: Path | None, seed: int) -> _Day:
    if data is None:
        title = f"generated day, seed {seed}"
        return _Day(title, "generated data", generate_day(seed), planted(seed))
    notice = "recorded calls, generated surveys and evaluations"
    return _Day(f"{data.name}: {notice}", notice, read_events(data, seed), None)


def _run(
    day: _Day,
    speed: float | None,
    workers: int,
    exit_when_done: bool,
    interruption: Interruption,
) -> None:
    with _fresh_state(load_settings()) as state_dir:
        environment = demo_environment(os.environ, state_dir)
        try:
            with Stack.of(load_settings(environment), tell=say).bound():
                # Only now do the settings hold the addresses of what has just been started.
                settings = load_settings(environment)
                with Children(state_dir / "logs", environment, interruption.check) as children:
                    right = _Demo(settings, children, workers).run(day, speed)
                    if not exit_when_done:
                        _stay(children, state_dir)
        finally:
            end_descendants()
    if not right:
        raise typer.Exit(1)


def demo_environment(environment: Mapping[str, str], state_dir: Path) -> dict[str, str]:
    """Return the environment of the demo's processes."""
    return {
        **environment,
        "ANDON_STATE_DIR": str(state_dir),
        "PYTHONUNBUFFERED": "1",
    }


@contextmanager
def _fresh_state(settings: Settings) -> Iterator[Path]:
    """Give an empty state directory that no other demo uses, below the one of the settings."""
    settings.state_dir.mkdir(parents=True, exist_ok=True)
    state_dir = settings.state_dir / "demo"
    with (settings.state_dir / "demo.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise CommandError(
                f"{state_dir}: another demo runs there",
                "end it with Ctrl-C, or set ANDON_STATE_DIR to another directory",
            ) from error
        end_leftovers(state_dir)
        Stack(state_dir).down()
        shutil.rmtree(state_dir, ignore_errors=True)
        state_dir.mkdir()
        yield state_dir


class _Demo:
    """One demo, from empty topics to the summary."""

    def __init__(self, settings: Settings, children: Children, workers: int) -> None:
        self._settings = settings
        self._children = children
        self._workers = [f"worker-{number}" for number in range(1, workers + 1)]
        self._catalogue = load_catalogue(settings.topics_file)
        self._inputs = [topic.name for topic in self._catalogue.inputs]
        self._client = settings.kafka_client()

    def run(self, day: _Day, speed: float | None) -> bool:
        """Play the day; return whether everything came out as it should."""
        self._make_topics()
        self._start(day.notice)
        began = time.monotonic()
        say(f"playing {len(day.events):,} events: {day.title}")
        span_s = (day.events[-1].event_time_ms - day.events[0].event_time_ms) / 1000
        replayed = play(
            self._settings,
            day.events,
            span_s / _PLAY_S if speed is None else speed,
            "playing",
            self._children.tend,
        )
        self._catch_up()
        took_s = time.monotonic() - began
        self._close_the_day()
        summary = summarise(self._settings, day.planted)
        ratio = (
            f"{span_s / took_s:,.0f} times as fast as it happened, worked off {took_s:.1f} s"
            " after the first"
        )
        # Where there is no terminal there is no width to keep to.
        console = Console() if sys.stdout.isatty() else Console(width=_FILE_WIDTH)
        show(summary, replayed, ratio, console)
        if self._children.restarted:
            say(f"processes started again: {self._children.restarted}; see their logs")
        return _is_right(summary, replayed)

    def _make_topics(self) -> None:
        require_kafka(self._settings)
        admin = AdminClient(self._client)
        existing = admin.list_topics(timeout=_START_S).topics
        for topic in self._catalogue.inputs:
            if topic.name in existing and self._count(topic.name):
                raise CommandError(
                    f"{topic.name}: holds records already, expected none",
                    "the demo counts every event: give it a Kafka of its own, or unset"
                    " ANDON_KAFKA_BOOTSTRAP_SERVERS",
                )
        create_topics(admin, self._catalogue)
        self._children.wait_until(self._are_led, "new topics", _START_S)

    def _count(self, topic: str) -> int:
        return sum(end - first for first, end in offset_ranges(self._client, topic).values())

    def _are_led(self) -> bool:
        """Tell whether every partition has its leader: that takes a moment after the creation."""
        try:
            for topic in self._catalogue:
                self._count(topic.name)
        except (KafkaException, TopicMissing):
            return False
        return True

    def _start(self, notice: str) -> None:
        port = free_port()
        for name in self._workers:
            self._children.start(name, "worker", restarts=True)
        self._children.start("deliver", "deliver", restarts=True)
        self._children.start(
            "wallboard", "wallboard", "--port", str(port), "--notice", notice, restarts=True
        )
        self._children.wait_until(lambda: _answers(port), "wallboard", _START_S)
        say(f"wallboard: http://127.0.0.1:{port}")

    def _catch_up(self) -> None:
        say("waiting for the worker")
        self._wait_for(self._settings.application_id, [*self._inputs, PARTIALS], "worker")

    def _close_the_day(self) -> None:
        say("closing the day")
        self._children.stop(*self._workers)
        self._children.start("closing", "worker", "--exit-when-idle", str(_IDLE_S))
        self._children.finish("closing", _CLOSE_S)
        self._wait_for(delivery_group(self._settings), [KPIS, ACTIONS], "deliver")

    def _wait_for(self, group: str, topics: list[str], what: str) -> None:
        progress = _Progress({**self._client, "log_level": 3}, group, topics, what)
        self._children.wait_until(progress.is_over, what, _STALL_S, lambda: progress.processed)


@dataclass(slots=True)
class _Progress:
    """How far a consumer group has come with some topics."""

    client: Mapping[str, Any]
    group: str
    topics: Sequence[str]
    what: str
    processed: int = 0
    told_s: float = field(default_factory=time.monotonic)

    def is_over(self) -> bool:
        """Look again, and tell whether the group has everything."""
        try:
            found = extents(self.client, self.group, self.topics)
            left = lags(self.client, found)
        except KafkaException:
            # A group that has just begun has no coordinator yet; who waits has limited patience.
            return False
        self.processed = sum(each.processed for each in found)
        if left and time.monotonic() - self.told_s > _TELL_EVERY_S:
            self.told_s = time.monotonic()
            say(f"{self.what}: {sum(lag.records for lag in left):,} records to go")
        return not left


def _is_right(summary: Summary, replayed: Replayed) -> bool:
    found = summary.verdict
    return summary.report.ok and replayed.is_whole and (found is None or found.is_right)


def _answers(port: int) -> bool:
    connection = HTTPConnection("127.0.0.1", port, timeout=2)
    try:
        connection.request("GET", "/")
        return connection.getresponse().status == HTTPStatus.OK
    except (OSError, HTTPException):
        return False
    finally:
        connection.close()


def _stay(children: Children, state_dir: Path) -> None:
    """Leave the wallboard up until somebody ends it."""
    say(f"ask further with ANDON_STATE_DIR={state_dir} andon kpis --scope queue --window day")
    say("the wallboard stays; Ctrl-C ends everything")
    try:
        while True:
            children.tend()
            time.sleep(0.5)
    except Interrupted:
        say("stopping")
