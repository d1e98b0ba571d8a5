"""What all tests share: a real Kafka and a real Valkey, and clean names.

Each test process starts one of both, and ends it with the run.

With ANDON_KAFKA_BOOTSTRAP_SERVERS or ANDON_REDIS_URL set, those are used instead.
"""

import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis
from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient, NewTopic

from deploy.local.stack import Stack, StackAddresses
from streams.settings import Settings, load_settings
from tests.waiting import wait_until

_STACK_FIXTURES = frozenset({"stack", "kafka", "redis_url", "settings", "clean_kafka", "new_topic"})


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what needs a server, so that `-m "not integration"` is the quick half."""
    for item in items:
        if _STACK_FIXTURES.intersection(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.integration)


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StackAddresses]:
    """Addresses of the Kafka and the Valkey of this test process, up until it ends."""
    state_dir = tmp_path_factory.mktemp("stack")
    settings = load_settings({**os.environ, "ANDON_STATE_DIR": str(state_dir)})
    with Stack.of(settings).bound() as addresses:
        yield addresses


@pytest.fixture(scope="session")
def kafka(stack: StackAddresses) -> str:
    """Bootstrap servers of a running Kafka."""
    return stack.bootstrap_servers


@pytest.fixture
def redis_url(stack: StackAddresses) -> str:
    """URL of an empty Redis database; skips where an operator's own database holds anything."""
    client = redis.Redis.from_url(stack.redis_url)
    if load_settings().own_redis and client.dbsize():
        pytest.skip("the database of ANDON_REDIS_URL is not empty, and is not ours to empty")
    client.flushdb()
    client.close()
    return stack.redis_url


@pytest.fixture
def unique() -> Callable[[str], str]:
    """Return a name nobody else uses: `unique("orders")` is `orders-5f0c…`."""
    return lambda stem: f"{stem}-{uuid.uuid4().hex[:12]}"


@pytest.fixture
def settings(
    stack: StackAddresses, tmp_path: Path, unique: Callable[[str], str]
) -> Callable[..., Settings]:
    """Return a maker of settings for the running stack, with a state directory of its own."""

    def make(**changes: object) -> Settings:
        return Settings.model_validate(
            {
                "kafka_bootstrap_servers": stack.bootstrap_servers,
                "redis_url": stack.redis_url,
                "state_dir": tmp_path / "state",
                "application_id": unique("andon"),
                **changes,
            }
        )

    return make


@pytest.fixture(scope="session")
def kafka_admin(kafka: str) -> AdminClient:
    """An administrator of the running Kafka."""
    return AdminClient({"bootstrap.servers": kafka})


@pytest.fixture
def new_topic(
    kafka_admin: AdminClient, unique: Callable[[str], str]
) -> Iterator[Callable[..., str]]:
    """Return a maker of topics: `new_topic(partitions=4, **{"cleanup.policy": "compact"})`.

    They are deleted after the test.
    """
    made: list[str] = []

    def make(stem: str = "topic", *, partitions: int = 1, **config: str) -> str:
        name = unique(stem)
        topic = NewTopic(name, partitions, config=config)
        kafka_admin.create_topics([topic])[name].result(30)
        _wait_for_topics(kafka_admin, lambda names: name in names)
        made.append(name)
        return name

    yield make
    if made:
        kafka_admin.delete_topics(made)


@pytest.fixture
def clean_kafka(kafka: str, kafka_admin: AdminClient) -> str:
    """Bootstrap servers of a Kafka without topics and groups, for tests of the topics by law.

    Skips on an operator's own Kafka, whose topics are not ours to delete.
    """
    if load_settings().own_kafka:
        pytest.skip("the Kafka of ANDON_KAFKA_BOOTSTRAP_SERVERS is not ours to empty")
    _delete_groups(kafka_admin)
    topics = [name for name in kafka_admin.list_topics(timeout=30).topics if name[:2] != "__"]
    if topics:
        for deleted in kafka_admin.delete_topics(topics).values():
            deleted.result(30)
        _wait_for_topics(kafka_admin, lambda names: not names.intersection(topics))
    return kafka


def _delete_groups(admin: AdminClient) -> None:
    """Delete all consumer groups; killed members are members until their session ends."""

    def are_gone() -> bool:
        groups = [group.group_id for group in admin.list_consumer_groups().result(30).valid]
        for deleted in admin.delete_consumer_groups(groups).values() if groups else ():
            try:
                deleted.result(30)
            except KafkaException as problem:
                if problem.args[0].code() != KafkaError.NON_EMPTY_GROUP:
                    raise
        return not groups

    wait_until(are_gone, "all consumer groups are empty and deleted")


def _wait_for_topics(admin: AdminClient, settled: Callable[[set[str]], bool]) -> None:
    """Wait for the metadata: the controller answers before the broker has heard of it."""
    wait_until(
        lambda: settled(set(admin.list_topics(timeout=30).topics)), "the broker's metadata follow"
    )
