"""`andon topics`: make the broker agree with the catalogue, and say where it does not."""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Annotated

import typer
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from schemas.catalogue import (
    Catalogue,
    TopicReport,
    create_topics,
    describe_topics,
    load_catalogue,
)
from streams.cli import CommandError
from streams.cli.common import Format, FormatOption, print_json_lines, require_kafka, say
from streams.settings import load_settings

app = typer.Typer(no_args_is_help=True, help="Create the topics, and compare them.")

ReplicationOption = Annotated[
    int,
    typer.Option("--replication-factor", help="Copies of each partition; -1 is the broker's own."),
]


@app.command()
def create(format: FormatOption = Format.TABLE, replication_factor: ReplicationOption = -1) -> None:  # noqa: A002
    """Create the topics that are missing; change none that exists.

    Exit code 1 if a topic exists with other partitions or settings than the catalogue's.

    Example: andon topics create --replication-factor 3
    """

    def work(admin: AdminClient, catalogue: Catalogue) -> list[TopicReport]:
        return create_topics(admin, catalogue, replication_factor=replication_factor)

    _report(_ask(work), format)


@app.command()
def describe(format: FormatOption = Format.TABLE) -> None:  # noqa: A002
    """Compare the broker's topics with the catalogue; change nothing.

    Exit code 1 if a topic is missing, or has other partitions or settings.

    Example: andon topics describe --format json
    """
    _report(_ask(describe_topics), format)


def _ask(work: Callable[[AdminClient, Catalogue], list[TopicReport]]) -> list[TopicReport]:
    settings = load_settings()
    catalogue = load_catalogue(settings.topics_file)
    require_kafka(settings)
    try:
        return work(AdminClient(settings.kafka_client()), catalogue)
    except KafkaException as problem:
        raise CommandError(
            f"topics: {problem.args[0].str()}",
            "see that this user may create and describe topics, or create them yourself as"
            " `schemas/topics.yaml` has them",
        ) from problem


def _report(reports: Sequence[TopicReport], format: Format) -> None:  # noqa: A002
    rows = [{**asdict(report), "differences": list(report.differences)} for report in reports]
    if format is Format.JSON:
        print_json_lines(rows)
    else:
        _print_rows(reports, "," if format is Format.CSV else "  ")
    missing = [report.name for report in reports if report.state == "missing"]
    different = [report.name for report in reports if report.differences]
    if missing:
        say(f"missing: {', '.join(missing)}\nnext: create them with `andon topics create`")
    if different:
        say(
            f"other than in the catalogue, and left as they are: {', '.join(different)}\n"
            "next: alter or delete them with the broker's tools, or name a catalogue of your own"
            " in ANDON_TOPICS_FILE"
        )
    if missing or different:
        raise typer.Exit(1)


def _print_rows(reports: Sequence[TopicReport], between: str) -> None:
    header = ("topic", "state", "partitions", "replication", "differences")
    rows = [header] + [
        (r.name, r.state, str(r.partitions), str(r.replication_factor), "; ".join(r.differences))
        for r in reports
    ]
    pad = between != ","
    widths = [max(map(len, column)) if pad else 0 for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        typer.echo(between.join(cells).rstrip())
