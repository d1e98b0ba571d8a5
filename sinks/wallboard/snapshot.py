"""What a board needs, read from Redis in two round trips."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import redis.asyncio

from sinks.keys import DEFAULT_KEYS, Keys
from sinks.wallboard.boards import Board, Tile, Window

KpiRecord = Mapping[str, Any]


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
    """Redis as one board saw it."""

    heads: Mapping[str, Head]
    members: Sequence[str]
    records: Mapping[tuple[str, int], KpiRecord]
    history: Mapping[str, Sequence[Mapping[str, Any]]]
    actions: Sequence[Mapping[str, Any]]
    beat_ms: int | None
    lag_records: int | None

    def current_start_ms(self, series: Series) -> int | None:
        """Return the start of the window that the series should show now."""
        newest = self.heads.get(series.head, Head()).newest_start_ms
        return None if newest is None else series.window.current_start_ms(newest)


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
    """Reads from Redis; `client` must be made with `decode_responses=True`."""

    def __init__(self, client: redis.asyncio.Redis, keys: Keys = DEFAULT_KEYS) -> None:
        self._client = client
        self._keys = keys

    async def board(self, board: Board, chosen: str | None) -> Snapshot:
        """Return what the board shows now, for all or for one member of its rows.

        Raises redis.RedisError.
        """
        tiles = [tile_series(board, tile, chosen) for tile in board.tiles]
        shown = [series for series, _ in tiles]
        lines = [line for _, line in tiles if line is not None]
        rows = board.rows
        row_head = f"{rows.scope}|{rows.window.name}" if rows else None
        heads = sorted({s.head for s in (*shown, *lines)} | ({row_head} if row_head else set()))
        show = board.actions.show if board.actions else 0
        found, members, ids, beat = await self._heads(heads, row_head, show * 20)
        if rows is not None:
            wanted = [chosen] if chosen is not None else members
            shown += [Series(rows.scope, member, rows.window) for member in wanted]
        records, history, actions = await self._contents(found, shown, lines, ids)
        return Snapshot(
            heads=found,
            members=members,
            records=records,
            history=history,
            actions=actions,
            beat_ms=beat.get("beat_time"),
            lag_records=beat.get("lag_records"),
        )

    async def latest(self, scope: str, window: Window, member: str | None) -> list[KpiRecord]:
        """Return the records of the current window of a scope, of one member or of all."""
        head = f"{scope}|{window.name}"
        heads, members, _, _ = await self._heads([head], head, 0)
        wanted = members if member is None else [member]
        series = [Series(scope, each, window) for each in wanted]
        records, _, _ = await self._contents(heads, series, [], [])
        newest = heads[head].newest_start_ms
        start_ms = None if newest is None else window.current_start_ms(newest)
        return [r for (_, start), r in records.items() if start == start_ms]

    async def actions(self, limit: int) -> list[Mapping[str, Any]]:
        """Return the newest open actions."""
        _, _, ids, _ = await self._heads([], None, limit)
        return (await self._contents({}, [], [], ids))[2]

    async def _heads(
        self, heads: Sequence[str], row_head: str | None, actions: int
    ) -> tuple[dict[str, Head], list[str], list[str], dict[str, Any]]:
        pipe = self._client.pipeline(transaction=False)
        if heads:
            for name in (self._keys.heads, self._keys.fresh, self._keys.watermarks):
                pipe.hmget(name, list(heads))
        pipe.zrange(self._keys.members(row_head or ""), 0, -1)
        pipe.zrange(self._keys.open_actions, 0, max(actions - 1, 0), desc=True)
        pipe.get(self._keys.beat)
        *columns, members, ids, beat = await pipe.execute()
        found = {
            head: Head(*(None if value is None else int(value) for value in row))
            for head, *row in zip(heads, *columns, strict=True)
        }
        return found, sorted(members), ids if actions else [], json.loads(beat or "{}")

    async def _contents(
        self,
        heads: Mapping[str, Head],
        shown: Sequence[Series],
        lines: Sequence[Series],
        action_ids: Sequence[str],
    ) -> tuple[
        dict[tuple[str, int], KpiRecord],
        dict[str, list[Mapping[str, Any]]],
        list[Mapping[str, Any]],
    ]:
        starts = {s.name: (s, _starts(s, heads)) for s in shown}
        wanted = [(s, each) for s, each in starts.values() if each]
        line_of = {line.name: line for line in lines}
        pipe = self._client.pipeline(transaction=False)
        for series, each in wanted:
            pipe.hmget(self._keys.records(series.name), [str(start) for start in each])
        for name in line_of:
            pipe.zrange(self._keys.history(name), 0, -1)
        for action_id in action_ids:
            pipe.get(self._keys.action(action_id))
        answers = await pipe.execute()
        found, values, actions = (
            answers[: len(wanted)],
            answers[len(wanted) : len(wanted) + len(line_of)],
            answers[len(wanted) + len(line_of) :],
        )
        records = {
            (series.name, start): json.loads(text)
            for (series, each), texts in zip(wanted, found, strict=True)
            for start, text in zip(each, texts, strict=True)
            if text
        }
        history = {n: [json.loads(t) for t in v] for n, v in zip(line_of, values, strict=True)}
        return records, history, [json.loads(text) for text in actions if text]


def _starts(series: Series, heads: Mapping[str, Head]) -> list[int]:
    newest = heads.get(series.head, Head()).newest_start_ms
    if newest is None:
        return []
    start_ms = series.window.current_start_ms(newest)
    previous_ms = series.window.previous_start_ms(start_ms)
    return [start_ms] if previous_ms is None else [start_ms, previous_ms]
