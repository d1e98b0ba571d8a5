"""What a board's reader finds in a real Redis."""

import pytest
import redis
import redis.asyncio

from sinks.redis_kpis import RedisKpis
from sinks.wallboard.boards import Board
from sinks.wallboard.snapshot import Reader
from tests.sinks.builders import KPI_CODEC, MINUTE_MS, TEN_OCLOCK_MS, kpi, kpi_columns, kpi_record

TILE = {"kpi": "service_level", "window": "30m", "better": "higher"}


async def test_a_line_has_the_windows_that_are_held_whole_and_those_before_them(redis_url):
    """Nine windows of five minutes by the minute, six of them at hand; each is there once.

    No wall shows more than four digits of those before.
    """
    board = Board.model_validate({"title": "Board", "tiles": [TILE], "sparkline": "5m/1m"})
    records = [
        kpi_record(
            kpi("service_level", i + 0.123456),
            scope="overall",
            window=("HOPPING", 5 * MINUTE_MS),
            start_ms=TEN_OCLOCK_MS + i * MINUTE_MS,
        )
        for i in range(9)
    ]
    with redis.Redis.from_url(redis_url) as client:
        RedisKpis(client).write(*kpi_columns(records))

    async with redis.asyncio.Redis.from_url(redis_url) as client:
        found = await Reader(client, KPI_CODEC).board(board, None)

    assert [
        {
            "version": 1,
            "start_time": TEN_OCLOCK_MS + i * MINUTE_MS,
            "kpis": {"service_level": i + (0.1235 if i < 3 else 0.123456)},
        }
        for i in range(9)
    ] == found.history["overall||HOPPING:300000"]


@pytest.mark.parametrize("value", [b'{"version":1}', b"\0\0\0\0\1new", b""])
async def test_a_record_that_cannot_be_read_is_none(redis_url, value):
    """What another version of deliver has left hides no other record; a log tells of it."""
    board = Board.model_validate({"title": "Board", "tiles": [TILE]})
    before = kpi_record(scope="overall")
    unreadable = kpi_record(scope="overall", start_ms=TEN_OCLOCK_MS + 30 * MINUTE_MS)
    with redis.Redis.from_url(redis_url) as client:
        RedisKpis(client).write(*kpi_columns([before, unreadable]))
        client.hset(
            "andon:kpi:overall||TUMBLING:1800000", unreadable["window"]["start_time"], value
        )

    async with redis.asyncio.Redis.from_url(redis_url) as client:
        found = await Reader(client, KPI_CODEC).board(board, None)

    assert {("overall||TUMBLING:1800000", TEN_OCLOCK_MS): before} == found.records
