"""The open actions in a real Redis."""

import json
from collections.abc import Iterator

import pytest
import redis

from sinks.redis_actions import RedisActions
from tests.sinks.builders import TEN_OCLOCK_MS, action, action_columns


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_url) as client:
        yield client


def test_open_actions_are_listed_by_event_time_in_the_contracts_form(client):
    """Two actions, the later one first in the topic; each is found by its id, as it was sent."""
    late, early = action("late", event_time=TEN_OCLOCK_MS + 1), action("early")

    RedisActions(client).write(action_columns([late, early]))

    assert [b"early", b"late"] == client.zrange("andon:actions:open", 0, -1)
    assert late == json.loads(client.get("andon:action:late"))


def test_a_withdrawn_action_is_not_open(client):
    """Whether it is withdrawn in the same batch or in a later one."""
    sink = RedisActions(client)
    gone = [action(name, status="WITHDRAWN") for name in ("a1", "a2")]

    sink.write(action_columns([action("a1"), action("a2"), action("a3"), gone[0]]))
    sink.write(action_columns([gone[1]]))

    assert [b"a3"] == client.zrange("andon:actions:open", 0, -1)


def test_writing_twice_lists_an_action_once(client):
    """The id makes the second delivery harmless."""
    for _ in range(2):
        RedisActions(client).write(action_columns([action("a1")]))

    assert [b"a1"] == client.zrange("andon:actions:open", 0, -1)


def test_the_oldest_leave_a_full_list(client):
    """With room for two, the two newest by event time stay."""
    actions = [action(f"a{i}", event_time=TEN_OCLOCK_MS + i) for i in (3, 1, 2)]

    RedisActions(client, limit=2).write(action_columns(actions))

    assert [b"a2", b"a3"] == client.zrange("andon:actions:open", 0, -1)
