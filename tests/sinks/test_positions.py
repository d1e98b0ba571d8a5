"""How far Redis has come, as Redis itself says."""

from collections.abc import Iterator

import pytest
import redis

from sinks.keys import FORM
from sinks.positions import Partition, RedisPositions, Step

P0, P1 = Partition("andon.kpis.v1", 0), Partition("andon.kpis.v1", 1)


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_url) as client:
        yield client


@pytest.fixture
def positions(client: redis.Redis) -> RedisPositions:
    return RedisPositions(client)


def test_an_empty_redis_has_no_positions(positions):
    """None is not 0: a topic's first offset may be any."""
    assert {P0: None, P1: None} == positions.read([P0, P1])


def test_a_step_from_where_redis_stands_is_taken(positions):
    """Each partition for itself."""
    assert {} == positions.advance([Step(P0, None, 10), Step(P1, None, 7)])
    assert {} == positions.advance([Step(P0, 10, 12)])

    assert {P0: 12, P1: 7} == positions.read([P0, P1])


def test_a_step_from_elsewhere_is_refused_and_told(positions):
    """Redis as it was an hour ago says where to go on; the other partition goes its way."""
    positions.advance([Step(P0, None, 10), Step(P1, None, 7)])

    assert {P0: 10} == positions.advance([Step(P0, 20, 30), Step(P1, 7, 8)])
    assert {P0: 10, P1: 8} == positions.read([P0, P1])


def test_a_step_of_no_length_sees_that_redis_was_emptied(client, positions):
    """Also while no records come."""
    positions.advance([Step(P0, None, 10)])
    client.flushdb()

    assert {P0: None} == positions.advance([Step(P0, 10, 10)])


def test_another_clusters_records_are_removed_and_nobody_elses_keys(client, positions):
    """Versions of two clusters cannot be compared; keys without our prefix are not ours."""
    assert positions.claim("cluster-1") is None
    client.mset({"andon:action:a1": "{}", "theirs": "1"})

    assert positions.claim("cluster-1") is None
    assert f"{FORM} cluster-1" == positions.claim("cluster-2")
    assert [b"andon:delivery:source", b"theirs"] == sorted(client.keys())


def test_records_of_another_form_are_removed(client, positions):
    """What an older version wrote named its cluster alone; nobody could read it any more."""
    client.mset({"andon:delivery:source": "cluster-1", "andon:kpi:overall||DAY:86400000": "{}"})

    assert positions.claim("cluster-1") == "cluster-1"
    assert [b"andon:delivery:source"] == client.keys()
    assert positions.claim("cluster-1") is None
