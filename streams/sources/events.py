"""The event as every source hands it to the replay."""

import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

KEY_FIELDS: Mapping[str, str] = {
    "interaction": "interaction_id",
    "survey": "survey_id",
    "evaluation": "evaluation_id",
}
"""Contract -> the field that keys its topic: records that restate one another share it."""


@dataclass(frozen=True, slots=True)
class SourceEvent:
    """One record of an input contract, and where it came from.

    ``record`` is in the contract's form, instants in epoch milliseconds UTC; ``source`` is the
    CloudEvents source. The source of an event that never happened ends in ``/generated``.
    ``place`` says where in a file it stood.
    """

    contract: str
    record: Mapping[str, Any]
    source: str
    place: str = ""

    @property
    def event_time_ms(self) -> int:
        """When it happened, epoch milliseconds UTC."""
        return int(self.record["event_time"])

    @property
    def stated_ms(self) -> int:
        """When it was stated, epoch milliseconds UTC: of a restatement later than it happened."""
        return int(self.record.get("restated_time") or self.event_time_ms)

    @property
    def event_id(self) -> str:
        """Unique within its topic."""
        return str(self.record["event_id"])

    @property
    def key(self) -> str:
        """The Kafka key."""
        return str(self.record[KEY_FIELDS[self.contract]])


@dataclass(frozen=True, slots=True)
class Skipped:
    """A record that gave no event: where it stands, and what was found and expected there."""

    place: str
    problem: str

    def __str__(self) -> str:
        return f"{self.place}: {self.problem}"


@dataclass(frozen=True, slots=True)
class Read:
    """What a file gave: its events in the order of the file, and the records that gave none."""

    events: list[SourceEvent]
    skipped: list[Skipped]


def in_order_of_time(events: list[SourceEvent]) -> list[SourceEvent]:
    """Return the events by the time they were stated: event time, but for restatements.

    Events of one millisecond keep the order they came in.
    """
    return sorted(events, key=lambda event: event.stated_ms)


def seeded(*parts: object) -> random.Random:
    """Return a generator of numbers that depends on ``parts`` alone, not on process or platform.

    >>> seeded(7, "arrivals").random() == seeded(7, "arrivals").random()
    True
    """
    return random.Random("/".join(str(part) for part in parts))  # noqa: S311 - no secrets here
