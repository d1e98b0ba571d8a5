"""`andon deliver`: what the topics say into Redis, where the wallboard finds it."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import TYPE_CHECKING, Annotated

import structlog
import typer

from streams.cli.common import require_kafka
from streams.settings import Settings, load_settings

if TYPE_CHECKING:
    from sinks.delivery import Delivery, Target

log = structlog.get_logger(__name__)


def deliver(
    without_history: Annotated[
        list[str] | None,
        typer.Option(help="Scope whose values are kept for no sparklines; may be repeated."),
    ] = None,
) -> None:
    """Keep the newest KPI records and the open actions in Redis, until told to end.

    Any number of deliveries share the partitions. Redis may come back empty: it is filled again.

    Example: `andon deliver --without-history agent --without-history agent_item`
    """
    # Read when polars is imported, which nothing above does. While it makes one part Redis works on
    # another: a second thread took an eighth more CPU, and the core that Redis had use for.
    os.environ.setdefault("POLARS_MAX_THREADS", "1")
    from streams.logging import configure_logging, log_start

    settings = load_settings()
    configure_logging(settings.log_format, settings.log_level)
    log_start("deliver", settings)
    require_kafka(settings)
    delivery = _delivery(settings, frozenset(without_history or ("agent", "agent_item")))
    asyncio.run(_run(settings, delivery))


def delivery_group(settings: Settings) -> str:
    """Return the consumer group of this application's deliveries."""
    return f"{settings.application_id}-deliver"


def _delivery(settings: Settings, without_history: frozenset[str]) -> Delivery:
    import redis

    from schemas.catalogue import ACTIONS, KPIS
    from schemas.client import consumer_config
    from schemas.codec import Codec
    from schemas.registry import open_registry
    from sinks.delivery import ActionTarget, Delivery, KpiTarget
    from sinks.redis_actions import RedisActions
    from sinks.redis_kpis import RedisKpis

    client = redis.Redis.from_url(
        settings.redis_url, socket_timeout=30, socket_connect_timeout=5, health_check_interval=30
    )
    registry = open_registry(settings.schema_registry_url)
    kpis = RedisKpis(client, without_history=without_history)
    targets: dict[str, Target] = {
        KPIS: KpiTarget(Codec("kpi-record", registry, KPIS), kpis),
        ACTIONS: ActionTarget(Codec("action", registry, ACTIONS), RedisActions(client)),
    }
    config = consumer_config(
        settings.kafka_client(),
        group_id=delivery_group(settings),
        session_timeout_ms=settings.session_timeout_ms,
        heartbeat_interval_ms=settings.heartbeat_interval_ms,
        # Topics may be created after us.
        topic_metadata_refresh_interval_ms=5_000,
        queued_max_messages_kbytes=65_536,
    )
    return Delivery(config, targets, client)


async def _run(settings: Settings, delivery: Delivery) -> None:
    from streams.delivery_metrics import DeliveryMetrics
    from streams.health import serve

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, delivery.stop)
    metrics = DeliveryMetrics(delivery.progress)
    host, port = settings.metrics_host, settings.metrics_port
    async with serve(host, port, delivery.ready, metrics) as bound:
        log.info("delivery_started", metrics=f"http://{host}:{bound}/metrics", pid=os.getpid())
        await asyncio.to_thread(delivery.run)
    log.info("delivery_ended")
