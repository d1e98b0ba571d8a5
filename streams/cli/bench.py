"""`andon bench`: how fast a worker is, and whether it was right meanwhile."""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.console import Console
from rich.table import Table

from deploy.local.jars import KAFKA_VERSION
from deploy.local.stack import Stack
from streams.bench.history import (
    COLUMNS,
    HISTORY_FILE,
    Circumstances,
    append_rows,
    calibration_ms,
    circumstances,
    now_text,
)
from streams.bench.peer_setup import Peer
from streams.bench.picture import draw_curves
from streams.bench.prepare import prepare
from streams.bench.results import write_results
from streams.bench.run import plain, run
from streams.bench.scenarios import Scenario, Suite, load_scenarios
from streams.bench.stage import Result, Stage
from streams.cli import CommandError
from streams.cli.bench_peers import (
    PEERS_WIDTH,
    REFERENCE,
    Beside,
    Surroundings,
    chosen_peers,
    run_beside,
)
from streams.cli.children import Children, Interrupted, interruptible
from streams.cli.common import say
from streams.settings import PREFIX, load_settings

#: Settings that may be tried; all others are the shipped ones, whatever the environment says.
TUNABLE: Final = (
    *("flush_interval_ms", "flush_max_events", "fetch_max_records", "fetch_budget_bytes"),
    *("transaction_timeout_ms", "checkpoint_interval_s"),
)

_WIDTH: Final = 132
_KEPT: Final = frozenset({"ANDON_CACHE_DIR"})


class BenchFormat(StrEnum):
    """How results are printed: a table before the line of JSON, or that line alone."""

    TABLE = "table"
    JSON = "json"


def bench(
    scenarios: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[SCENARIO]...", help="Which; the standard ones if nothing is named."
        ),
    ] = None,
    suite: Annotated[
        Suite | None,
        typer.Option(help="All scenarios of a suite, if none is named.", show_default=False),
    ] = None,
    events: Annotated[
        int | None, typer.Option(min=1, help="Events to measure, in place of the scenario's.")
    ] = None,
    hours: Annotated[
        float | None,
        typer.Option(min=0.001, help="So long, for those at a rate, in place of --events."),
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="A tenth of the events: to see that all works.")
    ] = False,
    keep: Annotated[
        bool, typer.Option("--keep", help="Leave topics and logs of the runs where they are.")
    ] = False,
    peers: Annotated[
        str | None,
        typer.Option(
            metavar="LIST",
            help="Run the product beside these: python, java, all, none, or names, with commas."
            " If neither a scenario nor a suite is named, python.",
            show_default=False,
        ),
    ] = None,
    rounds: Annotated[
        int, typer.Option(min=1, help="How often each engine runs beside the others, in turn.")
    ] = 1,
    format: Annotated[BenchFormat, typer.Option(help="How to print.")] = BenchFormat.TABLE,  # noqa: A002
    history: Annotated[
        Path, typer.Option(help="File to add a row to for each run.", show_default=False)
    ] = HISTORY_FILE,
    peers_history: Annotated[
        Path | None,
        typer.Option(
            help="The same for each run of an engine; peers.csv beside the other if none is named.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Measure a worker in permanent scenarios, each on a Kafka of its own, each judged by verify.

    Then the reference job runs beside the same in other engines. The last line is JSON. Every run
    adds rows to the files in deploy/bench, whose README.md says how it is measured. Exit code 1 if
    a run was not right.

    Example: andon bench reference-catch-up --events 200000
    """
    chosen, others = what_is_asked(scenarios or [], suite, peers)
    found = circumstances(KAFKA_VERSION, tuned_settings(os.environ))
    reference = load_scenarios()[REFERENCE].sized(events, quick=quick)
    around = Surroundings(
        found=found,
        staged=lambda: _staged(reference, keep=keep),
        written_down=lambda result, ms: _written_down(reference, result, ms, found, history),
        history=peers_history or history.with_name("peers.csv"),
    )
    chosen = [_sized(each, events, hours, quick=quick) for each in chosen]
    others = [each.sized(reference.events, quick=quick) for each in others]
    try:
        with interruptible():
            results = [_measured(each, found, history, keep=keep) for each in chosen]
            beside = run_beside(others, reference, rounds, around) if others else None
    except Interrupted as interrupted:
        say("stopped")
        raise typer.Exit(interrupted.exit_code) from None
    if not _told(found, results, beside, format):
        raise typer.Exit(1)


def what_is_asked(
    ids: Sequence[str], suite: str | None, peers: str | None
) -> tuple[list[Scenario], list[Peer]]:
    """Return the scenarios to run, and the peers to run the reference job beside.

    Whoever names nothing gets the standard suite and the peers in Python, whoever names something
    gets no more than that. Raises CommandError where there is no such scenario or peer.
    """
    known = load_scenarios()
    others = chosen_peers(peers or ("none" if ids or suite else "python"))
    for each in ids:
        if each not in known:
            raise CommandError(
                f"scenario: {each}, expected one of {', '.join(known)}", "name one of these", 2
            )
    if ids:
        chosen = [known[each] for each in ids]
    elif suite is None and peers and others:
        chosen = []
    else:
        chosen = [each for each in known.values() if each.suite == (suite or "standard")]
    # Beside its peers it runs anyway.
    return [each for each in chosen if not (others and each.id == REFERENCE)], others


def _sized(scenario: Scenario, events: int | None, hours: float | None, *, quick: bool) -> Scenario:
    if hours and scenario.rate:
        return scenario.lasting(hours)
    return scenario.sized(events, quick=quick)


def _told(
    found: Circumstances, others: list[dict[str, Any]], beside: Beside | None, how: BenchFormat
) -> bool:
    """Print what was measured, beside peers or not; return whether everything was right."""
    results = [*beside.results, *others] if beside else others
    if how is BenchFormat.TABLE:
        _print_tables(results, beside)
    ok = all(result["verified"] for result in results) and (beside is None or beside.ok)
    peers = {"peers": beside.plain()} if beside else {}
    typer.echo(json.dumps({**asdict(found), "ok": ok, "results": results, **peers}))
    return ok


def tuned_settings(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the settings of an environment that a run takes over, by name."""
    names = {name: environment.get(PREFIX + name.upper()) for name in TUNABLE}
    return {name: value for name, value in names.items() if value}


def bench_environment(
    environment: Mapping[str, str], scenario: Scenario, state_dir: Path
) -> dict[str, str]:
    """Return the environment of a scenario's worker: none of the operator's brokers or files."""
    others = {
        name: value
        for name, value in environment.items()
        if not name.startswith(PREFIX) or name in _KEPT
    }
    tuned = {PREFIX + name.upper(): v for name, v in tuned_settings(environment).items()}
    return {
        **others,
        **tuned,
        "ANDON_STATE_DIR": str(state_dir),
        "ANDON_KPIS_DIR": str(scenario.kpis_dir),
        "ANDON_RULES_DIR": str(scenario.rules_dir or state_dir / "no-rules"),
        "ANDON_LOG_FORMAT": "json",
        "PYTHONUNBUFFERED": "1",
    }


def _measured(
    scenario: Scenario, found: Circumstances, history: Path, *, keep: bool
) -> dict[str, Any]:
    """Run a scenario, write it down, and return the result with the machine's speed."""
    say(f"{scenario.id}: {scenario.title}")
    calibrated = calibration_ms()
    with _staged(scenario, keep=keep) as stage:
        result = run(stage)
    return _written_down(scenario, result, calibrated, found, history)


@contextmanager
def _staged(scenario: Scenario, *, keep: bool) -> Iterator[Stage]:
    """Give a stage with a Kafka of its own, which ends with the block."""
    with _state_dir(keep=keep) as state_dir:
        environment = bench_environment(os.environ, scenario, state_dir)
        (state_dir / "no-rules").mkdir()
        environment |= prepare(scenario, state_dir)
        with Stack.of(load_settings(environment), tell=say).bound():
            # Only now do the settings hold the addresses of what has just been started.
            settings = load_settings(environment)
            with Children(state_dir / "logs", environment) as children:
                yield Stage(scenario, settings, children, say)


def _written_down(
    scenario: Scenario, result: Result, calibrated: float, found: Circumstances, history: Path
) -> dict[str, Any]:
    """Add a result to the history and the files beside it; return it with the machine's speed."""
    told = {**plain(result), "calibration_ms": calibrated}
    for problem in result.problems:
        say(f"{scenario.id}: {problem}")
    row = {**asdict(found), **told, "date": now_text()}
    append_rows(history, COLUMNS, [row])
    write_results(scenario, row, history.parent)
    draw_curves(history.parent)
    return told


@contextmanager
def _state_dir(*, keep: bool) -> Iterator[Path]:
    """Give a new directory; it stays if it is to be kept, or if the run has failed."""
    state_dir = Path(tempfile.mkdtemp(prefix="andon-bench-"))
    keep_it = True
    try:
        yield state_dir
        keep_it = keep
    except Interrupted:
        keep_it = keep
        raise
    finally:
        if keep_it:
            say(f"kept: {state_dir}; start it with `ANDON_STATE_DIR={state_dir} andon stack up`")
        else:
            shutil.rmtree(state_dir, ignore_errors=True)


def _print_tables(results: Sequence[Mapping[str, Any]], beside: Beside | None) -> None:
    # Figures cut off help nobody, least of all in a file.
    console = Console(width=max(_WIDTH, Console().width))
    console.print(_table(results))
    if any(len(result["latencies"]) > 1 for result in results):
        console.print(_latency_table(results))
    if beside is not None:
        Console(width=max(PEERS_WIDTH, console.width)).print(beside.table())


def _table(results: Sequence[Mapping[str, Any]]) -> Table:
    table = Table("scenario", box=None, header_style="bold")
    for title in (
        *("events", "events/s", "CPU us/event", "of a core", "p50 ms", "p99 ms", "p99.9 ms"),
        *("peak RSS MB", "KPI records", "verified"),
    ):
        table.add_column(title, justify="right")
    for result in results:
        table.add_row(
            result["scenario"],
            f"{result['events']:,}",
            _shown(result["events_per_s"], ",.0f"),
            _shown(result["cpu_us_per_event"], ".2f"),
            _shown(result["cpu_share"], ".0%"),
            *(_ms(result[name]) for name in ("p50_ms", "p99_ms", "p999_ms")),
            f"{result['peak_rss_mb']:,.0f}",
            f"{result['kpi_records']:,}",
            "yes" if result["verified"] else "NO",
        )
    return table


def _latency_table(results: Sequence[Mapping[str, Any]]) -> Table:
    table = Table("scenario", "until", box=None, header_style="bold")
    for title in ("of", "p50 ms", "p99 ms", "p99.9 ms", "max ms"):
        table.add_column(title, justify="right")
    for result in results:
        for what, found in result["latencies"].items():
            quantiles = (_ms(found[name]) for name in ("p50_ms", "p99_ms", "p999_ms", "max_ms"))
            table.add_row(result["scenario"], what, f"{found['n']:,}", *quantiles)
    return table


def _ms(value: float | None) -> str:
    return _shown(value, ",.0f")


def _shown(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)
