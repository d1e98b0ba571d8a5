"""`andon explain`: why an action was proposed, recomputed from the input topics."""

from __future__ import annotations

import json
from collections.abc import Iterator
from enum import StrEnum
from typing import Annotated
from uuid import UUID

import typer

from schemas.errors import TopicMissing
from streams.cli import CommandError
from streams.cli.common import require_kafka, say
from streams.cli.kpis import instant
from streams.settings import Settings, load_settings
from streams.verify.definitions import DefinitionError
from streams.verify.explain import EvidenceEntry, Explained, Explanation, Figures
from streams.verify.explain import explain as recompute
from streams.verify.figures import Event


class ExplainFormat(StrEnum):
    """How an explanation is printed."""

    TEXT = "text"
    JSON = "json"


def explain(
    action_ids: Annotated[list[str], typer.Argument(metavar="ACTION_ID...")],
    format: Annotated[ExplainFormat, typer.Option(help="How to print.")] = ExplainFormat.TEXT,  # noqa: A002
) -> None:
    """Say why actions were proposed, and recompute each figure they quote from the input topics.

    The input is read up to the positions that the actions name, by SQL that has nothing of the
    workers' code. Exit code 1 if anything differs or an id is unknown.

    Example: andon explain 7d0c3b1e-5a0f-5c57-9a57-0c1b7c7c8b1d
    """
    for each in action_ids:
        _require_id(each)
    settings = load_settings()
    require_kafka(settings)
    explained = _explain(settings, action_ids)
    for explanation in explained.explanations:
        if format is ExplainFormat.JSON:
            typer.echo(json.dumps(explanation.plain(), ensure_ascii=False))
        else:
            typer.echo("\n".join(_text(explanation)))
    for each in explained.unknown:
        say(f"no action has the id {each}: `andon actions --format json` prints them all")
    if not explained.agrees:
        raise typer.Exit(1)


def _require_id(text: str) -> None:
    try:
        UUID(text)
    except ValueError as problem:
        raise CommandError(
            f"action id: found {text!r}, expected one such as those of `andon actions"
            " --format json`",
            "give the whole id, 36 characters",
            exit_code=2,
        ) from problem


def _explain(settings: Settings, action_ids: list[str]) -> Explained:
    from confluent_kafka import KafkaException

    try:
        return recompute(settings, action_ids)
    except TopicMissing as problem:
        raise CommandError(str(problem), "make the topics with `andon topics create`") from problem
    except KafkaException as problem:
        raise CommandError(
            f"explain: {problem.args[0].str()}", "see that the brokers are well, and run it again"
        ) from problem
    except DefinitionError as problem:
        raise CommandError(
            str(problem),
            "set ANDON_KPIS_DIR and ANDON_RULES_DIR to the directories that the workers use",
            exit_code=2,
        ) from problem


def _text(explanation: Explanation) -> Iterator[str]:
    action = explanation.action
    subject = ", ".join(f"{part['name']} {part['value']}" for part in action["subject"]["key"])
    yield f"{action['title']}"
    yield f"  action    {explanation.action_id}, {action['action_type']}, {action['severity']}"
    yield f"  rule      {action['rule_id']}, version {action['rule_version']}"
    yield f"  about     {subject or 'the whole contact centre'}"
    yield f"  episode   since {_at(action['episode_start'])}"
    yield f"  decided   {_at(action['event_time'])}"
    yield f"  reason    {action['reason']}"
    for guard in action["guards"]:
        held = "held" if guard["held"] else "did not hold"
        yield f"  guard     {guard['expression']}: {held} ({guard['value']})"
    for entry in explanation.entries:
        yield ""
        yield from _entry(entry)
    yield ""
    yield f"  includes  {', '.join(_positions(explanation))}"
    for note in explanation.notes:
        yield f"  note      {note}"
    for problem in explanation.problems:
        yield f"  differs   {problem}"
    yield f"  {_verdict(explanation)}"


def _entry(entry: EvidenceEntry) -> Iterator[str]:
    key = ", ".join(f"{name} {value}" for name, value in entry.key.items())
    span = f"{_at(entry.start_time)} to {_at(entry.end_time)}"
    if entry.start_time == entry.end_time:
        span = f"the event of {_at(entry.end_time)}"
    yield f"  {entry.kpi_id}{' of ' if key else ''}{key}, {span}"
    yield f"    quoted      {_figures(entry.quoted)}"
    if entry.recomputed is not None:
        yield f"    recomputed  {_figures(entry.recomputed)}"
    if entry.comparator is not None:
        yield f"    condition   {entry.comparator} {entry.threshold:g}"
    for problem in entry.problems:
        yield f"    differs     {problem}"
    for event in entry.events:
        yield f"    event       {_event(event)}"


def _figures(figures: Figures) -> str:
    value = "no value" if figures.value is None else f"{figures.value:.10g}"
    bounds = ""
    if figures.lower_bound is not None and figures.upper_bound is not None:
        bounds = f", 95 % interval {figures.lower_bound:.4g} to {figures.upper_bound:.4g}"
    return f"{value}, n {figures.n}{bounds}"


def _event(event: Event) -> str:
    ids = f"interaction {event.interaction_id}"
    if event.evaluation_id is not None:
        ids = f"evaluation {event.evaluation_id} of {ids}"
    told = [f"{name} {value}" for name, value in event.fields.items() if value is not None]
    place = f"{event.topic}-{event.partition}@{event.position}"
    return ", ".join([_at(event.event_time), ids, *told, place])


def _positions(explanation: Explanation) -> Iterator[str]:
    for each in explanation.action["as_of"]:
        since = "" if each["from_time"] is None else f" (from {_at(each['from_time'])} on)"
        yield f"{each['topic']}-{each['partition']} before {each['position']}{since}"


def _verdict(explanation: Explanation) -> str:
    count = len(explanation.entries)
    if explanation.agrees:
        return f"agrees: all {count} quoted figures follow from the input"
    wrong = sum(not entry.agrees for entry in explanation.entries)
    return f"differs: {wrong} of {count} quoted figures do not follow from the input"


def _at(instant_ms: int) -> str:
    return f"{instant(instant_ms)} UTC"
