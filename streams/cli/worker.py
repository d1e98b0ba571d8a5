"""`andon worker`: fold, merge, rules, on the partitions that the group gives us."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
from typing import Annotated, Any

import structlog
import typer

from streams.cli.common import require_kafka
from streams.definitions import Definitions, load_definitions
from streams.settings import Settings, load_settings

log = structlog.get_logger(__name__)

#: How long leaving the group may take at the end.
_LEAVE_S = 10.0

#: Objects that come and go before the collector looks for cycles. A flush makes two of each record
#: at once; by Python's defaults the collector took more time than reading them.
_COLLECT_EVERY = (200_000, 20, 20)


def worker(
    exit_when_idle: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS",
            help="End once everything has been quiet for so long, with all windows closed up to "
            "now: for scripts that have sent all they have.",
        ),
    ] = None,
) -> None:
    """Keep KPIs up to date and propose actions; any number of workers share the partitions.

    Example: `andon worker --exit-when-idle 5`
    """
    from streams.logging import configure_logging, log_start
    from streams.metrics import METRICS

    settings = load_settings()
    configure_logging(settings.log_format, settings.log_level)
    log_start("worker", settings)
    definitions = load_definitions(settings)
    require_kafka(settings)
    _require_topics(settings, definitions)
    METRICS.build(
        definitions=definitions.fingerprint,
        registry=definitions.registry.fingerprint[:12],
        rules=definitions.rules.fingerprint[:12],
    )
    code = asyncio.run(_run(settings, definitions, exit_when_idle))
    # Threads of clients that wait for a broker must not keep a finished process.
    os._exit(code)


def _require_topics(settings: Settings, definitions: Definitions) -> None:
    from confluent_kafka.admin import AdminClient

    from schemas.catalogue import describe_topics
    from streams.cli import CommandError

    admin = AdminClient(settings.kafka_client())
    reports = describe_topics(admin, definitions.catalogue)
    missing = [report.name for report in reports if report.state == "missing"]
    if missing:
        found = f"topics: {', '.join(missing)} are missing, expected all of the catalogue"
        raise CommandError(found, "run `andon topics create`, then start again")
    for report in reports:
        expected = definitions.catalogue[report.name].partitions
        if report.partitions != expected and report.state != "missing":
            # It decides where keys and state lie, and where each result goes.
            raise CommandError(
                f"topics.{report.name}: {report.partitions} partitions, expected {expected}",
                "set `partitions` in ANDON_TOPICS_FILE to what the broker has, for a topic and its "
                "changelog alike; where state was built with another number, run `andon rebuild`",
            )


async def _run(settings: Settings, definitions: Definitions, exit_when_idle: float | None) -> int:
    from streams.app import create_app
    from streams.health import serve
    from streams.transactions import KafkaTransactions
    from streams.worker import Worker

    def transactions(transactional_id: str) -> KafkaTransactions:
        return KafkaTransactions(
            settings.kafka_client(),
            settings.application_id,
            transactional_id,
            settings.transaction_timeout_ms,
        )

    flusher = Worker(settings, definitions, transactions)
    settings.state_dir.mkdir(parents=True, exist_ok=True)
    app = create_app(settings, flusher)
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_COLLECT_EVERY)
    loop = asyncio.get_running_loop()
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    async with serve(settings.metrics_host, settings.metrics_port, flusher.ready) as port:
        log.info("worker_started", metrics=f"http://{settings.metrics_host}:{port}/metrics")
        watching = asyncio.create_task(flusher.watchdog.run())
        flushing = asyncio.create_task(flusher.run(exit_when_idle))
        crashed = await _until_over(app, flusher, stopping)
        if not crashed and not flusher.failed.is_set():
            await flusher.stop()
            await _leave(app)
        flushing.cancel()
        watching.cancel()
    failed = crashed or flusher.failed.is_set()
    log.info("worker_ended", failed=failed)
    return 1 if failed else 0


async def _until_over(app: Any, flusher: Any, stopping: asyncio.Event) -> bool:
    """Run the app until it is to stop, is done, or has crashed; tell whether it crashed."""
    running = asyncio.create_task(app.start())
    waits = [
        asyncio.create_task(event.wait()) for event in (stopping, flusher.done, flusher.failed)
    ]
    ended = asyncio.create_task(app.wait_until_stopped())
    await asyncio.wait({*waits, ended, _failure(running)}, return_when=asyncio.FIRST_COMPLETED)
    if running.done() and running.exception() is not None:
        log.critical("app_failed", error=str(running.exception()), exc_info=running.exception())
        return True
    if app.crashed:
        log.critical("app_crashed", error=str(app.crash_reason), exc_info=app.crash_reason)
    return bool(app.crashed)


def _failure(running: asyncio.Task[None]) -> asyncio.Future[None]:
    """Return a future that is done when starting has failed: an app that is up keeps running."""
    failed = asyncio.get_running_loop().create_future()

    def look(task: asyncio.Task[None]) -> None:
        if not task.cancelled() and task.exception() is not None and not failed.done():
            failed.set_result(None)

    running.add_done_callback(look)
    return failed


async def _leave(app: Any) -> None:
    """Leave the group, so that others take our partitions at once."""
    try:
        async with asyncio.timeout(_LEAVE_S):
            await app.stop()
    except TimeoutError:
        log.warning("group_not_left", seconds=_LEAVE_S)
