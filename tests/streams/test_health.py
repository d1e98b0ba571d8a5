"""What an orchestrator asks a worker."""

import pytest
from aiohttp import ClientSession

from streams.health import PortTakenError, serve
from streams.metrics import Metrics


async def get(port: int, path: str) -> tuple[int, str, str]:
    async with (
        ClientSession() as session,
        session.get(f"http://127.0.0.1:{port}{path}") as response,
    ):
        return response.status, response.content_type, await response.text()


async def test_ready_says_why_not() -> None:
    """A worker that recovers is healthy and not ready, and tells what it waits for."""
    state = (False, "recovering andon.partials 3")
    async with serve("127.0.0.1", 0, lambda: state) as port:
        assert (200, "application/json", '{"healthy": true}') == await get(port, "/healthz")
        body = '{"ready": false, "reason": "recovering andon.partials 3"}'
        assert (503, "application/json", body) == await get(port, "/readyz")

        state = (True, "8 partitions")
        body = '{"ready": true, "reason": "8 partitions"}'
        assert (200, "application/json", body) == await get(port, "/readyz")


async def test_metrics_are_those_of_the_worker() -> None:
    """A scrape shows the present values in Prometheus' text form."""
    metrics = Metrics()
    async with serve("127.0.0.1", 0, lambda: (True, ""), metrics) as port:
        metrics.lag("topic", 1, 42)
        status, content_type, text = await get(port, "/metrics")

    assert (200, "text/plain") == (status, content_type)
    assert 'andon_lag_records{partition="1",topic="topic"} 42.0' in text


async def test_a_port_in_use_is_told_with_the_way_out() -> None:
    """Two workers on one machine: the second says which setting to change."""
    async with serve("127.0.0.1", 0, lambda: (True, "")) as port:
        with pytest.raises(PortTakenError, match=f"metrics_port: 127.0.0.1:{port}") as told:
            async with serve("127.0.0.1", port, lambda: (True, "")):
                pass

    assert "ANDON_METRICS_PORT" in told.value.next_step


async def test_the_port_is_free_again_afterwards() -> None:
    """A worker that starts anew at once finds its port."""
    async with serve("127.0.0.1", 0, lambda: (True, "")) as port:
        pass
    async with serve("127.0.0.1", port, lambda: (True, "")) as again:
        assert port == again
