"""How the product does beside its peers: figures of engines over rounds, and their ratios."""

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

OURS: Final = "andon"


@dataclass(frozen=True, slots=True)
class Figures:
    """What was measured of an engine in one run; ``cpu_share`` is that of one core."""

    seconds: float
    events_per_s: float
    cpu_us_per_event: float
    cpu_share: float
    peak_rss_mb: float


@dataclass(frozen=True, slots=True)
class EngineRun:
    """One run of one engine; figures are None where it has left none, problems empty if well."""

    engine: str
    round: int
    events: int
    calibration_ms: float
    versions: str
    figures: Figures | None
    problems: tuple[str, ...]
    totals: dict[str, list[int]] | None = None

    @property
    def right(self) -> bool:
        """Whether it came to the sums that the load implies."""
        return not self.problems


@dataclass(frozen=True, slots=True)
class Spread:
    """Least, median and most of the rounds."""

    min: float
    median: float
    max: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """An engine over all rounds. Ratios are ours / theirs, of runs of the same round.

    Above 1 the product does more events a second, below 1 it needs less CPU for an event. None is
    what no round has.
    """

    engine: str
    events: int
    versions: str
    right: bool
    events_per_s: Spread | None
    cpu_us_per_event: Spread | None
    cpu_share: Spread | None
    peak_rss_mb: Spread | None
    ratio: Spread | None
    cpu_ratio: Spread | None
    totals: dict[str, list[int]] | None
    problems: tuple[str, ...]


def ratios(run: EngineRun, ours: EngineRun | None) -> tuple[float | None, float | None]:
    """Return ours / theirs of events a second and of CPU, None where one has no figures."""
    if ours is None or ours.figures is None or run.figures is None:
        return None, None
    theirs_us = run.figures.cpu_us_per_event
    return (
        ours.figures.events_per_s / run.figures.events_per_s,
        # A run that is over between two samples has used no CPU that anybody saw.
        ours.figures.cpu_us_per_event / theirs_us if theirs_us else None,
    )


def compared(runs: Sequence[EngineRun]) -> list[Comparison]:
    """Return the engines over their rounds, the product first, then by events a second."""
    ours = {run.round: run for run in runs if run.engine == OURS}
    engines = dict.fromkeys(run.engine for run in runs)
    found = [_comparison([run for run in runs if run.engine == each], ours) for each in engines]
    return sorted(
        found,
        key=lambda each: (
            each.engine != OURS,
            -each.events_per_s.median if each.events_per_s else 0.0,
        ),
    )


def _comparison(runs: Sequence[EngineRun], ours: dict[int, EngineRun]) -> Comparison:
    figures = [run.figures for run in runs if run.figures is not None]
    beside = [ratios(run, ours.get(run.round)) for run in runs if run.engine != OURS]
    return Comparison(
        engine=runs[0].engine,
        events=runs[0].events,
        versions=runs[0].versions,
        right=all(run.right for run in runs),
        events_per_s=_spread(each.events_per_s for each in figures),
        cpu_us_per_event=_spread(each.cpu_us_per_event for each in figures),
        cpu_share=_spread(each.cpu_share for each in figures),
        peak_rss_mb=_spread(each.peak_rss_mb for each in figures),
        ratio=_spread(speed for speed, _ in beside),
        cpu_ratio=_spread(cpu for _, cpu in beside),
        totals=runs[-1].totals,
        problems=tuple(problem for run in runs for problem in run.problems),
    )


def _spread(values: Iterable[float | None]) -> Spread | None:
    known = [value for value in values if value is not None]
    return Spread(min(known), statistics.median(known), max(known)) if known else None


def plain(comparison: Comparison) -> dict[str, Any]:
    """Return a comparison as plain JSON values."""
    return asdict(comparison)
