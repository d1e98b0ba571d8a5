"""`andon kpis`: the newest KPI record of each key, read from the topic itself."""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any
from zoneinfo import ZoneInfo

import polars as pl
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from schemas.catalogue import KPIS
from streams.cli import CommandError
from streams.cli.common import Format, FormatOption, print_json_lines, say
from streams.cli.reading import Newest, plain
from streams.settings import load_settings
from streams.verify.definitions import DefinitionError, window

SHOWN_KPIS = (
    "offered",
    "answered",
    "service_level",
    "abandonment_rate",
    "average_speed_of_answer",
    "average_handle_time",
    "csat",
    "first_contact_resolution",
    "qa_score",
    "qa_item_score",
)
"""KPIs that the table shows where none are asked for, as far as the records have them."""

_CSV = (
    "scope",
    "key",
    "window_kind",
    "size_ms",
    "start_time",
    "end_time",
    "status",
    "version",
    "kpi_id",
    "definition_version",
    "value",
    "n",
    "unit",
    "target",
    "state",
    "kpi_status",
)

_STYLES = {"WARNING": "yellow", "CRITICAL": "bold red", "TOO_FEW": "dim", "NO_DATA": "dim"}
_UNITS = {"percent": " %", "seconds": " s"}


def kpis(
    scope: Annotated[str | None, typer.Option(help="Only this scope, as queue.")] = None,
    key: Annotated[
        str | None, typer.Option(help="Only this key: its values, joined with commas.")
    ] = None,
    window_: Annotated[
        str | None, typer.Option("--window", help="Only this window: 15m, 5m/1m or day.")
    ] = None,
    kpi: Annotated[
        list[str] | None, typer.Option(help="KPIs that the table shows; may be repeated.")
    ] = None,
    limit: Annotated[int, typer.Option(help="Rows of the table, the newest; 0 is all.")] = 50,
    format: FormatOption = Format.TABLE,  # noqa: A002
    follow: Annotated[bool, typer.Option(help="Go on with what changes, until Ctrl-C.")] = False,
) -> None:
    """Print the newest KPI record of each key.

    With --format json one record a line as the topic has it, with csv one line a KPI.

    Example: andon kpis --scope queue --key sales --window 15m
    """
    chosen = _chosen(scope, key, window_)
    newest = Newest(load_settings(), KPIS, identity=None, order="version", chosen=chosen)
    write = _writer(format, kpi or SHOWN_KPIS, limit)
    write(_sorted(newest.read()))
    if not follow:
        return
    try:
        for fresh in newest.follow():
            write(_sorted(fresh))
    except KeyboardInterrupt:
        say("stopped following")


def _chosen(scope: str | None, key: str | None, window_text: str | None) -> pl.Expr:
    conditions = [pl.lit(value=True)]
    if scope is not None:
        conditions.append(pl.col("scope") == scope)
    if key is not None:
        values = pl.col("key").list.eval(pl.element().struct.field("value")).list.join(",")
        conditions.append(values == key)
    if window_text is not None:
        try:
            wanted = window(window_text)
        except DefinitionError as problem:
            expected = "name one as the registry does: 15m, 5m/1m or day"
            raise CommandError(f"--window {problem}", expected, exit_code=2) from problem
        field = pl.col("window").struct.field
        conditions += [field("kind") == wanted.kind, field("size_ms") == wanted.size_ms]
    return pl.all_horizontal(conditions)


def _sorted(frame: pl.DataFrame) -> pl.DataFrame:
    field = pl.col("window").struct.field
    return frame.sort(
        pl.col("scope"),
        pl.col("key").list.eval(pl.element().struct.field("value")).list.join(","),
        field("kind"),
        field("size_ms"),
        field("start_time"),
    )


def _writer(
    format: Format,  # noqa: A002
    shown: Sequence[str],
    limit: int,
) -> Callable[[pl.DataFrame], None]:
    if format is Format.JSON:
        return lambda frame: print_json_lines(plain(frame))
    if format is Format.CSV:
        sheet = csv.writer(sys.stdout, lineterminator="\n")
        sheet.writerow(_CSV)
        return lambda frame: _write_csv(sheet, plain(frame))
    return lambda frame: _write_table(frame, shown, limit)


def _write_csv(sheet: Any, records: Iterable[Mapping[str, Any]]) -> None:
    for record in records:
        span = record["window"]
        head = (
            record["scope"],
            joined_key(record["key"]),
            span["kind"],
            span["size_ms"],
            span["start_time"],
            span["end_time"],
            record["status"],
            record["version"],
        )
        for each in record["kpis"]:
            status = each["status"] or record["status"]
            fields = (each[name] for name in _CSV[len(head) : -1])
            sheet.writerow((*head, *fields, status))
    sys.stdout.flush()


def _write_table(frame: pl.DataFrame, shown: Sequence[str], limit: int) -> None:
    newest = frame.sort(pl.col("window").struct.field("start_time"), maintain_order=True)
    records = list(plain(newest.tail(limit) if limit else newest))
    present = {each["kpi_id"] for record in records for each in record["kpis"]}
    columns = [name for name in shown if name in present]
    table = _table(records, columns)
    for record in records:
        span = record["window"]
        found = {each["kpi_id"]: each for each in record["kpis"]}
        table.add_row(
            record["scope"],
            escape(joined_key(record["key"])),
            window_text(span),
            instant(span["start_time"], span["zone"]),
            record["status"].lower(),
            *(_cell(found.get(name)) for name in columns),
        )
    if records:
        Console().print(table)
    if len(frame) > len(records):
        say(
            f"{len(frame) - len(records)} older records not shown: choose by --scope, --key,"
            " --window, or take --limit 0"
        )
    if not len(frame):
        say("no KPI records")


def _table(records: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> Table:
    zones = sorted({record["window"]["zone"] for record in records})
    table = Table(header_style="bold")
    for name in ("scope", "key", "window", f"from ({', '.join(zones)})", "status"):
        table.add_column(name, no_wrap=name != "key", overflow="fold")
    for name in columns:
        table.add_column(name.replace("_", " "), justify="right")
    return table


def joined_key(parts: Iterable[Mapping[str, str]]) -> str:
    """Return the values of a key, joined with commas; a dash for an empty one."""
    return ",".join(part["value"] or "-" for part in parts)


def instant(time_ms: int, zone: str = "UTC") -> str:
    """Return an instant for people, by the clock of a zone.

    >>> instant(0, "Europe/Berlin")
    '1970-01-01 01:00'
    """
    return datetime.fromtimestamp(time_ms / 1000, ZoneInfo(zone)).strftime("%Y-%m-%d %H:%M")


def window_text(span: Mapping[str, Any]) -> str:
    """Return a window's size for people.

    >>> window_text({"kind": "HOPPING", "size_ms": 300_000})
    '5m hopping'
    """
    if span["kind"] == "DAY":
        return "day"
    minutes = f"{span['size_ms'] / 60_000:g}m"
    return minutes if span["kind"] == "TUMBLING" else f"{minutes} hopping"


def _cell(kpi: Mapping[str, Any] | None) -> str:
    if kpi is None:
        return ""
    if kpi["value"] is None:
        return "[dim]-[/]"
    unit = _UNITS.get(kpi["unit"], "")
    number = f"{kpi['value']:.1f}" if unit or kpi["unit"] == "score" else f"{kpi['value']:g}"
    style = _STYLES.get(kpi["state"])
    return f"[{style}]{number}{unit}[/]" if style else f"{number}{unit}"
