"""`andon verify`: recompute what the topics should hold, and say where they do not."""

from __future__ import annotations

import json
from enum import StrEnum
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from schemas.errors import TopicMissing
from streams.cli import CommandError
from streams.cli.common import require_kafka, say
from streams.settings import Settings, load_settings
from streams.verify import Report
from streams.verify.definitions import DefinitionError
from streams.verify.report import Difference


class ReportFormat(StrEnum):
    """How the verdict is printed."""

    TABLE = "table"
    JSON = "json"


def verify(
    format: Annotated[ReportFormat, typer.Option(help="How to print.")] = ReportFormat.TABLE,  # noqa: A002
    all_: Annotated[
        bool, typer.Option("--all", help="Judge what may still change as strictly as finals.")
    ] = False,
    one_in: Annotated[
        int,
        typer.Option(min=1, help="Judge the KPI records of one key in so many, always the same."),
    ] = 1,
) -> None:
    """Recompute every KPI record and the account of events from the input topics, and compare.

    The recomputation is SQL over the whole input, up to what the workers have processed, and has
    nothing of their code. Exit code 1, and the first differences, if anything final differs.

    Example: andon verify --format json
    """
    settings = load_settings()
    require_kafka(settings)
    report = judge(settings, one_in)
    if format is ReportFormat.JSON:
        typer.echo(json.dumps(report.plain(), ensure_ascii=False))
    else:
        show(report, Console())
    if not (report.complete if all_ else report.ok):
        raise typer.Exit(1)


def judge(settings: Settings, one_in: int = 1) -> Report:
    """Return the verdict; raise CommandError where there is nothing to judge."""
    from confluent_kafka import KafkaException

    from streams.verify import verify as recompute

    try:
        return recompute(settings, one_in)
    except TopicMissing as problem:
        raise CommandError(str(problem), "make the topics with `andon topics create`") from problem
    except KafkaException as problem:
        raise CommandError(
            f"verify: {problem.args[0].str()}", "see that the brokers are well, and run it again"
        ) from problem
    except DefinitionError as problem:
        raise CommandError(
            str(problem), "set ANDON_KPIS_DIR to the directory that the workers use", exit_code=2
        ) from problem


def show(report: Report, console: Console) -> None:
    """Print the verdict for people: accounts, comparisons, differences, and a last line."""
    console.print(_accounts(report))
    console.print(_compared(report))
    for title, found, count in (
        ("differs", report.differences, report.difference_count),
        ("differs, may still change", report.provisional, report.provisional_count),
    ):
        if count:
            console.print(_differences(title, found))
    for lag in report.lags:
        say(f"not processed yet: {lag.records} records of {lag.topic}-{lag.partition}")
    for note in report.notes:
        say(f"note: {note}")
    say(verdict(report))


def verdict(report: Report) -> str:
    """Return the outcome in one line."""
    account = report.account()
    compared = (
        f"{report.records} KPI records ({report.final_records} final,"
        f" {report.final_kpis} final KPIs), {report.actions} actions,"
        f" {account['consumed']} events"
    )
    provisional = (
        f"; {report.provisional_count} records that may still change differ"
        if report.provisional_count
        else ""
    )
    if report.ok:
        return f"no difference in {compared}{provisional}"
    return f"{report.difference_count} differences in {compared}{provisional}"


def _accounts(report: Report) -> Table:
    table = Table(title="account of events", header_style="bold")
    table.add_column("partition")
    for name in ("consumed", "applied", "duplicates", "expired", "dead-lettered"):
        table.add_column(name, justify="right")
    for each in report.accounts:
        counts = (
            each.consumed,
            each.applied,
            each.duplicates,
            each.expired,
            each.dead_lettered,
        )
        table.add_row(f"{each.topic}-{each.partition}", *map(str, counts))
    return table


def _compared(report: Report) -> Table:
    table = Table(title="KPI records", header_style="bold")
    table.add_column("scope")
    table.add_column("window")
    for name in ("records", "final", "differ", "provisional differ"):
        table.add_column(name, justify="right")
    for each in report.compared:
        counts = (
            each.records,
            each.final_records,
            each.differing,
            each.provisional_differing,
        )
        table.add_row(each.scope, each.window, *map(str, counts))
    return table


def _differences(title: str, found: tuple[Difference, ...]) -> Table:
    table = Table(title=title, header_style="bold")
    for name in ("scope", "key", "window", "what", "found", "expected"):
        table.add_column(name, overflow="fold")
    for d in found:
        table.add_row(*map(escape, (d.scope, d.key, d.window, d.what, d.found, d.expected)))
    return table
