"""Headers of a record: schema ids, CloudEvents attributes, and what a dead letter carries."""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from uuid import UUID

from schemas.errors import Reason

Header = tuple[str, bytes | None]
Headers = Iterable[Header] | Mapping[str, bytes | None] | None

VALUE_SCHEMA_ID = "__value_schema_id"
REASON = "andon.reason"
ERRORS = "__streams.errors."

_ID_MAGIC, _GUID_MAGIC = 0, 1


def items(headers: Headers) -> list[Header]:
    """Return headers of any client's form as a list of pairs."""
    if not headers:
        return []
    return list(headers.items() if isinstance(headers, Mapping) else headers)


def prefix(schema_id: int) -> bytes:
    """Return the five bytes before a value: a zero, and the schema id in network order."""
    return b"\0" + schema_id.to_bytes(4, "big")


def schema_key(headers: Headers) -> int | UUID | None:
    """Return the schema id, or guid, that a header names; None where none does."""
    for name, value in items(headers):
        if name != VALUE_SCHEMA_ID or not value:
            continue
        if value[0] == _ID_MAGIC and len(value) == 5:
            return int.from_bytes(value[1:], "big")
        if value[0] == _GUID_MAGIC and len(value) == 17:
            return UUID(bytes=bytes(value[1:]))
    return None


def guid_header(guid: UUID) -> Header:
    """Return the header that names the schema of a value sent without a prefix."""
    return (VALUE_SCHEMA_ID, bytes([_GUID_MAGIC]) + guid.bytes)


def cloud_event_headers(
    type: str,  # noqa: A002 - CloudEvents' own names
    source: str,
    id: str,  # noqa: A002
    time_ms: int,
) -> list[tuple[str, bytes]]:
    """Return the CloudEvents 1.0 attributes of a record in Kafka's binary mode.

    >>> cloud_event_headers("interaction", "/acd", "e-1", 0)[-1]
    ('ce_time', b'1970-01-01T00:00:00.000Z')
    """
    time = datetime.fromtimestamp(time_ms / 1000, UTC).isoformat(timespec="milliseconds")
    attributes = {
        "specversion": "1.0",
        "type": type,
        "source": source,
        "id": id,
        "time": time.replace("+00:00", "Z"),
    }
    return [(f"ce_{name}", value.encode()) for name, value in attributes.items()]


def dead_letter_headers(
    original: Headers,
    *,
    topic: str,
    partition: int,
    offset: int,
    reason: Reason | str,
    exception: str,
    message: str,
    stacktrace: str = "",
) -> list[Header]:
    """Return the original headers, then where the record lay and why it was set aside."""
    where = {
        "topic": topic,
        "partition": str(partition),
        "offset": str(offset),
        "exception": exception,
        "message": message,
        "stacktrace": stacktrace,
    }
    added = [(f"{ERRORS}{name}", value.encode()) for name, value in where.items()]
    return [*items(original), *added, (REASON, str(reason).encode())]
