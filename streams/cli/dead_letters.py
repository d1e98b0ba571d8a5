"""`andon dead-letters`: look at what was set aside, mend it, and put it back."""

import json
import time
from base64 import b64encode
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any

import typer

from schemas.catalogue import DEAD_LETTERS, LATE, Catalogue, load_catalogue
from schemas.client import read_all
from schemas.codec import Codec
from schemas.dead_letters import DeadLetter, dead_letter_of
from schemas.errors import ContractViolation, RecordError
from schemas.headers import VALUE_SCHEMA_ID, Header
from schemas.registry import SchemaRegistry, open_registry
from streams.cli import CommandError
from streams.cli.common import Format, FormatOption, print_json_lines, require_kafka, say
from streams.cli.outbox import Outbox
from streams.settings import Settings, load_settings

app = typer.Typer(no_args_is_help=True, help="List dead letters, and put mended ones back.")

Place = tuple[int, int]

ReasonOption = Annotated[
    list[str] | None, typer.Option("--reason", help="Only these reasons; may be repeated.")
]
AtOption = Annotated[
    list[str] | None,
    typer.Option("--at", help="Only the one at PARTITION:OFFSET of the topic; may be repeated."),
]
LateOption = Annotated[bool, typer.Option("--late", help="Of the late events instead.")]


@dataclass(frozen=True, slots=True)
class Selection:
    """Which dead letters are meant; None leaves out no reason, or no place."""

    reasons: frozenset[str] | None
    places: frozenset[Place] | None

    def holds(self, letter: DeadLetter) -> bool:
        """Whether the dead letter is meant."""
        return (self.reasons is None or letter.reason in self.reasons) and (
            self.places is None or (letter.partition, letter.offset) in self.places
        )


class _Codecs:
    """Codecs of the input topics, the only ones whose records are anyone's to mend."""

    def __init__(self, catalogue: Catalogue, registry: SchemaRegistry) -> None:
        self._catalogue = catalogue
        self._registry = registry
        self.of = cache(self._open)

    def _open(self, topic: str) -> Codec | None:
        contracts = {known.name: known.contract for known in self._catalogue.inputs}
        contract = contracts.get(topic)
        return Codec(contract, self._registry, topic) if contract else None


@app.command(name="list")
def list_(
    format: FormatOption = Format.TABLE,  # noqa: A002
    reason: ReasonOption = None,
    at: AtOption = None,
    late: LateOption = False,
) -> None:
    """List dead letters: reason, where they lay, what was wrong.

    With --format json each line also holds the record, as far as it can be read: mend `record`
    and hand the lines to `andon dead-letters replay --mended`.

    Example: andon dead-letters list --reason CONTRACT --format json > broken.jsonl
    """
    settings = load_settings()
    selection = _selection(reason, at)
    require_kafka(settings)
    codecs = _codecs(settings)
    rows = (_row(letter, codecs) for letter in _letters(settings, late, selection))
    if format is Format.JSON:
        print_json_lines(rows)
        return
    counts: Counter[str] = Counter()
    for row in rows:
        counts[row["reason"]] += 1
        _print_row(row, "," if format is Format.CSV else "  ")
    say(", ".join(f"{n} {name}" for name, n in sorted(counts.items())) or "no dead letters")


@app.command()
def replay(
    reason: ReasonOption = None,
    at: AtOption = None,
    mended: Annotated[
        Path | None,
        typer.Option(help="JSON lines of `list --format json` with a mended `record`."),
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="All that can be read now.")] = False,
    late: LateOption = False,
) -> None:
    """Put dead letters back on their topic, with their key, partition and headers.

    Without --mended they go back as they were, which helps once the schema, the clock or the
    contract has been put right. What would be set aside again is named and not sent: exit code 1.
    An event that goes back twice is counted once.

    Example: andon dead-letters replay --mended broken.jsonl
    """
    settings = load_settings()
    records = _read_mended(mended) if mended else None
    selection = _selection(reason, at, records)
    if not everything and selection == Selection(None, None):
        raise CommandError(
            "replay: no dead letters chosen",
            "choose with --reason, --at, --mended, or take --all",
            exit_code=2,
        )
    require_kafka(settings)
    codecs = _codecs(settings)
    faults: list[str] = []
    seen: set[Place] = set()
    with Outbox(settings.kafka_client()) as outbox:
        for letter in _letters(settings, late, selection):
            place = (letter.partition, letter.offset)
            seen.add(place)
            _put_back(letter, (records or {}).get(place), codecs, outbox, faults)
    faults += [
        f"{p}:{o}: no such dead letter" for p, o in sorted((selection.places or seen) - seen)
    ]
    _tell(outbox, faults)


def _put_back(
    letter: DeadLetter,
    record: Any,
    codecs: "_Codecs",
    outbox: Outbox,
    faults: list[str],
) -> None:
    name = f"{letter.partition}:{letter.offset}"
    try:
        value, headers = _sound(letter, record, codecs.of(letter.source_topic))
    except ContractViolation as problem:
        faults.append(f"{name}: {problem}")
        return
    outbox.put(letter.source_topic, letter.key, value, headers, letter.source_partition, name)


def _sound(
    letter: DeadLetter, record: Any, codec: Codec | None
) -> tuple[bytes | None, tuple[Header, ...]]:
    """Return value and headers to send; raise ContractViolation where they would come back."""
    value, headers = letter.value, letter.headers
    if codec is None:
        raise ContractViolation(letter.source_topic, "record", "of no input topic's contract")
    if record is not None:
        value = codec.encode(codec.record(record))
        headers = tuple(header for header in headers if header[0] != VALUE_SCHEMA_ID)
    now_ms = time.time_ns() // 1_000_000
    for rejected in codec.columns([value], [now_ms], [headers]).rejected:
        raise ContractViolation(letter.source_topic, "record", f"still {rejected.message}")
    return value, headers


def _tell(outbox: Outbox, faults: list[str]) -> None:
    for fault in faults:
        say(f"skipped {fault}")
    for failure in outbox.failures:
        say(f"not delivered: {failure}")
    say(f"put back {outbox.sent}, skipped {len(faults)}")
    if faults or outbox.failures:
        raise typer.Exit(1)


def _codecs(settings: Settings) -> _Codecs:
    catalogue = load_catalogue(settings.topics_file)
    return _Codecs(catalogue, open_registry(settings.schema_registry_url))


def _letters(settings: Settings, late: bool, selection: Selection) -> Iterator[DeadLetter]:
    """Yield the chosen dead letters, oldest first in each partition."""
    for batch in read_all(settings.kafka_client(), LATE if late else DEAD_LETTERS):
        letters = (dead_letter_of(message) for message in batch)
        yield from (letter for letter in letters if letter and selection.holds(letter))


def _selection(
    reasons: list[str] | None, at: list[str] | None, records: Mapping[Place, Any] | None = None
) -> Selection:
    places = {_place(text) for text in at} if at else None
    if records is not None:
        places = set(records) if places is None else places & set(records)
    return Selection(
        frozenset(name.upper() for name in reasons) if reasons else None,
        None if places is None else frozenset(places),
    )


def _place(text: str) -> Place:
    partition, _, offset = text.partition(":")
    if not (partition.isdecimal() and offset.isdecimal()):
        raise typer.BadParameter(f"{text!r}, expected PARTITION:OFFSET as `list` prints them")
    return int(partition), int(offset)


def _read_mended(path: Path) -> dict[Place, Any]:
    """Return mended records by the place of their dead letter; all faults are raised."""
    records: dict[Place, Any] = {}
    faults = []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as problem:
        raise CommandError(f"{path}: {problem.strerror}", "name a file", 2) from problem
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
            records[int(entry["partition"]), int(entry["offset"])] = entry["record"]
        except (ValueError, KeyError, TypeError) as problem:
            faults.append(f"{path}:{number}: {type(problem).__name__} {problem}")
    if faults:
        expected = 'lines of `list --format json`: {"partition": 0, "offset": 0, "record": {...}}'
        raise CommandError("\n".join(faults), f"give {expected}", exit_code=2)
    return records


def _row(letter: DeadLetter, codecs: _Codecs) -> dict[str, Any]:
    record = _record(letter, codecs.of(letter.source_topic))
    return {
        "partition": letter.partition,
        "offset": letter.offset,
        "reason": letter.reason,
        "source_topic": letter.source_topic,
        "source_partition": letter.source_partition,
        "source_offset": letter.source_offset,
        "exception": letter.exception,
        "message": letter.message,
        "key": None if letter.key is None else letter.key.decode(errors="replace"),
        "record": record,
        "value_base64": b64encode(letter.value or b"").decode() if record is None else None,
    }


def _record(letter: DeadLetter, codec: Codec | None) -> dict[str, Any] | None:
    try:
        return codec.read(letter.value, letter.headers) if codec else None
    except RecordError:
        return None


def _print_row(row: Mapping[str, Any], between: str) -> None:
    source = f"{row['source_topic']}:{row['source_partition']}:{row['source_offset']}"
    place = f"{row['partition']}:{row['offset']}"
    if between == ",":
        message = '"' + str(row["message"]).replace('"', '""') + '"'
        typer.echo(between.join((place, row["reason"], source, message)))
    else:
        typer.echo(f"{place:>8}  {row['reason']:<14}  {source}  {row['message']}")
