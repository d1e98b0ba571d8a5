"""Importer of the recorded calls of "Anonymous Bank" (Technion, 1999): rows in, events out.

The file is a table of one row per call, tab-separated, with local wall clock times that carry no
zone; they are taken as UTC. It has neither surveys nor quality scores.
"""

import csv
import gzip
import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, Final

from streams.sources.events import Read, Skipped, SourceEvent, seeded
from streams.sources.feedback import Handled, feedback_on

SOURCE: Final = "/andon/sources/anonymous-bank"
COLUMNS: Final = (
    "vru+line", "call_id", "customer_id", "priority", "type", "date", "vru_entry", "vru_exit",
    "vru_time", "q_start", "q_exit", "q_time", "outcome", "ser_start", "ser_exit", "ser_time",
    "server",
)  # fmt: skip

# The recording does not say whether an issue was resolved; the generated surveys do.
_RESOLVED_SHARE: Final = 0.8
_DAY_MS: Final = 86_400_000
_NO_TIME: Final = "0:00:00"


@dataclass(frozen=True, slots=True)
class Call:
    """One row with its clock times as epoch milliseconds and ``None`` where the row has none."""

    interaction_id: str
    queue_id: str
    outcome: str
    customer_id: str | None
    agent_id: str | None
    priority: int
    left_ivr_ms: int
    queued_ms: int | None
    dequeued_ms: int | None
    queue_wait_ms: int
    served_ms: int | None
    ended_ms: int | None
    talk_ms: int

    @property
    def is_queued(self) -> bool:
        """Whether the caller waited in a queue at all."""
        return self.queued_ms is not None

    @property
    def offered_ms(self) -> int:
        """When the call reached the agents' queue."""
        return self.left_ivr_ms if self.queued_ms is None else self.queued_ms

    @property
    def answered_ms(self) -> int:
        """When an agent took it: start of service, else the end of the wait, else of the IVR."""
        instants = (self.served_ms, self.dequeued_ms, self.left_ivr_ms)
        return next(instant for instant in instants if instant is not None)


def read_calls(path: Path) -> Read:
    """Return the events of a file, gzipped or plain; rows that break the format are skipped.

    Raises ``ValueError`` if the header is not the format's, ``OSError`` if the file cannot be read.
    """
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "rb") as raw, io.TextIOWrapper(raw, encoding="ascii", newline="") as text:
        reader = csv.DictReader(text, delimiter="\t", restval="")
        if tuple(reader.fieldnames or ()) != COLUMNS:
            raise ValueError(f"{path.name}: header {reader.fieldnames}, expected {list(COLUMNS)}")
        return events_of_rows(reader)


def events_of_rows(rows: Iterable[Mapping[str, str]]) -> Read:
    """Return the interaction events of the rows, in the order of the rows.

    Phantom rows are left out; a row that cannot be read is skipped under its line in the file.
    """
    read = Read([], [])
    for line, row in enumerate(rows, start=2):
        if row["outcome"] == "PHANTOM":
            continue
        place = f"line {line}"
        try:
            steps = steps_of_call(parse_call(row))
        except ValueError as error:
            read.skipped.append(Skipped(place, str(error)))
            continue
        read.events.extend(SourceEvent("interaction", step, SOURCE, place) for step in steps)
    return read


def generated_feedback(events: Iterable[SourceEvent], seed: int) -> list[SourceEvent]:
    """Return generated surveys and evaluations for recorded calls; the recording has none."""
    rng = seeded(seed, "feedback")
    completed = (event.record for event in events if event.record["event_type"] == "COMPLETED")
    handled = [
        Handled(
            interaction_id=record["interaction_id"],
            completed_ms=record["event_time"],
            resolved=rng.random() < _RESOLVED_SHARE,
            channel=record["channel"],
            queue_id=record["queue_id"],
            agent_id=record["agent_id"],
        )
        for record in completed
    ]
    return feedback_on(handled, f"{SOURCE}/generated", rng)


def parse_call(row: Mapping[str, str]) -> Call:
    """Return the call of a row.

    Raises ``ValueError`` naming the column if a date, a clock time or a number cannot be read.
    """
    midnight_ms = _midnight_ms(row["date"])
    entry_ms = midnight_ms + _clock_ms(row, "vru_entry")

    def instant(column: str) -> int:
        instant_ms = midnight_ms + _clock_ms(row, column)
        # A clock that reads far before the call's own start has passed midnight since.
        return instant_ms + _DAY_MS if instant_ms < entry_ms - _DAY_MS // 2 else instant_ms

    def pair(start: str, end: str) -> tuple[int | None, int | None]:
        if row[start] == row[end] == _NO_TIME:
            return None, None
        return instant(start), instant(end)

    queued_ms, dequeued_ms = pair("q_start", "q_exit")
    served_ms, ended_ms = pair("ser_start", "ser_exit")
    return Call(
        interaction_id=f"{row['date']}-{row['vru+line']}-{row['call_id']}",
        queue_id=row["type"],
        outcome=row["outcome"],
        customer_id=None if row["customer_id"] == "0" else row["customer_id"],
        agent_id=None if row["server"] == "NO_SERVER" else row["server"],
        priority=_whole(row, "priority"),
        left_ivr_ms=instant("vru_exit"),
        queued_ms=queued_ms,
        dequeued_ms=dequeued_ms,
        queue_wait_ms=1000 * _whole(row, "q_time"),
        served_ms=served_ms,
        ended_ms=ended_ms,
        talk_ms=1000 * _whole(row, "ser_time"),
    )


def steps_of_call(call: Call) -> list[dict[str, Any]]:
    """Return the interaction records of one call, in the order of its steps.

    Raises ``ValueError`` at an outcome the format does not know.
    """
    if call.outcome == "AGENT":
        return _steps_of_answered(call)
    if call.outcome != "HANG":
        raise ValueError(f"outcome: {call.outcome!r}, expected AGENT, HANG or PHANTOM")
    if call.dequeued_ms is None:
        return [_step(call, "LEFT_IVR", call.left_ivr_ms)]
    wait = {"offered_time": call.offered_ms, "queue_wait_ms": call.queue_wait_ms}
    return [
        _step(call, "OFFERED", call.offered_ms),
        _step(call, "ABANDONED", call.dequeued_ms, **wait),
    ]


def _steps_of_answered(call: Call) -> list[dict[str, Any]]:
    # The clock of the service runs ahead of the IVR's in most rows, mostly by a second: an answer
    # cannot have come before its offer, so the offer it quotes is no later than itself.
    times: dict[str, Any] = {
        "agent_id": call.agent_id,
        "offered_time": min(call.offered_ms, call.answered_ms),
        "answered_time": call.answered_ms,
    }
    queue_wait_ms = call.queue_wait_ms if call.is_queued else 0
    ended_ms = call.answered_ms if call.ended_ms is None else call.ended_ms
    talk_ms = None if call.ended_ms is None else call.talk_ms
    return [
        _step(call, "OFFERED", call.offered_ms),
        _step(call, "ANSWERED", call.answered_ms, queue_wait_ms=queue_wait_ms, **times),
        _step(call, "COMPLETED", ended_ms, talk_ms=talk_ms, **times),
    ]


def _step(call: Call, event_type: str, event_time_ms: int, **more: Any) -> dict[str, Any]:
    return {
        "event_id": f"{call.interaction_id}-{event_type}",
        "version": 1,
        "event_time": event_time_ms,
        "event_type": event_type,
        "interaction_id": call.interaction_id,
        "leg": 1,
        "channel": "VOICE",
        "direction": "INBOUND",
        "handler": "HUMAN",
        "queue_id": call.queue_id,
        "customer_id": call.customer_id,
        "priority": call.priority,
        **more,
    }


@cache
def _midnight_ms(date: str) -> int:
    try:
        day = datetime.strptime(date, "%y%m%d").replace(tzinfo=UTC)
    except ValueError as error:
        raise ValueError(f"date: {date!r}, expected YYMMDD") from error
    return int(day.timestamp()) * 1000


def _clock_ms(row: Mapping[str, str], column: str) -> int:
    hours, _, rest = row[column].partition(":")
    minutes, _, seconds = rest.partition(":")
    if not (hours.isdecimal() and minutes.isdecimal() and seconds.isdecimal()):
        raise ValueError(f"{column}: {row[column]!r}, expected H:MM:SS")
    return ((int(hours) * 60 + int(minutes)) * 60 + int(seconds)) * 1000


def _whole(row: Mapping[str, str], column: str) -> int:
    if not row[column].isdecimal():
        raise ValueError(f"{column}: {row[column]!r}, expected a whole number")
    return int(row[column])
