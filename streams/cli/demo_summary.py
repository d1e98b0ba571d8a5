"""What a demo has led to: KPIs per queue, actions, planted problems, the account, the verdict."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import polars as pl
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from processors.kpis import Registry, load_registry
from schemas.catalogue import ACTIONS, KPIS
from schemas.contract import contract_schemas
from streams.cli.common import say
from streams.cli.kpis import instant, joined_key
from streams.cli.reading import OFFSET, Newest, plain
from streams.cli.verify import judge, verdict
from streams.settings import Settings
from streams.sources.centre import Planted
from streams.sources.replay import Replayed
from streams.verify.report import Report

SHOWN: Final[Mapping[str, str]] = {
    "offered": "offered",
    "answered": "answered",
    "abandonment_rate": "abandoned",
    "service_level": "service level",
    "average_speed_of_answer": "ASA",
    "average_handle_time": "AHT",
    "transfer_rate": "transfers",
    "csat": "CSAT",
    "first_contact_resolution": "FCR",
    "qa_score": "QA",
}
"""KPIs of the table per queue, as far as the registry has them, and their short titles."""

_SUFFIXES: Final[Mapping[str, str]] = {"percent": " %", "seconds": " s"}


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was planted and not found, and what fired without having been planted."""

    missed: tuple[Planted, ...]
    surplus: tuple[Mapping[str, Any], ...]

    @property
    def is_right(self) -> bool:
        """Whether each planted problem has led to its action, and nothing else to any."""
        return not self.missed and not self.surplus


@dataclass(frozen=True, slots=True)
class Summary:
    """Everything the topics say at the end of a demo."""

    queues: Sequence[tuple[str, Mapping[str, float | None]]]
    units: Mapping[str, str]
    days: int
    actions: Sequence[Mapping[str, Any]]
    verdict: Verdict | None
    report: Report


def summarise(settings: Settings, planted: Sequence[Planted] | None) -> Summary:
    """Read the output topics and judge them; nothing is compared with plants where it is None."""
    registry = load_registry(settings.kpis_dir, contract_schemas())
    days = list(plain(Newest(settings, KPIS, identity=None, order="version", chosen=_DAYS).read()))
    found = Newest(
        settings, ACTIONS, identity="action_id", order=OFFSET, chosen=pl.lit(value=True)
    ).read()
    actions = list(plain(found.sort("event_time", "rule_id", "action_id")))
    return Summary(
        queues=rolled_up(registry, days),
        units={kpi.id: kpi.unit for kpi in registry.scope("queue").kpis},
        days=len({record["window"]["start_time"] for record in days}),
        actions=actions,
        verdict=None if planted is None else compare(planted, actions),
        report=judge(settings),
    )


_DAYS: Final = (pl.col("scope") == "queue") & (pl.col("window").struct.field("kind") == "DAY")


def rolled_up(
    registry: Registry, records: Sequence[Mapping[str, Any]]
) -> list[tuple[str, Mapping[str, float | None]]]:
    """Return the KPIs of each queue over all its records, from their measures, summed.

    Ratios are computed from the sums; ratios of ratios would weigh a quiet day like a busy one.
    """
    scope = registry.scope("queue")
    queues = sorted({joined_key(record["key"]) for record in records})
    sums = np.zeros((len(queues), len(scope.sums)), np.int64)
    for record in records:
        measures = {each["name"]: each["value"] for each in record["measures"]}
        sums[queues.index(joined_key(record["key"]))] += [
            round(measures.get(name, 0) * registry.measures[name].units_per_one)
            for name in scope.sums
        ]
    values = registry.evaluate(scope, sums, {}).values
    ids = [kpi.id for kpi in scope.kpis]
    return [
        (queue, {name: _none_if_nan(value) for name, value in zip(ids, row, strict=True)})
        for queue, row in zip(queues, values.tolist(), strict=True)
    ]


def _none_if_nan(value: float) -> float | None:
    return None if np.isnan(value) else value


def compare(planted: Sequence[Planted], actions: Sequence[Mapping[str, Any]]) -> Verdict:
    """Pair each planted problem with one action; what is left on either side is wrong."""
    left = list(actions)
    missed = []
    for problem in planted:
        found = next((action for action in left if _answers(action, problem)), None)
        if found is None:
            missed.append(problem)
        else:
            left.remove(found)
    return Verdict(tuple(missed), tuple(left))


def _answers(action: Mapping[str, Any], problem: Planted) -> bool:
    subject = {part["name"]: part["value"] for part in action["subject"]["key"]}
    found = (action["action_type"], action["rule_id"], action["status"])
    status = "WITHDRAWN" if problem.withdrawn else "OPEN"
    expected = (problem.action_type, problem.rule_id, status)
    return found == expected and problem.subject.items() <= subject.items()


def show(summary: Summary, replayed: Replayed, speed: str, console: Console) -> None:
    """Print the summary for people."""
    console.print(_queues(summary))
    console.print(_actions(summary.actions) if summary.actions else "actions: none")
    if summary.verdict is not None:
        _show_verdict(summary.verdict, len(summary.actions))
    account = summary.report.account()
    parts = " + ".join(
        f"{account[name]:,} {name.replace('_', '-')}"
        for name in ("applied", "duplicates", "expired", "dead_lettered")
    )
    say(f"account of events: {account['consumed']:,} consumed = {parts}")
    say(f"verify: {verdict(summary.report)}")
    for each in summary.report.differences[:3]:
        where = " ".join(filter(None, (each.scope, each.key, each.window)))
        say(f"  {where}: {each.what} is {each.found}, expected {each.expected}")
    say(f"speed: {replayed.events_per_second:,.0f} events/s, {speed}")


def _show_verdict(found: Verdict, actions: int) -> None:
    for problem in found.missed:
        say(f"missed: {problem.rule_id} for {_words(problem.subject)}")
    for action in found.surplus:
        key = {part["name"]: part["value"] for part in action["subject"]["key"]}
        say(f"not planted: {action['rule_id']} for {_words(key)}")
    if found.is_right:
        say(f"planted problems: all {actions} have led to their actions, nothing else has fired")


def _words(subject: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {value}" for name, value in subject.items())


def _queues(summary: Summary) -> Table:
    days = "the day" if summary.days == 1 else f"{summary.days} days"
    table = Table(title=f"KPIs per queue over {days}", header_style="bold")
    table.add_column("queue")
    names = [name for name in SHOWN if name in summary.units]
    for name in names:
        table.add_column(SHOWN[name], justify="right")
    for queue, values in summary.queues:
        table.add_row(queue, *(_figure(values.get(name), summary.units[name]) for name in names))
    return table


def _figure(value: float | None, unit: str) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if unit == "count" else f"{value:,.1f}{_SUFFIXES.get(unit, '')}"


def _actions(actions: Sequence[Mapping[str, Any]]) -> Table:
    table = Table(title="actions", header_style="bold")
    for name in ("type", "at (UTC)", "about", "reason"):
        table.add_column(name, overflow="fold")
    for action in sorted(actions, key=lambda action: str(action["action_type"])):
        kind = action["action_type"].replace("_", " ").lower()
        table.add_row(
            kind if action["status"] == "OPEN" else f"[strike]{kind}[/] withdrawn",
            instant(action["event_time"]),
            escape(joined_key(action["subject"]["key"])),
            escape(" ".join(action["reason"].split())),
        )
    return table
