"""What a run is seen through: samples of a process, and what readers note."""

import pytest
import redis

from sinks.keys import DEFAULT_KEYS, version_field
from streams.bench.watch import ProcessSamples, shown_in_redis
from tests.waiting import wait_until

HEAD = "queue|DAY:86400000"


@pytest.fixture
def client(redis_url):
    with redis.Redis.from_url(redis_url) as connected:
        yield connected


def test_cpu_between_two_moments_is_read_between_the_samples():
    """A moment seldom falls on a sample: the time in between is shared out evenly."""
    samples = ProcessSamples()
    samples.add(10.0, 1.0, 5_000_000)
    samples.add(11.0, 2.0, 9_000_000)
    samples.add(13.0, 2.0, 7_000_000)

    assert 0.5 == samples.cpu_between_s(10.5, 12.0)
    assert 9.0 == samples.peak_rss_mb
    assert 8.0 == samples.rss_mb_at(12.0)


def test_a_reader_of_redis_notes_the_versions_that_are_there_when_it_asks(client, redis_url):
    """A record that is gone by then was not seen."""
    client.hset(DEFAULT_KEYS.records("queue|a|DAY:86400000"), version_field(0), 281474976710657)
    told = "queue|a|DAY:86400000|0\nqueue|b|DAY:86400000|0"

    with shown_in_redis(redis_url, [HEAD]) as shown:
        wait_until(lambda: client.publish(DEFAULT_KEYS.changed(HEAD), told) == 1)
        wait_until(lambda: len(shown.name) == 1)

    assert (["queue|a|DAY:86400000|0"], [281474976710657]) == (shown.name, shown.version)
