"""Dead letters as they are read back: where a record lay, why it was set aside, what it was."""

from dataclasses import dataclass
from typing import Any

from schemas.headers import ERRORS, REASON, Header, items


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """One record of the dead letters or of the late topic, taken apart.

    `partition` and `offset` are its own, those of `source_` are of the record that was set aside.
    `key`, `value` and `headers` are as they were there.
    """

    partition: int
    offset: int
    reason: str
    source_topic: str
    source_partition: int
    source_offset: int
    exception: str
    message: str
    key: bytes | None
    value: bytes | None
    headers: tuple[Header, ...]


def dead_letter_of(message: Any) -> DeadLetter | None:
    """Return what a Kafka message holds; None for one that does not say where it came from."""
    headers = items(message.headers())
    told = {name: (value or b"").decode(errors="replace") for name, value in headers}
    where = {name: told.get(ERRORS + name, "") for name in ("topic", "partition", "offset")}
    if not (where["topic"] and where["partition"].isdecimal() and where["offset"].isdecimal()):
        return None
    return DeadLetter(
        partition=message.partition(),
        offset=message.offset(),
        reason=told.get(REASON, ""),
        source_topic=where["topic"],
        source_partition=int(where["partition"]),
        source_offset=int(where["offset"]),
        exception=told.get(f"{ERRORS}exception", ""),
        message=told.get(f"{ERRORS}message", ""),
        key=message.key(),
        value=message.value(),
        headers=tuple(h for h in headers if not h[0].startswith(ERRORS) and h[0] != REASON),
    )
