"""What a run leaves beside the history: latencies, points of curves, memory over time, pictures."""

import csv
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from streams.bench.history import append_rows
from streams.bench.scenarios import Scenario

_WHEN: Final = ("date", "commit", "dirty", "scenario")
LATENCIES: Final = (*_WHEN, "what", "p50_ms", "p99_ms", "p999_ms", "max_ms", "n")
SCALE: Final = (
    *(*_WHEN, "axis", "at", "events", "events_per_s", "cpu_us_per_event"),
    *("peak_rss_mb", "verified"),
)
RECOVERY: Final = (
    *(*_WHEN, "events", "state_mb", "peak_rss_mb", "kill", "seconds", "recovery_s"),
    "verified",
)
MEMORY: Final = (*_WHEN, "minute", "rss_mb")
BURST: Final = (*_WHEN, "events", "drain_s", "peak_rss_mb", "verified")


def write_results(scenario: Scenario, row: Mapping[str, Any], directory: Path) -> None:
    """Add what the columns of the history cannot hold to the files beside it, by kind.

    ``row`` is the result with date, commit and dirty. Raises HistoryError.
    """
    found = row["details"]
    append_rows(directory / "latencies.csv", LATENCIES, _latencies(row))
    if scenario.curve is not None:
        point = {**row, "axis": scenario.curve.axis, "at": scenario.curve.at}
        append_rows(directory / "scale.csv", SCALE, [point])
    if scenario.kind == "burst":
        append_rows(directory / "burst.csv", BURST, [{**row, **found}])
    if scenario.kind == "recovery":
        append_rows(directory / "recovery.csv", RECOVERY, list(_kills(row)))
    if scenario.kind == "endurance":
        minutes = [
            {**row, "minute": minute, "rss_mb": rss_mb}
            for minute, rss_mb in enumerate(found["rss_mb"])
        ]
        append_rows(directory / "endurance.csv", MEMORY, minutes)


def _latencies(row: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [{**row, "what": what, **each} for what, each in row["latencies"].items()]


def _kills(row: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    found = row["details"]
    pairs = zip(found["seconds"], found["recovery_s"], strict=True)
    for number, (seconds, recovery_s) in enumerate(pairs, 1):
        one = {"kill": number, "seconds": seconds, "recovery_s": recovery_s}
        yield {**row, "state_mb": found["state_mb"], **one}


# -- pictures ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Panel:
    """One small picture: two curves over the same points."""

    title: str
    at: Sequence[str]
    left: Sequence[float]
    right: Sequence[float]


def scale_panels(file: Path) -> list[Panel]:
    """Return a panel for each axis of more than one point, with the newest result of each."""
    rows = _rows(file)
    newest = {row["scenario"]: row for row in rows if row["verified"] == "yes"}
    by_axis = itertools.groupby(
        sorted(newest.values(), key=lambda row: row["axis"]), key=lambda row: row["axis"]
    )
    found = [(axis, sorted(points, key=_place)) for axis, points in by_axis]
    return [
        Panel(
            axis,
            [point["at"] for point in points],
            [float(point["cpu_us_per_event"]) for point in points],
            [float(point["peak_rss_mb"]) for point in points],
        )
        for axis, points in found
        if len(points) > 1
    ]


def recovery_panels(file: Path) -> list[Panel]:
    """Return the panel of recoveries over the size of the state, of the newest run of each size."""
    rows = _rows(file)
    newest: dict[str, list[dict[str, str]]] = {}
    for row in rows:
        if row["kill"] == "1":
            newest[row["scenario"]] = []
        newest[row["scenario"]].append(row)
    runs = sorted(newest.values(), key=lambda run: float(run[0]["state_mb"]))
    if len(runs) < 2:
        return []
    return [
        Panel(
            "state, MB in the changelogs",
            [f"{float(run[0]['state_mb']):.0f}" for run in runs],
            [max(float(row["seconds"]) for row in run) for run in runs],
            [max(float(row["recovery_s"]) for row in run) for run in runs],
        )
    ]


def _rows(file: Path) -> list[dict[str, str]]:
    if not file.exists():
        return []
    with file.open(newline="") as lines:
        return list(csv.DictReader(lines))


def _place(point: Mapping[str, str]) -> tuple[float, str]:
    """Order points by size: numbers, then minutes, then days."""
    text = point["at"].replace(",", "")
    digits = text.rstrip("m")
    return (float(digits), text) if digits.replace(".", "").isdigit() else (float("inf"), text)
