"""Records set aside: dead letters and late events, raw as they came, with where and why."""

from __future__ import annotations

from typing import Any

from faust.types import TP

from schemas.catalogue import DEAD_LETTERS, LATE
from schemas.codec import Rejected
from schemas.errors import Reason
from schemas.headers import dead_letter_headers
from streams.records import Record


def dead_letter(tp: TP, record: Any, rejected: Rejected, partitions: int) -> Record:
    """Return the dead letter of a fetched record."""
    why = (rejected.reason, rejected.exception, rejected.message)
    return _aside(DEAD_LETTERS, tp, record, *why, partitions)


def late_event(tp: TP, record: Any, watermark_ms: int, grace_ms: int, partitions: int) -> Record:
    """Return the late event that a fetched record is: its grace was over when it came."""
    message = f"event_time is more than {grace_ms} ms before the watermark {watermark_ms}"
    return _aside(LATE, tp, record, Reason.EXPIRED, "Expired", message, partitions)


def _aside(
    topic: str, tp: TP, record: Any, reason: Reason, exception: str, message: str, partitions: int
) -> Record:
    headers = dead_letter_headers(
        record.headers,
        topic=tp.topic,
        partition=tp.partition,
        offset=record.offset,
        reason=reason,
        exception=exception,
        message=message,
    )
    return Record(topic, tp.partition % partitions, record.key, record.value, headers)
