"""`andon replay`: a file of another system's records, or of ours, to the input topics."""

import time
from collections.abc import Callable, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final

import typer

from streams.cli import CommandError
from streams.cli.common import say
from streams.cli.playing import parse_speed, play, report
from streams.settings import load_settings
from streams.sources.anonymous_bank import generated_feedback, read_calls
from streams.sources.events import Read, SourceEvent, in_order_of_time
from streams.sources.jsonl import read_jsonl
from streams.sources.replay import shifted_to_now


class Source(StrEnum):
    """The formats that can be replayed."""

    ANONYMOUS_BANK = "anonymous-bank"
    JSONL = "jsonl"


_READERS: Final[Mapping[Source, Callable[[Path], Read]]] = {
    Source.ANONYMOUS_BANK: read_calls,
    Source.JSONL: read_jsonl,
}


def replay(
    source: Annotated[Source, typer.Argument(help="Format of the file.")],
    file: Annotated[Path, typer.Argument(help="The file; anonymous-bank may be gzipped.")],
    speed: Annotated[str, typer.Option(help="Event time against the clock: a number, max.")] = "1",
    shift_to_now: Annotated[
        bool, typer.Option("--shift-to-now", help="Move all instants so that it happens now.")
    ] = False,
    unsorted: Annotated[
        bool, typer.Option("--unsorted", help="Keep the order of the file, not that of time.")
    ] = False,
    feedback: Annotated[
        bool,
        typer.Option("--feedback", help="anonymous-bank: add generated surveys and evaluations."),
    ] = False,
    seed: Annotated[int, typer.Option(help="Seed of the generated feedback.")] = 7,
) -> None:
    """Send a file's events to the input topics, in the order and at the pace of their time.

    Records that break the format or their contract are named and left out; exit 1 if there are any.

    Example: andon replay anonymous-bank calls.tsv.gz --speed max
    """
    ratio = parse_speed(speed)
    if feedback and source is not Source.ANONYMOUS_BANK:
        raise typer.BadParameter(f"{source}: has none to add, expected anonymous-bank")
    read = read_file(source, file)
    events = read.events
    if feedback:
        events = events + generated_feedback(events, seed)
    if not unsorted:
        events = in_order_of_time(events)
    if shift_to_now:
        events = shifted_to_now(events, ratio, round(time.time() * 1000))
    say(f"{file.name}: {len(events):,} events")
    report(play(load_settings(), events, ratio, file.name), read.skipped)


def read_file(source: Source, file: Path) -> Read:
    """Return what a file holds; raise CommandError (exit 2) if it cannot be read at all."""
    try:
        return _READERS[source](file)
    except (OSError, ValueError, EOFError) as error:
        problem = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise CommandError(
            f"{file}: {problem}", f"give a file in the format {source}", exit_code=2
        ) from error


def read_events(file: Path, seed: int) -> list[SourceEvent]:
    """Return recorded calls with generated feedback, in the order of time.

    Raises CommandError if the file cannot be read or any of its rows breaks the format.
    """
    read = read_file(Source.ANONYMOUS_BANK, file)
    if read.skipped:
        raise CommandError(
            f"{file.name}: {read.skipped[0]}, and {len(read.skipped) - 1:,} rows besides",
            "mend the file, or leave the broken rows out with `andon replay anonymous-bank`",
        )
    return in_order_of_time(read.events + generated_feedback(read.events, seed))
