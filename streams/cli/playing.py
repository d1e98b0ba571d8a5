"""What the commands that send events share: speed, progress, and the account at the end."""

import gc
import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Final

import typer
from confluent_kafka.admin import AdminClient
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from schemas.catalogue import load_catalogue
from schemas.client import partition_numbers
from schemas.registry import open_registry
from streams.cli import CommandError
from streams.cli.common import require_kafka, say
from streams.settings import Settings
from streams.sources.events import Skipped, SourceEvent
from streams.sources.replay import MAX_SPEED, Encoder, Replay, Replayed

_LINE_EVERY_S: Final = 5.0
_SHOWN_SKIPPED: Final = 20

OnProgress = Callable[[int, int], None]


def parse_speed(text: str) -> float:
    """Return the speed that an option names: a number above 0, or `max`; raise BadParameter.

    >>> parse_speed("max")
    inf
    """
    if text == "max":
        return MAX_SPEED
    try:
        speed = float(text)
    except ValueError:
        speed = math.nan
    if not 0 < speed < math.inf:
        raise typer.BadParameter(f"{text!r}, expected a number above 0, or max")
    return speed


def play(
    settings: Settings,
    events: Sequence[SourceEvent],
    speed: float,
    title: str,
    meanwhile: Callable[[], None] = lambda: None,
) -> Replayed:
    """Send the events to the input topics, showing progress; `meanwhile` is called now and then.

    Raises CommandError where no broker answers, TopicMissing where it has no input topics.
    """
    catalogue = load_catalogue(settings.topics_file)
    require_kafka(settings)
    for topic in catalogue.inputs:
        partition_numbers(AdminClient(settings.kafka_client()), topic.name)
    encoder = Encoder(catalogue, open_registry(settings.schema_registry_url))
    # The events live to the end: the collector need not go through them again and again.
    gc.freeze()
    try:
        with progress_of(len(events), title) as show:

            def progress(sent: int, event_time_ms: int) -> None:
                meanwhile()
                show(sent, event_time_ms)

            return Replay(settings.kafka_client(), encoder).run(events, speed, progress)
    finally:
        gc.unfreeze()


def report(replayed: Replayed, unread: Sequence[Skipped] = ()) -> None:
    """Say what was delivered; name what was not and leave with exit code 1 if there is any."""
    for topic, count in sorted(replayed.delivered.items()):
        say(f"{topic}: {count:,} delivered")
    say(f"{replayed.seconds:.1f} s, {replayed.events_per_second:,.0f} events/s")
    skipped = [*unread, *replayed.skipped]
    for one in skipped[:_SHOWN_SKIPPED]:
        say(f"skipped {one}")
    if len(skipped) > _SHOWN_SKIPPED:
        say(f"skipped {len(skipped) - _SHOWN_SKIPPED:,} more")
    for error, count in sorted(replayed.failed.items()):
        say(f"not delivered: {count:,} ({error})")
    if replayed.failed:
        raise CommandError(
            f"{replayed.failed.total():,} events were not delivered",
            "look at the broker's log, then send again: events that arrived are not counted twice",
        )
    if skipped:
        raise CommandError(
            f"{len(skipped):,} records break their contract and were skipped",
            "mend them and send again: events that arrived are not counted twice",
        )


@contextmanager
def progress_of(total: int, title: str) -> Iterator[OnProgress]:
    """Give a function that shows events sent and event time: a bar on a terminal, else lines."""
    if not sys.stderr.isatty():
        yield _lines(total, title)
        return
    bar = Progress(
        TextColumn(title),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[clock]}"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )
    with bar:
        task = bar.add_task(title, total=total, clock="")
        yield lambda sent, event_time_ms: bar.update(
            task, completed=sent, clock=clock_of(event_time_ms)
        )


def _lines(total: int, title: str) -> OnProgress:
    next_s = time.monotonic() + _LINE_EVERY_S

    def show(sent: int, event_time_ms: int) -> None:
        nonlocal next_s
        if time.monotonic() >= next_s:
            next_s = time.monotonic() + _LINE_EVERY_S
            say(f"{title}: {sent:,} of {total:,}, event time {clock_of(event_time_ms)}")

    return show


def clock_of(event_time_ms: int) -> str:
    """Return an event time for people, to the minute, UTC.

    >>> clock_of(0)
    '1970-01-01 00:00 UTC'
    """
    return f"{datetime.fromtimestamp(event_time_ms / 1000, UTC):%Y-%m-%d %H:%M} UTC"
