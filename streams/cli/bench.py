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
    PEERS_FILE,
    Circumstances,
    append_row,
    calibration_ms,
    circumstances,
    now_text,
)
from streams.bench.run import plain, run
from streams.bench.scenarios import Scenario, load_scenarios
from streams.cli import CommandError
from streams.cli.bench_peers import (
    PEERS_WIDTH,
    SCENARIO,
    Surroundings,
    chosen_peers,
    run_beside,
)
from streams.cli.bench_peers import table as peers_table
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
        list[str] | None, typer.Argument(metavar="[SCENARIO]...", help="Which; all if none.")
    ] = None,
    events: Annotated[
        int | None, typer.Option(min=1, help="Events to measure, in place of the scenario's.")
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
            " If no scenario is named, python.",
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
        Path, typer.Option(help="The same for each run of an engine.", show_default=False)
    ] = PEERS_FILE,
) -> None:
    """Measure a worker in permanent scenarios, each on a Kafka of its own, each judged by verify.

    Then the reference job runs beside the same in other engines. The last line is JSON. Every run
    adds a row to deploy/bench/history.csv or peers.csv; deploy/bench/README.md says how it is
    measured. Exit code 1 if a run was not right.

    Example: andon bench reference-catch-up --events 200000
    """
    others = chosen_peers(peers or ("none" if scenarios else "python"))
    chosen = [] if others and not scenarios and peers else _chosen(scenarios or [])
    beside = _chosen([SCENARIO])[0].sized(events, quick=quick)
    found = circumstances(KAFKA_VERSION, tuned_settings(os.environ))
    around = Surroundings(
        found=found,
        state_dir=lambda: _state_dir(keep=keep),
        environment=lambda state_dir: _environment(beside, state_dir),
        written_down=lambda result, ms: _written_down(result, ms, found, history),
        history=peers_history,
    )
    compared = None
    try:
        with interruptible():
            results = [
                _measured(each.sized(events, quick=quick), found, history, keep=keep)
                for each in chosen
                # Beside its peers it runs anyway.
                if not (others and each.id == SCENARIO)
            ]
            if others:
                sized = [each.sized(beside.events, quick=quick) for each in others]
                compared = run_beside(sized, beside, rounds, around)
                results = [*compared.results, *results]
    except Interrupted as interrupted:
        say("stopped")
        raise typer.Exit(interrupted.exit_code) from None
    if format is BenchFormat.TABLE:
        # Figures cut off help nobody, least of all in a file.
        console = Console(width=max(_WIDTH, Console().width))
        console.print(_table(results))
        if compared is not None:
            Console(width=max(PEERS_WIDTH, console.width)).print(peers_table(compared, rounds))
    ok = all(result["verified"] for result in results) and (compared is None or compared.ok)
    told = {} if compared is None else {"peers": compared.plain(rounds)}
    typer.echo(json.dumps({**asdict(found), "ok": ok, "results": results, **told}))
    if not ok:
        raise typer.Exit(1)


def _chosen(ids: Sequence[str]) -> list[Scenario]:
    known = load_scenarios()
    for each in ids:
        if each not in known:
            raise CommandError(
                f"scenario: {each}, expected one of {', '.join(known)}", "name one of these", 2
            )
    return [known[each] for each in ids or known]


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
    with _state_dir(keep=keep) as state_dir:
        environment = _environment(scenario, state_dir)
        with Stack.of(load_settings(environment), tell=say).bound():
            # Only now do the settings hold the addresses of what has just been started.
            settings = load_settings(environment)
            with Children(state_dir / "logs", environment) as children:
                result = plain(run(scenario, settings, children, say))
    return _written_down(result, calibrated, found, history)


def _environment(scenario: Scenario, state_dir: Path) -> dict[str, str]:
    (state_dir / "no-rules").mkdir()
    return bench_environment(os.environ, scenario, state_dir)


def _written_down(
    result: dict[str, Any], calibrated: float, found: Circumstances, history: Path
) -> dict[str, Any]:
    """Add a result to the history, say what was wrong, and return it with the machine's speed."""
    for problem in result["problems"]:
        say(f"{result['scenario']}: {problem}")
    result["calibration_ms"] = calibrated
    row = {**asdict(found), **result, "date": now_text()}
    append_row(history, {name: row[name] for name in COLUMNS})
    return result


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
            f"{result['events_per_s']:,.0f}",
            f"{result['cpu_us_per_event']:.2f}",
            f"{result['cpu_share']:.0%}",
            *(_ms(result[name]) for name in ("p50_ms", "p99_ms", "p999_ms")),
            f"{result['peak_rss_mb']:,.0f}",
            f"{result['kpi_records']:,}",
            "yes" if result["verified"] else "NO",
        )
    return table


def _ms(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f}"
