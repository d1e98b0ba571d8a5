"""`andon wallboard`: the boards as a live page, over Redis alone."""

import os
from pathlib import Path
from typing import Annotated

import redis.asyncio
import typer
from aiohttp import web

from sinks.wallboard.boards import load_boards
from streams.cli import CommandError
from streams.cli.common import say
from streams.settings import load_settings

SHIPPED_BOARDS = Path(__file__).resolve().parents[2] / "deploy" / "boards"


def wallboard(
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 for all.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65_535, help="0: any free port.")] = 8080,
    boards: Annotated[
        Path, typer.Option(help="Directory of board files.", show_default="the shipped ones")
    ] = SHIPPED_BOARDS,
    notice: Annotated[str, typer.Option(help="Shown beside every title: generated data.")] = "",
) -> None:
    """Show the boards; add ?kiosk to the address for a wall, ?theme=light for a bright room.

    Who reaches the port sees the numbers: put it behind your own proxy where that matters.

    Example: `andon wallboard --port 8080`, then http://127.0.0.1:8080/?kiosk
    """
    import asyncio

    # Read when polars is imported: it decodes a few hundred records at a time here.
    os.environ.setdefault("POLARS_MAX_THREADS", "1")
    from schemas.catalogue import KPIS
    from schemas.codec import Codec
    from schemas.registry import open_registry
    from sinks.wallboard.server import Wallboard
    from streams.logging import configure_logging

    settings = load_settings()
    configure_logging(settings.log_format, settings.log_level)
    loaded = {
        name: board.model_copy(update={"notice": notice or board.notice})
        for name, board in load_boards(boards).items()
    }
    client = redis.asyncio.Redis.from_url(settings.redis_url, socket_connect_timeout=5)
    codec = Codec("kpi-record", open_registry(settings.schema_registry_url), KPIS)
    asyncio.run(_serve(Wallboard(client, loaded, codec).application(), host, port))


async def _serve(application: web.Application, host: str, port: int) -> None:
    import asyncio
    import signal

    runner = web.AppRunner(application, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    try:
        await web.TCPSite(runner, host, port).start()
        say(f"wallboard: http://{host}:{runner.addresses[0][1]}")
        await stopping.wait()
    except OSError as problem:
        raise CommandError(
            f"{host}:{port}: {problem.strerror}", "choose another with --host and --port"
        ) from problem
    finally:
        await runner.cleanup()
