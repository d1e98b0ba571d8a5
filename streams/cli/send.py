"""`andon send`: JSON lines of one contract into its input topic, each line checked first."""

import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, TextIO

import typer

from schemas.catalogue import Catalogue, Topic, load_catalogue
from schemas.codec import Codec
from schemas.errors import ContractViolation
from schemas.headers import cloud_event_headers
from schemas.registry import open_registry
from streams.cli import CommandError
from streams.cli.common import require_kafka, say
from streams.cli.outbox import Outbox
from streams.settings import load_settings


def send(
    topic: Annotated[str, typer.Argument(help="An input topic, or the name of its contract.")],
    file: Annotated[str, typer.Argument(help="JSON lines; - is the standard input.")] = "-",
    source: Annotated[
        str, typer.Option(help="Where the events come from (CloudEvents `source`).")
    ] = "/andon/send",
) -> None:
    """Send JSON lines of one contract, keyed as the catalogue says.

    A line that breaks the contract is named and skipped; exit code 1 if there was any.
    Field names are the contract's, instants are milliseconds or RFC 3339, absent fields take
    their defaults.

    Example: andon send survey answers.jsonl
    """
    settings = load_settings()
    target = _input_topic(load_catalogue(settings.topics_file), topic)
    require_kafka(settings)
    codec = Codec(target.contract or "", open_registry(settings.schema_registry_url), target.name)
    faults: list[str] = []
    with _open(file) as lines, Outbox(settings.kafka_client()) as outbox:
        for line, record in _records(codec, lines, faults):
            headers = cloud_event_headers(
                codec.contract.name, source, record["event_id"], record["event_time"]
            )
            key = str(record[target.key]).encode()
            outbox.put(target.name, key, codec.encode(record), headers, name=f"line {line}")
    say(f"sent {outbox.sent} to {target.name}, skipped {len(faults)}")
    for failure in outbox.failures:
        say(f"not delivered: {failure}")
    if faults or outbox.failures:
        raise typer.Exit(1)


def _input_topic(catalogue: Catalogue, name: str) -> Topic:
    for topic in catalogue.inputs:
        if name in (topic.name, topic.contract):
            return topic
    known = ", ".join(f"{topic.name} ({topic.contract})" for topic in catalogue.inputs)
    raise CommandError(f"topic {name}: no input topic", f"name one of {known}", exit_code=2)


def _records(
    codec: Codec, lines: Iterable[str], faults: list[str]
) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Yield line numbers and whole records; tell of faulty lines at once, and collect them."""
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            yield number, codec.record(json.loads(line))
        except ContractViolation as problem:
            faults.append(f"line {number}: {problem}")
        except ValueError as problem:
            faults.append(f"line {number}: no JSON ({problem})")
        else:
            continue
        say(f"skipped {faults[-1]}")


@contextmanager
def _open(file: str) -> Iterator[TextIO]:
    if file == "-":
        yield sys.stdin
        return
    try:
        lines = Path(file).open(encoding="utf-8")  # noqa: SIM115 - closed below
    except OSError as problem:
        raise CommandError(
            f"{file}: {problem.strerror}", "name a file of JSON lines, or - ", exit_code=2
        ) from problem
    with lines:
        yield lines
