"""From a snapshot to what a page shows: pure, and the same for the page and for the JSON API."""

import re
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import unquote

from sinks.wallboard.boards import Board, Column, Tile, Window
from sinks.wallboard.snapshot import Head, KpiRecord, Series, Snapshot, tile_series

DELIVERY_SILENT_MS = 10_000
_UNSETTLED = frozenset({"TOO_FEW", "NO_DATA"})
_PERSON_COLUMNS = frozenset({"agent_id", "evaluator_id", "customer_id"})
SPARKLINE_POINTS = 60

Part = dict[str, Any]


def board_parts(
    board: Board, snapshot: Snapshot, chosen: str | None, now_ms: int
) -> dict[str, Part]:
    """Return the parts of a page by name: `head`, `tile:0`..., `rows`, `row:<member>`, `actions`.

    A part changes only when what it says changes, so that a page gets only what is new.
    """
    parts: dict[str, Part] = {"head": _head(board, snapshot, chosen, now_ms)}
    for i, tile in enumerate(board.tiles):
        parts[f"tile:{i}"] = _tile(board, tile, snapshot, chosen)
    if board.rows is not None:
        members = [chosen] if chosen is not None else snapshot.members
        parts["rows"] = {
            "title": board.rows.title,
            "columns": [column.label or words_of(column.kpi) for column in board.rows.columns],
            "order": [f"row:{member}" for member in members],
        }
        parts |= {f"row:{member}": _row(board, snapshot, member) for member in members}
    if board.actions is not None:
        parts["actions"] = {
            "title": board.actions.title,
            "actions": _actions(board, snapshot, chosen),
        }
    return parts


def stale_since_ms(part: Part, stale_after_ms: int, now_ms: int) -> int | None:
    """Return since when a tile or row tells nothing new, None while it is fresh.

    What counts is the newest computation of its scope and window: a queue without contacts is
    quiet, not stale.
    """
    fresh_ms: int | None = part["fresh_time"]
    return fresh_ms if fresh_ms is not None and now_ms - fresh_ms > stale_after_ms else None


def words_of(kpi_id: str) -> str:
    """Return a label for a KPI that was given none.

    >>> words_of("average_hold_time")
    'Average hold time'
    """
    return kpi_id.replace("_", " ").capitalize()


def public_action(action: Mapping[str, Any]) -> Part:
    """Return what a wall may show of an action: what and why, and no person's id."""
    subject = action["subject"]
    persons = [p["value"] for p in subject["key"] if p["name"] in _PERSON_COLUMNS and p["value"]]
    return {
        "action_id": action["action_id"],
        "action_type": action["action_type"],
        "severity": action["severity"],
        "approval": action["approval"],
        "rule_id": action["rule_id"],
        "rule_version": action["rule_version"],
        "title": _without_persons(action["title"], persons),
        "reason": _without_persons(action["reason"], persons),
        "subject": [
            {"name": words_of(p["name"].removesuffix("_id")), "value": _public_value(p)}
            for p in subject["key"]
        ],
        "recipient_role": action["recipient"]["role"],
        "event_time": action["event_time"],
    }


def is_personal(record: KpiRecord) -> bool:
    """Return whether a KPI record is about one person."""
    return any(part["name"] in _PERSON_COLUMNS for part in record["key"])


def _head(board: Board, snapshot: Snapshot, chosen: str | None, now_ms: int) -> Part:
    beat_ms = snapshot.beat_ms
    silent = beat_ms is not None and now_ms - beat_ms > DELIVERY_SILENT_MS
    choices = [{"member": m, "label": _label(m)} for m in snapshot.members] if board.rows else []
    return {
        "title": board.title,
        "notice": board.notice,
        "zone": _zone(snapshot.records.values()),
        "event_time": _event_time_ms(board, snapshot),
        "stale_after_ms": board.stale_after,
        "delivery_silent_since": beat_ms if silent else None,
        "redis_silent_since": None,
        "filter": {"name": board.rows.scope, "choices": choices} if board.rows else None,
        "chosen": chosen,
    }


def _zone(records: Sequence[KpiRecord] | Any) -> str:
    zones = sorted({r["window"]["zone"] for r in records if r["window"]["kind"] == "DAY"})
    return zones[0] if zones else "UTC"


def _event_time_ms(board: Board, snapshot: Snapshot) -> int | None:
    """Return how far the data has come, as closely as the windows of the board tell.

    The watermark says it to the second, but only inside the newest window: when a stream has ended
    it runs on to the present, and a source that is behind holds it back.
    """
    newest = [
        (head.newest_start_ms, window.hop_ms or window.size_ms, head.watermark_ms)
        for window in _windows(board)
        for name, head in snapshot.heads.items()
        if name.endswith(f"|{window.name}") and head.newest_start_ms is not None
    ]
    if not newest:
        return None
    start_ms, step_ms, watermark_ms = max(newest, key=lambda each: (each[0], -each[1]))
    return min(max(start_ms, watermark_ms or start_ms), start_ms + step_ms)


def _windows(board: Board) -> set[Window]:
    tiles = {window for tile in board.tiles for window in (tile.window, tile.sparkline) if window}
    others = {board.sparkline, board.rows and board.rows.window}
    return tiles | {window for window in others if window}


def _tile(board: Board, tile: Tile, snapshot: Snapshot, chosen: str | None) -> Part:
    series, line = tile_series(board, tile, chosen)
    record = _settled(snapshot, series, tile.kpi)
    return {
        "label": tile.label or words_of(tile.kpi),
        "caption": tile.caption,
        "scope": series.scope,
        "key": _label(series.member),
        "sparkline": _sparkline(snapshot, line, tile.kpi) if line else None,
        **_cell(tile, record),
        **_when(snapshot, series, record),
    }


def _row(board: Board, snapshot: Snapshot, member: str) -> Part:
    assert board.rows is not None
    series = Series(board.rows.scope, member, board.rows.window)
    record = _settled(snapshot, series, board.rows.columns[0].kpi)
    return {
        "key": _label(member),
        "cells": [_cell(column, record) for column in board.rows.columns],
        **_when(snapshot, series, record),
    }


def _settled(snapshot: Snapshot, series: Series, kpi_id: str) -> KpiRecord | None:
    """Return the current window's record, or the one before while that one says too little."""
    start_ms = snapshot.current_start_ms(series)
    if start_ms is None:
        return None
    current = snapshot.records.get((series.name, start_ms))
    if _state(current, kpi_id) not in _UNSETTLED:
        return current
    previous_ms = series.window.previous_start_ms(start_ms)
    previous = snapshot.records.get((series.name, previous_ms)) if previous_ms is not None else None
    return current if _state(previous, kpi_id) in _UNSETTLED else previous


def _state(record: KpiRecord | None, kpi_id: str) -> str:
    return str(_kpi(record, kpi_id).get("state", "NO_DATA"))


def _kpi(record: KpiRecord | None, kpi_id: str) -> Mapping[str, Any]:
    kpis = record["kpis"] if record is not None else ()
    return next((kpi for kpi in kpis if kpi["kpi_id"] == kpi_id), {})


def _cell(column: Column, record: KpiRecord | None) -> Part:
    kpi = _kpi(record, column.kpi)
    return {
        "kpi": column.kpi,
        "definition_version": kpi.get("definition_version"),
        "value": kpi.get("value"),
        "unit": kpi.get("unit"),
        "n": kpi.get("n", 0),
        "target": kpi.get("target"),
        "better": column.better,
        "state": kpi.get("state", "NO_DATA"),
        "status": (kpi.get("status") or record["status"]) if kpi and record else None,
    }


def _when(snapshot: Snapshot, series: Series, record: KpiRecord | None) -> Part:
    start_ms = snapshot.current_start_ms(series)
    window = record["window"] if record is not None else None
    return {
        "window": {
            "text": series.window.text,
            "start_time": window["start_time"] if window else start_ms,
            "end_time": window["end_time"] if window else _plus(start_ms, series.window.size_ms),
            "current": window is None or window["start_time"] == start_ms,
        },
        "computed_time": record["computed_time"] if record is not None else None,
        "fresh_time": snapshot.heads.get(series.head, Head()).computed_ms,
    }


def _plus(start_ms: int | None, size_ms: int) -> int | None:
    return None if start_ms is None else start_ms + size_ms


def _sparkline(snapshot: Snapshot, line: Series, kpi_id: str) -> Part | None:
    """Return the values of the last windows in equal steps, null where a window had none."""
    step_ms, end_ms = line.window.hop_ms, snapshot.current_start_ms(line)
    if end_ms is None or step_ms is None:
        return None
    values = {h["start_time"]: h["kpis"].get(kpi_id) for h in snapshot.history.get(line.name, ())}
    first_ms = min((start for start in values if start <= end_ms), default=end_ms)
    first_ms = max(first_ms, end_ms - (SPARKLINE_POINTS - 1) * step_ms)
    starts = range(first_ms, end_ms + 1, step_ms)
    return {
        "window": line.window.text,
        "start_time": first_ms,
        "end_time": end_ms + line.window.size_ms,
        "values": [values.get(start) for start in starts],
    }


def _actions(board: Board, snapshot: Snapshot, chosen: str | None) -> list[Part]:
    assert board.actions is not None
    actions = snapshot.actions
    if chosen is not None and board.rows is not None:
        column = (board.rows.scope, f"{board.rows.scope}_id")
        actions = [
            a
            for a in actions
            if any(
                p["name"] in column and p["value"] == _label(chosen) for p in a["subject"]["key"]
            )
        ]
    return [public_action(action) for action in actions[: board.actions.show]]


def _public_value(part: Mapping[str, str]) -> str | None:
    return None if part["name"] in _PERSON_COLUMNS else part["value"]


def _without_persons(text: str, persons: Sequence[str]) -> str:
    for person in persons:
        text = re.sub(rf"(?<![\w.-])(agent )?{re.escape(person)}(?![\w-]|\.\d)", "an agent", text)
    return text


def _label(member: str) -> str:
    return ", ".join(unquote(value) for value in member.split(","))
