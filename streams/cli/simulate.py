"""`andon simulate`: a generated day to the input topics."""

import time
from datetime import date, datetime
from typing import Annotated

import typer

from streams.cli.common import say
from streams.cli.playing import parse_speed, play, report
from streams.settings import load_settings
from streams.sources.generated_day import DEFAULT_DATE, DEFAULT_SEED, generate_day
from streams.sources.replay import shifted_to_now


def simulate(
    seed: Annotated[int, typer.Option(help="Other seeds give other days.")] = DEFAULT_SEED,
    day: Annotated[
        datetime, typer.Option("--date", formats=["%Y-%m-%d"], help="Day that is played.")
    ] = datetime(DEFAULT_DATE.year, DEFAULT_DATE.month, DEFAULT_DATE.day),  # noqa: DTZ001
    speed: Annotated[str, typer.Option(help="Event time against the clock: a number, max.")] = "1",
    shift_to_now: Annotated[
        bool, typer.Option("--shift-to-now", help="Move all instants so that it happens now.")
    ] = False,
) -> None:
    """Send a generated day of a contact centre to the input topics.

    The day is a function of seed and date; every event of it is marked as generated.

    Example: andon simulate --speed 600 --shift-to-now
    """
    ratio = parse_speed(speed)
    events = generate_day(seed, date(day.year, day.month, day.day))
    if shift_to_now:
        events = shifted_to_now(events, ratio, round(time.time() * 1000))
    say(f"generated day {day:%Y-%m-%d}, seed {seed}: {len(events):,} events")
    report(play(load_settings(), events, ratio, "generated day"))
