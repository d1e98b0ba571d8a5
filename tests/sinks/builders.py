"""Records as the topics carry them, made short."""

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from schemas.codec import Codec
from schemas.registry import FileRegistry

MINUTE_MS = 60_000
TEN_OCLOCK_MS = 917_863_200_000  # 1999-02-01 10:00 UTC
COMPUTED_MS = 1_790_000_000_000

KPI_CODEC = Codec("kpi-record", FileRegistry(), "andon.kpis.v1")
ACTION_CODEC = Codec("action", FileRegistry(), "andon.actions.v1")


def kpi(kpi_id: str, value: float | None = None, n: int = 100, **fields: Any) -> dict[str, Any]:
    return {
        "kpi_id": kpi_id,
        "definition_version": 1,
        "value": value,
        "n": n,
        "unit": "percent",
        "target": 80.0,
        "state": "NO_DATA" if value is None else "OK",
        "status": None,
    } | fields


def kpi_record(
    *kpis: Mapping[str, Any],
    scope: str = "queue",
    key: Mapping[str, str] | None = None,
    window: tuple[str, int] = ("TUMBLING", 30 * MINUTE_MS),
    start_ms: int = TEN_OCLOCK_MS,
    version: int = 1,
    **fields: Any,
) -> dict[str, Any]:
    kind, size_ms = window
    key = {"queue_id": "billing"} if key is None and scope == "queue" else key or {}
    return {
        "scope": scope,
        "key": [{"name": name, "value": value} for name, value in key.items()],
        "attributes": [],
        "window": {
            "kind": kind,
            "size_ms": size_ms,
            "start_time": start_ms,
            "end_time": start_ms + size_ms,
            "zone": "UTC",
        },
        "status": "PROVISIONAL",
        "version": version,
        "watermark": start_ms + size_ms // 2,
        "computed_time": COMPUTED_MS,
        "measures": [{"name": "offered", "value": 100.0}],
        "kpis": list(kpis) or [kpi("service_level", 81.25)],
        "as_of_id": 7,
    } | fields


def record_name(record: Mapping[str, Any]) -> str:
    """The Kafka key of a KPI record."""
    values = ",".join(part["value"] for part in record["key"])
    window = record["window"]
    return f"{record['scope']}|{values}|{window['kind']}:{window['size_ms']}|{window['start_time']}"


def kpi_columns(
    records: Sequence[Mapping[str, Any]],
) -> tuple[list[str], list[bytes], pl.DataFrame]:
    """Names, values and columns of KPI records, as a reader of the topic has them."""
    values = [KPI_CODEC.encode(record) for record in records]
    decoded = KPI_CODEC.columns(values, [0] * len(records))
    assert [] == decoded.rejected
    return [record_name(record) for record in records], values, decoded.frame


def action(action_id: str = "a1", **fields: Any) -> dict[str, Any]:
    return {
        "action_id": action_id,
        "action_type": "PROCESS_REVIEW",
        "status": "OPEN",
        "severity": "WARNING",
        "approval": "SUGGEST",
        "rule_id": "repeat_transfers",
        "rule_version": 1,
        "episode_start": TEN_OCLOCK_MS,
        "subject": {"scope": "queue", "key": [{"name": "queue_id", "value": "billing"}]},
        "recipient": {"role": "OPERATIONS", "id": None},
        "title": "Review the process",
        "reason": "transfer_rate 24.0 % of 88 in queue billing, limit 15 %",
        "evidence": [],
        "guards": [],
        "remedy": {"module_id": None, "article_id": None, "template_id": None},
        "event_time": TEN_OCLOCK_MS,
        "created_time": COMPUTED_MS,
        "due_time": None,
        "check_time": None,
        "as_of": [],
    } | fields


def action_columns(records: Sequence[Mapping[str, Any]]) -> pl.DataFrame:
    """Columns of actions, as a reader of the topic has them."""
    decoded = ACTION_CODEC.columns([ACTION_CODEC.encode(r) for r in records], [0] * len(records))
    assert [] == decoded.rejected
    return decoded.frame
