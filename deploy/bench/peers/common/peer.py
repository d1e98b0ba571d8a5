"""What the peers in Python share: their task, its events, and the marks they leave.

It knows none of their frameworks, and of the product nothing at all: it is imported from
environments that do not have it.
"""

import io
import json
import os
import sys
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import fastavro

WINDOW_MS: Final = 60_000
GRACE_MS: Final = 3_600_000
THRESHOLD_MS: Final = 20_000

BROKERS: Final = os.environ.get("PEER_BROKERS", "")
TOPIC: Final = os.environ.get("PEER_TOPIC", "")
OUTPUT: Final = os.environ.get("PEER_OUTPUT", "")
#: Names what the peer makes on the broker: groups, changelogs.
ID: Final = os.environ.get("PEER_ID", "")
#: How many sums the events of the topic change: an event counts in several.
UPDATES: Final = int(os.environ.get("PEER_UPDATES", "0"))
STATE_DIR: Final = Path(os.environ.get("PEER_STATE_DIR", "."))

_FRAMING_BYTES: Final = 5
_SCOPES: Final = ("queue", "team", "issue", "agent")

Sums = tuple[int, int, int, int, int, int, int, int]


class Events:
    """Decodes events of the contract that `PEER_SCHEMA` names."""

    def __init__(self) -> None:
        schema = json.loads(Path(os.environ["PEER_SCHEMA"]).read_text())
        for field in schema["fields"]:
            # An instant stays the number that it is on the wire: nobody asks for a datetime.
            if isinstance(field["type"], dict):
                field["type"].pop("logicalType", None)
        self._schema = fastavro.parse_schema(schema)

    def decode(self, value: bytes) -> dict[str, Any]:
        """Return the event that a framed value holds."""
        read: Any = fastavro.schemaless_reader(
            io.BytesIO(value[_FRAMING_BYTES:]), self._schema, None
        )
        return dict(read)


def sums_of(event: dict[str, Any]) -> Sums:
    """Return what one event adds: events, offered, answered, in time, wait, talk, hold, after."""
    kind = event["event_type"]
    wait_ms = event["queue_wait_ms"]
    answered, completed = kind == "ANSWERED", kind == "COMPLETED"
    return (
        1,
        int(kind == "OFFERED"),
        int(answered),
        int(answered and wait_ms is not None and wait_ms <= THRESHOLD_MS),
        (wait_ms or 0) if answered else 0,
        (event["talk_ms"] or 0) if completed else 0,
        (event["hold_ms"] or 0) if completed else 0,
        (event["after_contact_work_ms"] or 0) if completed else 0,
    )


def keys_of(event: dict[str, Any]) -> Iterator[str]:
    """Yield `scope|key` of all that an event counts in."""
    yield "overall|all"
    for scope in _SCOPES:
        name = event[f"{scope}_id"]
        if name is not None:
            yield f"{scope}|{name}"


def window_ms(event: dict[str, Any]) -> int:
    """Return when the window of an event begins."""
    at_ms: int = event["event_time"]
    return at_ms - at_ms % WINDOW_MS


class Marks:
    """The first event that was read and the last sum that was changed, told on standard output."""

    def __init__(self, *libraries: str) -> None:
        self._versions = ", ".join(f"{name} {version(name)}" for name in libraries)
        self._updates = 0
        self._begun = False

    def read(self) -> None:
        """Say that an event is there; only the first is told."""
        if not self._begun:
            self._begun = True
            tell("first", versions=self._versions)

    def folded(self, updates: int) -> bool:
        """Count changed sums; return whether these were the last, which is told."""
        self._updates += updates
        if self._updates < UPDATES:
            return False
        tell("last", updates=self._updates)
        return True


def tell(mark: str, **more: object) -> None:
    """Write a mark with the time: one line of JSON."""
    line = json.dumps({"mark": mark, "at_s": time.time(), **more})
    # Past whatever a framework has put in the place of standard output.
    os.write(sys.__stdout__.fileno() if sys.__stdout__ else 1, f"{line}\n".encode())
