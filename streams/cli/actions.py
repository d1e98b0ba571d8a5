"""`andon actions`: what the rules have decided, the newest record of each action."""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable, Mapping
from typing import Annotated, Any

import polars as pl
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from schemas.catalogue import ACTIONS
from streams.cli.common import Format, FormatOption, print_json_lines, say
from streams.cli.kpis import instant, joined_key
from streams.cli.reading import OFFSET, Newest, plain
from streams.settings import load_settings

_CSV = (
    "event_time",
    "action_type",
    "severity",
    "status",
    "approval",
    "rule_id",
    "rule_version",
    "scope",
    "key",
    "recipient_role",
    "recipient_id",
    "title",
    "reason",
    "action_id",
)

_STYLES = {"CRITICAL": "bold red", "WARNING": "yellow"}


def actions(
    action_type: Annotated[
        str | None, typer.Option("--type", help="Only this type, as COACHING.")
    ] = None,
    rule: Annotated[str | None, typer.Option(help="Only of this rule.")] = None,
    key: Annotated[
        str | None, typer.Option(help="Only about this subject: key values joined with commas.")
    ] = None,
    format: FormatOption = Format.TABLE,  # noqa: A002
    follow: Annotated[bool, typer.Option(help="Go on with what comes, until Ctrl-C.")] = False,
) -> None:
    """Print the newest record of each action, oldest decision first.

    Example: andon actions --type COACHING --format json
    """
    chosen = _chosen(action_type, rule, key)
    newest = Newest(load_settings(), ACTIONS, identity="action_id", order=OFFSET, chosen=chosen)
    write = _writer(format)
    write(_sorted(newest.read()))
    if not follow:
        return
    try:
        for fresh in newest.follow():
            write(_sorted(fresh))
    except KeyboardInterrupt:
        say("stopped following")


def _chosen(action_type: str | None, rule: str | None, key: str | None) -> pl.Expr:
    conditions = [pl.lit(value=True)]
    if action_type is not None:
        conditions.append(pl.col("action_type") == action_type.upper())
    if rule is not None:
        conditions.append(pl.col("rule_id") == rule)
    if key is not None:
        parts = pl.col("subject").struct.field("key")
        conditions.append(parts.list.eval(pl.element().struct.field("value")).list.join(",") == key)
    return pl.all_horizontal(conditions)


def _sorted(frame: pl.DataFrame) -> pl.DataFrame:
    return frame.sort("event_time", "rule_id", "action_id")


def _writer(format: Format) -> Callable[[pl.DataFrame], None]:  # noqa: A002
    if format is Format.JSON:
        return lambda frame: print_json_lines(plain(frame))
    if format is Format.CSV:
        sheet = csv.DictWriter(sys.stdout, _CSV, lineterminator="\n")
        sheet.writeheader()
        return lambda frame: sheet.writerows(_flat(record) for record in plain(frame))
    return _write_table


def _flat(record: Mapping[str, Any]) -> dict[str, Any]:
    subject, recipient = record["subject"], record["recipient"]
    own = {name: record[name] for name in _CSV if name in record}
    return own | {
        "scope": subject["scope"],
        "key": joined_key(subject["key"]),
        "recipient_role": recipient["role"],
        "recipient_id": recipient["id"],
    }


def _write_table(frame: pl.DataFrame) -> None:
    table = Table(
        "at (UTC)", "type", "severity", "about", "for", "title", "reason", header_style="bold"
    )
    for record in plain(frame):
        flat = _flat(record)
        severity = record["severity"]
        style = _STYLES.get(severity)
        kind = record["action_type"].replace("_", " ").lower()
        table.add_row(
            instant(record["event_time"]),
            kind if record["status"] == "OPEN" else f"[strike]{kind}[/]",
            f"[{style}]{severity.lower()}[/]" if style else severity.lower(),
            escape(f"{flat['scope']} {flat['key']}"),
            " ".join(filter(None, (flat["recipient_role"], flat["recipient_id"]))).lower(),
            escape(record["title"]),
            escape(record["reason"]),
        )
    if len(frame):
        Console().print(table)
    else:
        say("no actions")
