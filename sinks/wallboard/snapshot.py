"""What a board needs, as Redis has it at one moment."""

import asyncio
import json
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any

import redis.asyncio
import structlog

from schemas.codec import Codec
from sinks.keys import DEFAULT_KEYS, Keys
from sinks.wallboard.boards import Board, Tile, Window

KpiRecord = Mapping[str, Any]

_LOG_EVERY_S = 30.0
_DIGITS = 4

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Series:
    """The KPI records of one key and kind of window; `member` is the key as in a record key."""

    scope: str
    member: str
    window: Window

    @property
    def name(self) -> str:
        """The record key without the start."""
        return f"{self.scope}|{self.member}|{self.window.name}"

    @property
    def head(self) -> str:
        """Scope and window: what all keys share."""
        return f"{self.scope}|{self.window.name}"


@dataclass(frozen=True, slots=True)
class Head:
    """How far a scope and window have come: newest start, computed time and watermark in ms."""

    newest_start_ms: int | None = None
    computed_ms: int | None = None
    watermark_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Redis as one board saw it, at one moment.

    `records` are by series and start, `newest` has the newest start that each series holds.
    """

    heads: Mapping[str, Head] = field(default_factory=dict)
    newest: Mapping[str, int] = field(default_factory=dict)
    members: Sequence[str] = ()
    records: Mapping[tuple[str, int], KpiRecord] = field(default_factory=dict)
    history: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    actions: Sequence[Mapping[str, Any]] = ()
    beat_ms: int | None = None
    lag_records: int | None = None

    def current_start_ms(self, series: Series) -> int | None:
        """Return the start of the window that the series should show now."""
        return _current_start_ms(series, self.heads, self.newest)


def member_of(values: Sequence[str]) -> str:
    """Return key values as record keys write them.

    >>> member_of(["a,b", "c"])
    'a%2Cb,c'
    """
    return ",".join(re.sub("[%,|]", lambda found: f"%{ord(found[0]):02X}", v) for v in values)


def tile_series(board: Board, tile: Tile, chosen: str | None) -> tuple[Series, Series | None]:
    """Return the series of a tile and of its sparkline.

    A chosen member of the board's rows takes the place of the whole.
    """
    scope, member = tile.scope, member_of(tile.key)
    if chosen is not None and board.rows is not None and not tile.key:
        scope, member = board.rows.scope, chosen
    line = tile.sparkline or board.sparkline
    return Series(scope, member, tile.window), Series(scope, member, line) if line else None


class Reader:
    """Reads from Redis; `client` must be made with `decode_responses=False`.

    `codec` is that of KPI records. A record that it cannot decode, as one of a newer deliver, is
    logged and shown as none.
    """

    def __init__(
        self, client: redis.asyncio.Redis, codec: Codec, keys: Keys = DEFAULT_KEYS
    ) -> None:
        self._client = client
        self._codec = codec
        self._keys = keys
        self._logged = -_LOG_EVERY_S

    async def board(self, board: Board, chosen: str | None) -> Snapshot:
        """Return what the board shows now, for all or for one member of its rows.

        Raises redis.RedisError, or RegistryUnavailable where a schema cannot be asked for.
        """
        tiles = [tile_series(board, tile, chosen) for tile in board.tiles]
        shown = [series for series, _ in tiles]
        lines = [line for _, line in tiles if line is not None]
        rows = board.rows
        show = board.actions.show if board.actions else 0
        members, ids = await self._names(
            f"{rows.scope}|{rows.window.name}" if rows else None, show * 20
        )
        if rows is not None:
            wanted = [chosen] if chosen is not None else members
            shown += [Series(rows.scope, member, rows.window) for member in wanted]
        return replace(await self._contents(shown, lines, ids), members=members)

    async def latest(self, scope: str, window: Window, member: str | None) -> list[KpiRecord]:
        """Return the records of the current window of a scope, of one member or of all."""
        members, _ = await self._names(f"{scope}|{window.name}", 0)
        wanted = [Series(scope, m, window) for m in (members if member is None else [member])]
        found = await self._contents(wanted, [], [])
        current = (found.records.get((s.name, found.current_start_ms(s) or 0)) for s in wanted)
        return [record for record in current if record is not None]

    async def actions(self, limit: int) -> Sequence[Mapping[str, Any]]:
        """Return the newest open actions."""
        _, ids = await self._names(None, limit)
        return (await self._contents([], [], ids)).actions

    async def _names(self, head: str | None, actions: int) -> tuple[list[str], list[str]]:
        pipe = self._client.pipeline(transaction=False)
        pipe.zrange(self._keys.members(head or ""), 0, -1)
        pipe.zrange(self._keys.open_actions, 0, max(actions - 1, 0), desc=True)
        members, ids = await pipe.execute()
        return sorted(m.decode() for m in members), [i.decode() for i in ids] if actions else []

    async def _contents(
        self, shown: Sequence[Series], lines: Sequence[Series], action_ids: Sequence[str]
    ) -> Snapshot:
        """Read everything in one transaction.

        When a day is replayed in a minute, windows come and go between two questions.
        """
        heads = sorted({series.head for series in (*shown, *lines)})
        series_of = {series.name: series for series in shown}
        line_names = sorted({line.name for line in lines})
        held_names = sorted(series_of.keys() | line_names)
        pipe = self._client.pipeline(transaction=True)
        pipe.get(self._keys.beat)
        for name in (self._keys.heads, self._keys.fresh, self._keys.watermarks) if heads else ():
            pipe.hmget(name, heads)
        for name in held_names:
            pipe.hgetall(self._keys.records(name))
        for name in line_names:
            pipe.zrange(self._keys.history(name), 0, -1)
        for action_id in action_ids:
            pipe.get(self._keys.action(action_id))
        answers = iter(await pipe.execute())
        beat = json.loads(next(answers) or "{}")
        columns = [next(answers) for _ in range(3)] if heads else []
        held = {name: _by_start(next(answers)) for name in held_names}
        past = {name: [_record_of(entry) for entry in next(answers)] for name in line_names}
        found = {
            head: Head(*(None if value is None else int(value) for value in row))
            for head, *row in zip(heads, *columns, strict=True)
        }
        newest = {name: max(starts) for name, starts in held.items() if starts}
        needed = dict(_needed(series_of, held, found, newest))
        whole = {name: [value for _, value in sorted(held[name].items())] for name in line_names}
        records = await self._decoded(needed.values(), *past.values(), *whole.values())
        return Snapshot(
            heads=found,
            newest=newest,
            records={at: records[value] for at, value in needed.items() if value in records},
            history={name: _line(past[name], whole[name], records) for name in line_names},
            actions=[json.loads(text) for text in answers if text],
            beat_ms=beat.get("beat_time"),
            lag_records=beat.get("lag_records"),
        )

    async def _decoded(self, *values: Iterable[bytes]) -> Mapping[bytes, KpiRecord]:
        """Return what values say, all at once and beside the loop; some may say nothing."""
        several = list(dict.fromkeys(chain(*values)))
        decoded = await asyncio.to_thread(self._codec.columns, several, ())
        if decoded.rejected and time.monotonic() - self._logged >= _LOG_EVERY_S:
            self._logged = time.monotonic()
            problem = decoded.rejected[0].message
            log.warning("records_unreadable", count=len(decoded.rejected), problem=problem)
        rows = decoded.frame.iter_rows(named=True)
        return {several[i]: row for i, row in zip(decoded.index.tolist(), rows, strict=True)}


def _current_start_ms(
    series: Series, heads: Mapping[str, Head], newest: Mapping[str, int]
) -> int | None:
    """Return the start to show: by the head, or by the series itself where that is ahead."""
    known = (heads.get(series.head, Head()).newest_start_ms, newest.get(series.name))
    reached = max((start for start in known if start is not None), default=None)
    return None if reached is None else series.window.current_start_ms(reached)


def _by_start(held: Mapping[bytes, bytes]) -> dict[int, bytes]:
    """Return the records of a series; what else is said of it lies beside them."""
    return {int(name): value for name, value in held.items() if name.lstrip(b"-").isdigit()}


def _record_of(entry: bytes) -> bytes:
    """Return the record of an entry of the history, which begins with its version."""
    return entry.partition(b" ")[2]


def _line(
    past: Sequence[bytes], held: Sequence[bytes], records: Mapping[bytes, KpiRecord]
) -> list[Mapping[str, Any]]:
    """Return the values of all windows that are known: of those held whole, and before them."""
    rounded = [_values(records[value], _DIGITS) for value in past if value in records]
    return rounded + [_values(records[value], None) for value in held if value in records]


def _values(record: KpiRecord, digits: int | None) -> Mapping[str, Any]:
    values = {kpi["kpi_id"]: kpi["value"] for kpi in record["kpis"]}
    if digits is not None:
        values = {id_: value and round(value, digits) for id_, value in values.items()}
    start_ms = record["window"]["start_time"]
    return {"version": record["version"], "start_time": start_ms, "kpis": values}


def _needed(
    series_of: Mapping[str, Series],
    held: Mapping[str, Mapping[int, bytes]],
    heads: Mapping[str, Head],
    newest: Mapping[str, int],
) -> Iterator[tuple[tuple[str, int], bytes]]:
    """Yield the records of each series' current window and the one before."""
    for name, series in series_of.items():
        start_ms = _current_start_ms(series, heads, newest)
        if start_ms is None:
            continue
        for each in (start_ms, series.window.previous_start_ms(start_ms)):
            if each is not None and each in held[name]:
                yield (name, each), held[name][each]
