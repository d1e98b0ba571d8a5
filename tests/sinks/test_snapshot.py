"""What a board's reader finds in a real Redis."""

import redis
import redis.asyncio

from sinks.redis_kpis import RedisKpis
from sinks.wallboard.boards import Board
from sinks.wallboard.snapshot import Reader
from tests.sinks.builders import MINUTE_MS, TEN_OCLOCK_MS, kpi, kpi_columns, kpi_record


async def test_a_line_has_the_windows_that_are_held_whole_and_those_before_them(redis_url):
    """Nine windows of five minutes by the minute, six of them records still; each is there once."""
    tile = {"kpi": "service_level", "window": "30m", "better": "higher"}
    board = Board.model_validate({"title": "Board", "tiles": [tile], "sparkline": "5m/1m"})
    records = [
        kpi_record(
            kpi("service_level", float(i)),
            scope="overall",
            window=("HOPPING", 5 * MINUTE_MS),
            start_ms=TEN_OCLOCK_MS + i * MINUTE_MS,
        )
        for i in range(9)
    ]
    with redis.Redis.from_url(redis_url) as client:
        RedisKpis(client).write(*kpi_columns(records))

    async with redis.asyncio.Redis.from_url(redis_url, decode_responses=True) as client:
        found = await Reader(client).board(board, None)

    assert [
        {
            "version": 1,
            "start_time": TEN_OCLOCK_MS + i * MINUTE_MS,
            "kpis": {"service_level": float(i)},
        }
        for i in range(9)
    ] == found.history["overall||HOPPING:300000"]
