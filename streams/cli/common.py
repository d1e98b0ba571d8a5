"""What the commands share: formats of output, lines for people, a first word with Kafka."""

import json
import sys
from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Annotated, Any, TextIO

import typer

from streams.cli import CommandError
from streams.settings import Settings


class Format(StrEnum):
    """How a command prints data: for people, one JSON object a line, or comma-separated."""

    TABLE = "table"
    JSON = "json"
    CSV = "csv"


FormatOption = Annotated[Format, typer.Option("--format", help="How to print.")]


def print_json_lines(records: Iterable[Mapping[str, Any]], out: TextIO | None = None) -> None:
    """Print one record a line, in the contract's field names and order."""
    out = out or sys.stdout
    for record in records:
        out.write(json.dumps(record, ensure_ascii=False, separators=(",", ":")) + "\n")
    out.flush()


def say(line: str) -> None:
    """Print a line about the work, to the error stream: the output stream belongs to data."""
    typer.echo(line, err=True)


def require_kafka(settings: Settings, timeout_s: float = 10.0) -> None:
    """Return when a broker answers; raise CommandError with the way out when none does.

    Clients of Kafka wait for ever by themselves: without this a mistyped address looks like work.
    """
    from confluent_kafka import KafkaException
    from confluent_kafka.admin import AdminClient

    client = AdminClient(settings.kafka_client(), logger=_silent())
    try:
        client.list_topics(timeout=timeout_s)
    except KafkaException as error:
        raise CommandError(
            f"kafka_bootstrap_servers: no answer from {settings.kafka_bootstrap_servers}"
            f" within {timeout_s:g} s ({error.args[0].str()})",
            "start a local one with `andon stack up`,"
            " or set ANDON_KAFKA_BOOTSTRAP_SERVERS (and its TLS and SASL settings)",
        ) from error


def _silent() -> Any:
    import logging

    logger = logging.getLogger("andon.kafka.probe")
    logger.setLevel(logging.CRITICAL)
    return logger
