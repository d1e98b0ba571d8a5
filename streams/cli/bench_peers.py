"""The part of `andon bench` that runs the product beside its peers."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from rich.table import Table

from streams.bench.history import PEERS_COLUMNS, Circumstances, append_rows, now_text
from streams.bench.peer_setup import GROUPS, PEERS, Peer, PeerMissing, Ready, made_ready
from streams.bench.peers import run_round
from streams.bench.ratios import OURS, Comparison, EngineRun, Spread, compared, ratios
from streams.bench.ratios import plain as plain_comparison
from streams.bench.scenarios import Scenario
from streams.bench.stage import Result, Stage
from streams.bench.sums import Expected
from streams.cli import CommandError
from streams.cli.common import say
from streams.settings import cache_dir

REFERENCE: Final = "reference-catch-up"
"""What all engines do; the product's run of it is a run of the scenario like any other."""

PEERS_WIDTH: Final = 176

_CAPTION: Final = "ratio: ours / theirs, in events/s and in CPU per event, within one round"

_OUR_STATE: Final = "changelog, exactly once"


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a run of the command hands on: a stage for each round, and where results go."""

    found: Circumstances
    staged: Callable[[], AbstractContextManager[Stage]]
    written_down: Callable[[Result, float], dict[str, Any]]
    history: Path


@dataclass(frozen=True, slots=True)
class Beside:
    """What the rounds came to: the product's results, all engines compared, who was left out."""

    rounds: int
    results: list[dict[str, Any]]
    compared: list[Comparison]
    left_out: dict[str, str]

    @property
    def ok(self) -> bool:
        """Whether every engine came to the right sums, and there was one to compare with."""
        return len(self.compared) > 1 and all(each.right for each in self.compared)

    def plain(self) -> dict[str, Any]:
        """Return it as plain JSON values."""
        return {
            "rounds": self.rounds,
            "engines": [plain_comparison(each) for each in self.compared],
            "left_out": self.left_out,
        }

    def table(self) -> Table:
        """Return the engines as rows: medians, and of several rounds the least and the most."""
        found = Table(
            "engine", box=None, header_style="bold", caption=_CAPTION, caption_justify="left"
        )
        for title in ("events", "events/s", "CPU us/event", "of a core", "peak RSS MB"):
            found.add_column(title, justify="right")
        found.add_column("state after a crash")
        for title in ("ratio", "CPU ratio", "right"):
            found.add_column(title, justify="right")
        for each in self.compared:
            found.add_row(
                each.engine,
                f"{each.events:,}",
                _shown(each.events_per_s, "{:,.0f}", self.rounds),
                _shown(each.cpu_us_per_event, "{:,.4g}", self.rounds),
                _shown(each.cpu_share, "{:.0%}", 1),
                _shown(each.peak_rss_mb, "{:,.0f}", 1),
                _OUR_STATE if each.engine == OURS else PEERS[each.engine].state,
                _shown(each.ratio, "{:.3g}", self.rounds),
                _shown(each.cpu_ratio, "{:.3g}", self.rounds),
                "yes" if each.right else "NO",
            )
        return found


def chosen_peers(text: str) -> list[Peer]:
    """Return the peers that an option names, by group or by id; raise CommandError."""
    names = [each.strip() for each in text.split(",")]
    ids = [each for name in names for each in GROUPS.get(name, [name])]
    for each in ids:
        if each not in PEERS:
            known = ", ".join((*GROUPS, *PEERS))
            raise CommandError(f"peers: {each}, expected some of {known}", "name some of these", 2)
    return [PEERS[each] for each in dict.fromkeys(ids)]


def run_beside(
    peers: Sequence[Peer], scenario: Scenario, rounds: int, around: Surroundings
) -> Beside:
    """Set the peers up, run them and the product so many times in turn, and write it all down.

    Raises CommandError where none can be set up.
    """
    ready, left_out = _set_up(peers)
    expected = Expected(scenario)
    results, runs = [], []
    for number in range(1, rounds + 1):
        if rounds > 1:
            say(f"round {number} of {rounds}")
        with around.staged() as stage:
            done = run_round(number, ready, expected, stage)
        ours = next(run for run in done.runs if run.engine == OURS)
        results.append(around.written_down(done.ours, ours.calibration_ms))
        _append(done.runs, ours, around)
        runs += done.runs
    return Beside(rounds, results, compared(runs), left_out)


def _set_up(peers: Sequence[Peer]) -> tuple[list[Ready], dict[str, str]]:
    ready, left_out = [], {}
    for peer in peers:
        try:
            ready.append(made_ready(peer, cache_dir(), say))
        except PeerMissing as problem:
            say(f"left out: {problem}")
            left_out[peer.id] = str(problem)
    if not ready:
        raise CommandError("peers: none can be set up here", PeerMissing.next_step)
    return ready, left_out


def _append(runs: Sequence[EngineRun], ours: EngineRun, around: Surroundings) -> None:
    """Write a round down, and say what was wrong."""
    for run in runs:
        for problem in run.problems:
            say(f"{run.engine}: {problem}")
        speed, cpu = ratios(run, ours)
        figures = run.figures
        row = {
            **asdict(around.found),
            "date": now_text(),
            "calibration_ms": run.calibration_ms,
            "engine": run.engine,
            "engine_versions": run.versions.replace(", ", "; "),
            "round": run.round,
            "events": run.events,
            "events_per_s": figures and figures.events_per_s,
            "cpu_us_per_event": figures and figures.cpu_us_per_event,
            "peak_rss_mb": figures and figures.peak_rss_mb,
            "ratio": speed,
            "cpu_ratio": cpu,
            "right": run.right,
        }
        append_rows(around.history, PEERS_COLUMNS, [row])


def _shown(spread: Spread | None, form: str, rounds: int) -> str:
    if spread is None:
        return ""
    median = form.format(spread.median)
    if rounds == 1:
        return median
    return f"{median} ({form.format(spread.min)}-{form.format(spread.max)})"
