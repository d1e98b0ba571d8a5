"""The wallboard's server over a real Redis, asked as a browser asks."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import redis
import redis.asyncio
from aiohttp import ClientResponse
from aiohttp.test_utils import TestClient, TestServer

from schemas.codec import Codec
from schemas.registry_server import ConfluentRegistry
from sinks.redis_actions import RedisActions
from sinks.redis_kpis import RedisKpis
from sinks.wallboard.boards import load_boards
from sinks.wallboard.server import STATIC, Wallboard
from tests.sinks.builders import (
    COMPUTED_MS,
    KPI_CODEC,
    action,
    action_columns,
    kpi,
    kpi_columns,
    kpi_record,
)

BOARDS = load_boards(Path(__file__).parents[2] / "deploy" / "boards")
Served = Callable[..., Awaitable[TestClient[Any, Any]]]


@pytest.fixture
async def serve(redis_url: str) -> AsyncIterator[Served]:
    """Return a maker of a client of a wallboard over the test's Redis, or over another."""
    clients: list[TestClient[Any, Any]] = []

    async def make(url: str = redis_url) -> TestClient[Any, Any]:
        store = redis.asyncio.Redis.from_url(url)
        board = Wallboard(store, BOARDS, KPI_CODEC, now_ms=lambda: COMPUTED_MS + 61_000, beat_s=0.2)
        clients.append(TestClient(TestServer(board.application())))
        await clients[-1].start_server()
        return clients[-1]

    yield make
    for client in clients:
        await client.close()


@pytest.fixture
def sink(redis_url: str) -> RedisKpis:
    return RedisKpis(redis.Redis.from_url(redis_url))


def overall(value: float, **fields: Any) -> dict[str, Any]:
    return kpi_record(kpi("service_level", value), scope="overall", **fields)


async def event(response: ClientResponse) -> tuple[str, dict[str, Any]]:
    """The next event with data: its id and its data."""
    found: dict[str, str] = {}
    while "data" not in found or (await response.content.readline()).strip():
        line = (await response.content.readline()).decode().strip()
        name, _, value = line.partition(": ")
        found[name] = value
    return found["id"], json.loads(found["data"])


async def changes(response: ClientResponse) -> tuple[str, dict[str, Any]]:
    """The next event that brings any part."""
    async with asyncio.timeout(10):
        while True:
            number, data = await event(response)
            if data["parts"]:
                return number, data


async def test_a_page_gets_everything_first_and_then_what_changes(serve, sink):
    """A new version of one tile's record reaches the page at once, that tile and the head alone."""
    sink.write(*kpi_columns([overall(81.0)]))
    client = await serve()
    response = await client.get("/events/default")

    _, first = await changes(response)
    await asyncio.to_thread(sink.write, *kpi_columns([overall(62.0, version=2)]))
    _, second = await changes(response)

    tiles = [f"tile:{i}" for i in range(len(BOARDS["default"].tiles))]
    assert {"head", "rows", "actions", *tiles} == first["parts"].keys()
    assert first["reset"]
    assert not second["reset"]
    assert 62.0 == second["parts"]["tile:0"]["value"]
    assert "tile:4" not in second["parts"]


async def test_a_page_that_returns_gets_only_what_it_missed(serve, sink):
    """It names the last event it has; a number of another run of the server counts for nothing."""
    sink.write(*kpi_columns([overall(81.0)]))
    client = await serve()
    response = await client.get("/events/default")
    seen, _ = await changes(response)
    response.close()

    back = await client.get("/events/default", headers={"Last-Event-ID": seen})
    from_elsewhere = await client.get("/events/default?last=0123-99")

    assert {} == (await event(back))[1]["parts"]
    assert (await event(from_elsewhere))[1]["reset"]


async def test_the_stream_gives_a_sign_of_life(serve):
    """Where nothing changes, an event without parts says that the connection stands."""
    client = await serve()
    response = await client.get("/events/default")
    await changes(response)

    _, beat = await event(response)

    assert ({}, COMPUTED_MS + 61_000) == (beat["parts"], beat["server_time"])


async def test_the_api_tells_the_same_numbers_and_since_when_they_are_stale(serve, sink, redis_url):
    """Computed 61 s ago, on a board that calls a minute stale."""
    sink.write(*kpi_columns([overall(81.0), kpi_record()]))
    RedisActions(redis.Redis.from_url(redis_url)).write(action_columns([action("a1")]))
    client = await serve()

    told = await (await client.get("/api/boards/default")).json()

    assert (81.0, "OK", COMPUTED_MS) == tuple(
        told["tiles"][0][n] for n in ("value", "state", "stale_since")
    )
    assert ["billing"] == [row["key"] for row in told["rows"]]
    assert ["a1"] == [each["action_id"] for each in told["actions"]]


async def test_kpi_records_are_served_in_the_contracts_form(serve, sink):
    """Of the current window of a scope, all keys or one."""
    cards = kpi_record(key={"queue_id": "cards"})
    sink.write(*kpi_columns([kpi_record(), cards]))
    client = await serve()

    both = await (await client.get("/api/kpis?scope=queue&window=30m")).json()
    one = await (await client.get("/api/kpis?scope=queue&window=30m&key=cards")).json()

    assert [kpi_record(), cards] == both["records"]
    assert [cards] == one["records"]


async def test_records_about_persons_are_not_served(serve, sink):
    """The wallboard has no list of agents, by whatever scope one asks."""
    sink.write(*kpi_columns([kpi_record(scope="agent", key={"agent_id": "a1"})]))
    client = await serve()

    response = await client.get("/api/kpis?scope=agent")

    assert (403, "scope agent: about persons, not served here\n") == (
        response.status,
        await response.text(),
    )


@pytest.mark.parametrize(
    ("path", "status", "text"),
    [
        ("/boards/none", 404, "board none: not found, expected one of default, today"),
        ("/api/kpis?window=3x", 400, "window: 3x: expected a duration such as 30s, 15m or 1h"),
        ("/api/actions?limit=x", 400, "limit: x, expected 1 to 1000"),
    ],
)
async def test_what_cannot_be_shown_is_told(serve, path, status, text):
    """What was found, and what was expected."""
    client = await serve()

    response = await client.get(path)

    assert (status, text) == (response.status, (await response.text()).strip())


async def test_a_silent_redis_is_told_to_pages_and_programs(serve):
    """The page learns since when; the API answers 503; the server itself is healthy."""
    client = await serve("redis://127.0.0.1:1/0")

    _, data = await changes(await client.get("/events/default"))

    assert COMPUTED_MS + 61_000 == data["parts"]["head"]["redis_silent_since"]
    statuses = [
        (await client.get(p)).status for p in ("/api/boards/default", "/readyz", "/healthz")
    ]
    assert [503, 503, 200] == statuses


async def test_a_registry_that_does_not_answer_is_told_like_a_silent_redis(redis_url, sink):
    """Nothing is known of the records then; none is passed over."""
    sink.write(*kpi_columns([overall(81.0)]))
    codec = Codec(
        "kpi-record",
        ConfluentRegistry("http://127.0.0.1:1", config={"max.retries": 0}),
        "andon.kpis.v1",
    )
    board = Wallboard(redis.asyncio.Redis.from_url(redis_url), BOARDS, codec)

    async with TestClient(TestServer(board.application())) as client:
        answer = await client.get("/api/boards/default")

        assert 503 == answer.status


async def test_the_page_needs_nothing_from_elsewhere(serve):
    """Every answer forbids foreign sources, and no file of the page names one."""
    client = await serve()

    for path in ("/", "/boards/default", "/static/board.js", "/static/board.css", "/api/boards"):
        response = await client.get(path)
        assert 200 == response.status
        assert response.headers["Content-Security-Policy"].startswith("default-src 'none';")
    foreign = [
        f.name
        for f in STATIC.iterdir()
        if "//" in f.read_text().replace("http://www.w3.org", "") and f.suffix in (".html", ".css")
    ]
    assert [] == foreign
