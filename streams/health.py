"""What an orchestrator asks a worker: /metrics, /healthz and /readyz, in the worker's own loop."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Protocol

from aiohttp import web

from streams.metrics import CONTENT_TYPE, METRICS


class Told(Protocol):
    """Metrics of a process."""

    def text(self) -> bytes:
        """Return everything in Prometheus' text form."""


class PortTakenError(Exception):
    """The metrics address cannot be listened on."""

    next_step = "choose another with ANDON_METRICS_HOST and ANDON_METRICS_PORT (0: any free port)"


@asynccontextmanager
async def serve(
    host: str,
    port: int,
    ready: Callable[[], tuple[bool, str]],
    metrics: Told = METRICS,
) -> AsyncIterator[int]:
    """Answer on `host`:`port` (0: a free one) while the context is open; its value is the port.

    `/healthz` is 200 whenever the event loop turns: restart a worker that does not answer.
    `/readyz` is 200 or 503 by `ready()`, which returns (ready?, why): a worker without its state
    is healthy and not ready. `/metrics` is Prometheus' text. Raises PortTakenError.
    """
    runner = web.AppRunner(_application(ready, metrics), access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, host, port).start()
        except OSError as error:
            raise PortTakenError(f"metrics_port: {host}:{port} ({error.strerror})") from error
        yield int(runner.addresses[0][1])
    finally:
        await runner.cleanup()


def _application(ready: Callable[[], tuple[bool, str]], metrics: Told) -> web.Application:
    async def show_metrics(_: web.Request) -> web.Response:
        return web.Response(body=metrics.text(), headers={"Content-Type": CONTENT_TYPE})

    async def healthz(_: web.Request) -> web.Response:
        return web.json_response({"healthy": True})

    async def readyz(_: web.Request) -> web.Response:
        is_ready, reason = ready()
        body = {"ready": is_ready, "reason": reason}
        return web.json_response(body, status=200 if is_ready else 503)

    application = web.Application()
    application.router.add_get("/metrics", show_metrics)
    application.router.add_get("/healthz", healthz)
    application.router.add_get("/readyz", readyz)
    return application
