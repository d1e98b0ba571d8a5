"""Consumers of Faust's in apps that never start: ours, and the plain one."""

from typing import Any

import faust
import pytest
from aiokafka.consumer import fetcher
from faust.transport.drivers import aiokafka as driver

from streams.columnar import Consumer, ConsumerThread, Transport
from tests.streams.transport import T0, T1, T2, FakeClient, Hooked


@pytest.fixture
def worker() -> Hooked:
    return Hooked()


@pytest.fixture
def consumer(worker: Hooked, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> Consumer:
    """Our consumer in an app that never starts, with its flow open."""
    monkeypatch.setattr(fetcher, "PartitionRecords", fetcher.PartitionRecords)
    app = faust.App(
        "andon-test",
        broker="andon://127.0.0.1:9",
        datadir=str(tmp_path),
        table_standby_replicas=0,
        consumer_auto_offset_reset="earliest",
    )
    app.hooks = worker.hooks  # type: ignore[attr-defined]
    app.consumer_generation_id = 7
    assert isinstance(app.transport, Transport)
    made = app._new_consumer()
    assert isinstance(made, Consumer)
    made.flow_active = True
    return made


@pytest.fixture
def thread(consumer: Consumer, monkeypatch: pytest.MonkeyPatch) -> ConsumerThread:
    """The consumer's thread, whose calls are made at once."""

    async def at_once(fun: Any, *args: Any, **kwargs: Any) -> Any:
        return await fun(*args, **kwargs)

    made = consumer._thread
    monkeypatch.setattr(made, "call_thread", at_once)
    return made


@pytest.fixture
async def client(thread: ConsumerThread) -> FakeClient:
    """The client of the thread: three partitions are assigned."""
    made = FakeClient(T0, T1, T2)
    thread._consumer = made
    return made


@pytest.fixture
async def plain(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> driver.Consumer:
    """Faust's own consumer, as an app has it that chooses nothing."""

    async def at_once(fun: Any, *args: Any, **kwargs: Any) -> Any:
        return await fun(*args, **kwargs)

    app = faust.App("plain-test", broker="kafka://127.0.0.1:9", datadir=str(tmp_path))
    app.consumer_generation_id = 7
    made = app._new_consumer()
    assert type(made) is driver.Consumer
    made.flow_active = True
    made._thread._consumer = FakeClient(T0, T1, T2)
    monkeypatch.setattr(made._thread, "call_thread", at_once)
    return made
