"""The wallboard's web server: the page, its live events, the same numbers as JSON."""

import asyncio
import hashlib
import json
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import redis.asyncio
import structlog
from aiohttp import web

from schemas.codec import Codec
from schemas.errors import RegistryUnavailable
from sinks.keys import DEFAULT_KEYS, Keys
from sinks.wallboard.boards import Board, Window
from sinks.wallboard.feed import Feed
from sinks.wallboard.snapshot import Reader, member_of
from sinks.wallboard.view import board_parts, is_personal, public_action, stale_since_ms

STATIC = Path(__file__).parent / "static"
BEAT_S = 5.0
_POLL_S = 2.0
_LISTEN_S = 0.5
_ANSWER_S = 5.0
_SPACING_S = 0.25
_IDLE_FEED_S = 60.0
_POLICY = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self';"
    " connect-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}

#: What keeps boards from being read; to a page it is all one.
_SILENCE = (redis.RedisError, OSError, RegistryUnavailable)

log = structlog.get_logger()


@dataclass(slots=True)
class _Watched:
    """A feed somebody looks at: one board, for all or one member of its rows."""

    board: Board
    chosen: str | None
    feed: Feed = field(default_factory=Feed)
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    seen_at: float = field(default_factory=time.monotonic)

    def update(self, parts: Mapping[str, Any]) -> None:
        if self.feed.update(parts):
            # Whoever waits holds the old event; the next round waits for a new one.
            self.changed.set()
            self.changed = asyncio.Event()


class Wallboard:
    """Boards over Redis. `client` must be made with `decode_responses=False`.

    `codec` is that of KPI records. `now_ms` gives the present; `boot` tells one run of the server
    from another, so that a page that comes back after a restart is not taken for one that has seen
    everything.
    """

    def __init__(
        self,
        client: redis.asyncio.Redis,
        boards: Mapping[str, Board],
        codec: Codec,
        keys: Keys = DEFAULT_KEYS,
        *,
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
        beat_s: float = BEAT_S,
    ) -> None:
        self._client = client
        self._boards = boards
        self._keys = keys
        self._reader = Reader(client, codec, keys)
        self._now_ms = now_ms
        self._beat_s = beat_s
        self._watched: dict[tuple[str, str | None], _Watched] = {}
        self._boot = uuid4().hex[:12]
        self._version = _version()
        self._stirred = asyncio.Event()
        self._silent_since: int | None = None
        self._closing = False

    def application(self) -> web.Application:
        """Return the aiohttp application."""
        app = web.Application(middlewares=[_with_policy])
        app.add_routes(
            [
                web.get("/", self._page),
                web.get("/boards/{board}", self._page),
                web.get("/events/{board}", self._events),
                web.get("/api/boards", self._list_boards),
                web.get("/api/boards/{board}", self._show_board),
                web.get("/api/kpis", self._show_kpis),
                web.get("/api/actions", self._show_actions),
                web.get("/healthz", self._health),
                web.get("/readyz", self._readiness),
                web.static("/static", STATIC),
            ]
        )
        app.cleanup_ctx.append(self._tasks)
        app.on_shutdown.append(self._end_streams)
        return app

    async def _tasks(self, _app: web.Application) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(self._listen()), asyncio.create_task(self._keep_fresh())]
        yield
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _end_streams(self, _app: web.Application) -> None:
        self._closing = True
        for watched in self._watched.values():
            watched.changed.set()

    async def _listen(self) -> None:
        """Stir when a delivery says that something changed; polling makes up for what is missed."""
        # The client may swallow a cancellation, so that the flag has to be looked at as well.
        while not self._closing:
            with suppress(redis.RedisError, OSError):
                async with self._client.pubsub(ignore_subscribe_messages=True) as channel:
                    await channel.psubscribe(self._keys.changed("*"))
                    while not self._closing:
                        if await channel.get_message(timeout=_LISTEN_S) is not None:
                            self._stirred.set()
            await asyncio.sleep(_POLL_S)

    async def _keep_fresh(self) -> None:
        while not self._closing:
            # Not wait_for, which may lose a cancellation.
            with suppress(TimeoutError):
                async with asyncio.timeout(_POLL_S):
                    await self._stirred.wait()
            self._stirred.clear()
            for key, watched in list(self._watched.items()):
                if time.monotonic() - watched.seen_at > _IDLE_FEED_S:
                    del self._watched[key]
                else:
                    await self._refresh(watched)
            await asyncio.sleep(_SPACING_S)

    async def _refresh(self, watched: _Watched) -> None:
        try:
            async with asyncio.timeout(_ANSWER_S):
                snapshot = await self._reader.board(watched.board, watched.chosen)
        except _SILENCE as problem:
            self._redis_is_silent(problem)
            watched.update(_silent(watched.feed.parts, watched.board, self._silent_since))
            return
        self._redis_answers()
        watched.update(board_parts(watched.board, snapshot, watched.chosen, self._now_ms()))

    def _redis_is_silent(self, problem: Exception) -> None:
        if self._silent_since is None:
            self._silent_since = self._now_ms()
            log.warning("redis_does_not_answer", problem=str(problem))

    def _redis_answers(self) -> None:
        if self._silent_since is not None:
            log.info("redis_answers_again")
        self._silent_since = None

    async def _events(self, request: web.Request) -> web.StreamResponse:
        name, board, chosen = self._board(request)
        watched = self._watched.setdefault((name, chosen), _Watched(board, chosen))
        watched.seen_at = time.monotonic()
        if not watched.feed.last:
            await self._refresh(watched)
        response = web.StreamResponse(
            headers={"Content-Type": "text/event-stream", "X-Accel-Buffering": "no", **_POLICY}
        )
        await response.prepare(request)
        with suppress(ConnectionError):
            await response.write(b"retry: 2000\n\n")
            await self._stream(response, watched, self._seen(request))
        return response

    async def _stream(self, response: web.StreamResponse, watched: _Watched, seen: int) -> None:
        """Write what is new, and a sign of life where nothing is."""
        fresh_start = seen == 0
        while not self._closing:
            changed, last = watched.changed, watched.feed.last
            parts = watched.feed.since(seen)
            body = ",".join(f"{json.dumps(name)}:{text}" for name, text in parts.items())
            data = (
                f'{{"server_time":{self._now_ms()},"version":"{self._version}",'
                f'"reset":{str(fresh_start).lower()},"parts":{{{body}}}}}'
            )
            await response.write(f"id: {self._boot}-{last}\ndata: {data}\n\n".encode())
            seen, fresh_start = last, False
            watched.seen_at = time.monotonic()
            with suppress(TimeoutError):
                async with asyncio.timeout(self._beat_s):
                    await changed.wait()

    def _seen(self, request: web.Request) -> int:
        """Return the last change the page has, 0 where it has none of this run's."""
        given = request.headers.get("Last-Event-ID") or request.query.get("last", "")
        boot, _, number = given.rpartition("-")
        return int(number) if boot == self._boot and number.isdecimal() else 0

    def _board(self, request: web.Request) -> tuple[str, Board, str | None]:
        name = request.match_info.get("board", "default")
        board = self._boards.get(name)
        if board is None:
            known = ", ".join(sorted(self._boards))
            raise web.HTTPNotFound(text=f"board {name}: not found, expected one of {known}\n")
        chosen = request.query.get(board.rows.scope) if board.rows else None
        return name, board, chosen or None

    async def _page(self, request: web.Request) -> web.StreamResponse:
        if "board" in request.match_info:
            self._board(request)
        return web.FileResponse(STATIC / "index.html")

    async def _list_boards(self, _request: web.Request) -> web.Response:
        boards = [
            {"board": name, "title": board.title, "filter": board.rows and board.rows.scope}
            for name, board in self._boards.items()
        ]
        return web.json_response({"boards": boards})

    async def _show_board(self, request: web.Request) -> web.Response:
        name, board, chosen = self._board(request)
        now_ms = self._now_ms()
        parts = board_parts(board, await self._reader.board(board, chosen), chosen, now_ms)

        def dated(part: dict[str, Any]) -> dict[str, Any]:
            return part | {"stale_since": stale_since_ms(part, board.stale_after, now_ms)}

        order = parts["rows"]["order"] if "rows" in parts else []
        answer = {
            "board": name,
            "server_time": now_ms,
            **parts["head"],
            "tiles": [dated(parts[f"tile:{i}"]) for i in range(len(board.tiles))],
            "rows": [dated(parts[row]) for row in order],
            "actions": parts["actions"]["actions"] if "actions" in parts else [],
        }
        return web.json_response(answer)

    async def _show_kpis(self, request: web.Request) -> web.Response:
        scope, key = request.query.get("scope", "overall"), request.query.getall("key", [])
        try:
            window = Window.parse(request.query.get("window", "30m"))
        except ValueError as problem:
            raise web.HTTPBadRequest(text=f"window: {problem}\n") from problem
        records = await self._reader.latest(scope, window, member_of(key) if key else None)
        if any(map(is_personal, records)):
            raise web.HTTPForbidden(text=f"scope {scope}: about persons, not served here\n")
        return web.json_response({"server_time": self._now_ms(), "records": records})

    async def _show_actions(self, request: web.Request) -> web.Response:
        limit = request.query.get("limit", "100")
        if not limit.isdecimal() or not 1 <= int(limit) <= 1_000:
            raise web.HTTPBadRequest(text=f"limit: {limit}, expected 1 to 1000\n")
        actions = [public_action(action) for action in await self._reader.actions(int(limit))]
        return web.json_response({"server_time": self._now_ms(), "actions": actions})

    async def _health(self, _request: web.Request) -> web.Response:
        return web.json_response({"status": "ok", "redis_silent_since": self._silent_since})

    async def _readiness(self, _request: web.Request) -> web.Response:
        try:
            await self._client.ping()
        except (redis.RedisError, OSError) as problem:
            answer = {"status": "redis does not answer", "problem": str(problem)}
            return web.json_response(answer, status=503)
        return web.json_response({"status": "ok"})


def _silent(
    parts: Mapping[str, Any], board: Board, since_ms: int | None
) -> dict[str, dict[str, Any]]:
    """Return the parts last seen, saying that Redis has been silent since."""
    head = parts.get("head", {"title": board.title, "notice": board.notice, "zone": "UTC"})
    return {**parts, "head": head | {"redis_silent_since": since_ms}}


def _version() -> str:
    """Return a mark of the page's files; a page of another version loads itself anew."""
    digest = hashlib.sha256()
    for path in sorted(STATIC.iterdir()):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


@web.middleware
async def _with_policy(request: web.Request, handler: Any) -> web.StreamResponse:
    try:
        response: web.StreamResponse = await handler(request)
    except _SILENCE:
        return web.json_response({"error": "redis does not answer"}, status=503, headers=_POLICY)
    if not response.prepared:
        response.headers.update(_POLICY)
    return response
