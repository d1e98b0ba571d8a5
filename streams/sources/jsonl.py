"""Records as JSON lines, one object of an input contract a line, in the contract's field names."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from schemas.contract import load_contract
from schemas.errors import ContractViolation
from schemas.records import whole_record
from streams.sources.events import KEY_FIELDS, Read, Skipped, SourceEvent

SOURCE: Final = "/andon/sources/jsonl"


def read_jsonl(path: Path) -> Read:
    """Return the events of a file; raise ``OSError`` if it cannot be read."""
    with path.open(encoding="utf-8", errors="replace") as lines:
        return events_of_lines(lines)


def events_of_lines(lines: Iterable[str]) -> Read:
    """Return the events of the lines in their order; a line that is no record is skipped.

    An evaluation is told by its ``evaluation_id``, a survey by its ``survey_id``, all else is taken
    for an interaction. Empty lines are passed over.
    """
    read = Read([], [])
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        place = f"line {number}"
        try:
            value = json.loads(line)
            contract = _contract_of(value)
            record = whole_record(load_contract(contract), value)
        except json.JSONDecodeError as error:
            read.skipped.append(Skipped(place, f"not JSON ({error}), expected an object"))
        except ContractViolation as violation:
            read.skipped.append(Skipped(place, str(violation)))
        else:
            read.events.append(SourceEvent(contract, record, SOURCE, place))
    return read


def _contract_of(value: Any) -> str:
    if isinstance(value, Mapping):
        for contract in ("evaluation", "survey"):
            if KEY_FIELDS[contract] in value:
                return contract
    return "interaction"
