"""The Faust app of a worker: one agent for the inputs, one for the partials.

Both do the same, and no more: hand the batch to the worker, which folds and merges at the flush.
"""

from __future__ import annotations

import uuid
from typing import Any

import faust
import mode
from faust.tables import TableManager

from schemas.catalogue import PARTIALS
from streams.columnar import BatchSchema, Hooks
from streams.settings import Settings
from streams.worker import Worker


class NoTables(TableManager):
    """Faust's tables, of which there are none: without the second that it waits for them."""

    async def on_start(self) -> None:
        """Say that all tables are known."""
        await self._update_channels()
        await self.recovery.start()


class App(faust.App):
    """A Faust app that knows what the batch transport asks for."""

    hooks: Hooks


def create_app(settings: Settings, worker: Worker) -> App:
    """Return the app whose agents feed the worker."""
    app = App(
        settings.application_id,
        broker=settings.faust_broker(),
        broker_credentials=settings.faust_credentials(),
        broker_client_id=f"{settings.application_id}-{uuid.uuid4().hex[:8]}",
        broker_session_timeout=settings.session_timeout_ms / 1000,
        broker_heartbeat_interval=settings.heartbeat_interval_ms / 1000,
        broker_max_poll_records=settings.fetch_max_records,
        consumer_max_fetch_size=4 << 20,
        consumer_auto_offset_reset="earliest",
        store="memory://",
        # No Faust tables, no leader topic: with a standby replica Faust would use its own assignor.
        table_standby_replicas=0,
        TableManager=NoTables,
        topic_disable_leader=True,
        topic_allow_declare=False,
        # Faust's wait for events that are held has no time limit.
        stream_wait_empty=False,
        web_enabled=False,
        datadir=str(settings.state_dir / "faust"),
    )
    app.hooks = worker.hooks
    inputs = app.topic(*worker.definitions.inputs, schema=BatchSchema())
    partials = app.topic(PARTIALS, schema=BatchSchema())

    @app.agent(inputs, concurrency=1, supervisor_strategy=mode.CrashingSupervisor)
    async def fold_events_into_partials(batches: Any) -> None:
        async for event in batches.noack().events():
            worker.collect(event.value)

    @app.agent(partials, concurrency=1, supervisor_strategy=mode.CrashingSupervisor)
    async def merge_partials_into_kpis(batches: Any) -> None:
        async for event in batches.noack().events():
            worker.collect(event.value)

    @app.on_rebalance_complete.connect  # type: ignore[arg-type]
    async def take_over_partitions(app: Any, **_: Any) -> None:
        await worker.take_over(app.consumer)

    return app
