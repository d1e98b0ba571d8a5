"""The latest KPI records in a real Redis."""

import itertools
from collections.abc import Iterator
from typing import Any

import pytest
import redis

from sinks.keys import version_field
from sinks.redis_kpis import RETENTION, RedisKpis, Written
from tests.sinks.builders import (
    COMPUTED_MS,
    KPI_CODEC,
    MINUTE_MS,
    TEN_OCLOCK_MS,
    kpi,
    kpi_columns,
    kpi_record,
    record_name,
)

BILLING = "queue|billing|TUMBLING:1800000"
FIVE_BY_ONE = ("HOPPING", 5 * MINUTE_MS)
DAY = ("DAY", 24 * 60 * MINUTE_MS)


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_url) as client:
        yield client


def write(client: redis.Redis, *records: dict[str, Any]) -> Written:
    return RedisKpis(client).write(*kpi_columns(records))


def held(client: redis.Redis, record: dict[str, Any]) -> Any:
    series, _, start = record_name(record).rpartition("|")
    value = client.hget(f"andon:kpi:{series}", start)
    return KPI_CODEC.decode(value) if value else None


def history(client: redis.Redis, series: str) -> list[dict[str, Any]]:
    entries = [
        (*entry.split(b" ", 1), start)
        for entry, start in client.zrange(f"andon:history:{series}", 0, -1, withscores=True)
    ]
    records = [KPI_CODEC.decode(value) for _, value, _ in entries]
    assert [(r["version"], r["window"]["start_time"]) for r in records] == [
        (int(version), start) for version, _, start in entries
    ]
    return records


def everything(client: redis.Redis) -> dict[bytes, bytes]:
    return {key: client.dump(key) for key in client.keys("*")}


def test_a_record_is_kept_as_it_came(client):
    """What Redis holds is the value of the topic, byte for byte."""
    record = kpi_record(kpi("service_level", 81.25), kpi("csat"), watermark=None)

    write(client, record)

    start = str(TEN_OCLOCK_MS)
    assert KPI_CODEC.encode(record) == client.hget(f"andon:kpi:{BILLING}", start)


@pytest.mark.parametrize("order", list(itertools.permutations([1, 2, 3])))
def test_the_highest_version_stays_in_whatever_order_they_come(client, order):
    """Three versions of one record, one batch each: the third is what is left."""
    records = {v: kpi_record(kpi("service_level", float(v)), version=v) for v in (1, 2, 3)}

    for version in order:
        write(client, records[version])

    assert records[3] == held(client, records[3])


def test_only_the_newest_of_a_batch_is_written(client):
    """Versions of one record in one batch count as superseded, save the last."""
    records = [kpi_record(version=version) for version in (2, 3, 1)]

    assert Written(applied=1, superseded=2) == write(client, *records)
    assert 3 == held(client, records[0])["version"]


def test_versions_are_compared_as_whole_numbers_of_64_bits(client):
    """A rebuild epoch lifts versions beyond what a double can tell apart."""
    older, newer = (kpi_record(version=(3 << 60) + low) for low in (0, 1))

    write(client, newer)

    assert Written(superseded=1) == write(client, older)
    assert newer == held(client, newer)


def test_writing_twice_changes_nothing(client):
    """After a replay of the same records every key is as it was."""
    records = [
        kpi_record(start_ms=TEN_OCLOCK_MS + i * MINUTE_MS, window=FIVE_BY_ONE) for i in range(9)
    ]
    write(client, *records)
    before = everything(client)

    assert Written(superseded=9) == write(client, *records)
    assert before == everything(client)


def test_windows_further_back_than_their_length_leave_for_the_history(client):
    """Of a five minute window by the minute six starts are at hand, those before are history.

    Each window is in one of the two places.
    """
    records = [
        kpi_record(start_ms=TEN_OCLOCK_MS + i * MINUTE_MS, window=FIVE_BY_ONE) for i in range(9)
    ]

    write(client, *records)

    assert records[3:] == [r for r in records if held(client, r)]
    assert records[:3] == history(client, "queue|billing|HOPPING:300000")


def test_what_leaves_is_the_record_that_was_held_last(client):
    """Windows end in batches of their own, and what is remembered is the newest version of each."""
    starts_ms = [TEN_OCLOCK_MS + i * 30 * MINUTE_MS for i in range(3)]
    records = [
        kpi_record(kpi("service_level", value), start_ms=start_ms, version=version)
        for start_ms in starts_ms
        for version, value in ((1, 50.0), (2, 70.12345))
    ]
    for record in records:
        write(client, record)

    assert [records[1]] == history(client, BILLING)


def test_versions_lie_beside_their_records(client):
    """Each window that is at hand has its version there, and those that have left have none."""
    old, new = kpi_record(), kpi_record(start_ms=TEN_OCLOCK_MS + 120 * MINUTE_MS, version=7)
    write(client, old, new)

    start_ms = new["window"]["start_time"]
    told = client.hgetall(f"andon:kpi:{BILLING}")
    assert b"7" == told[version_field(start_ms).encode()]
    assert {b"%d" % start_ms, b"v%d" % start_ms, b"renewed"} == told.keys()


def test_a_series_that_is_lost_comes_again(client):
    """No version is left without its record."""
    record = kpi_record(version=2)
    write(client, record)
    client.delete(f"andon:kpi:{BILLING}")

    assert Written(applied=1) == write(client, record)
    assert record == held(client, record)


def test_a_window_of_the_past_does_not_come_back(client):
    """A revision of a window that is no longer held whole changes the history alone."""
    now = kpi_record()
    past = kpi_record(kpi("service_level", 50.0), start_ms=TEN_OCLOCK_MS - 120 * MINUTE_MS)
    write(client, past, now)
    revised = past | {"version": 2, "kpis": [kpi("service_level", 60.0)]}

    assert Written(applied=1) == write(client, revised)
    assert held(client, past) is None
    assert [revised] == history(client, BILLING)


def test_an_older_version_of_a_window_of_the_past_changes_nothing(client):
    """Versions are compared in the history as well, all 64 bits of them."""
    past_ms = TEN_OCLOCK_MS - 120 * MINUTE_MS
    older, newer = (kpi_record(start_ms=past_ms, version=(3 << 60) + low) for low in (0, 1))
    write(client, newer, kpi_record())

    assert Written(superseded=1) == write(client, older)
    assert [newer] == history(client, BILLING)


def test_the_history_ends_where_its_kind_says(client):
    """Sixty hopping windows are remembered, the oldest goes first."""
    records = [
        kpi_record(start_ms=TEN_OCLOCK_MS + i * MINUTE_MS, window=FIVE_BY_ONE) for i in range(70)
    ]

    write(client, *records)

    assert records[4:64] == history(client, "queue|billing|HOPPING:300000")


def test_persons_have_no_history(client):
    """Series of agents, of which there are thousands, keep no records for sparklines."""
    for start_ms in (TEN_OCLOCK_MS, TEN_OCLOCK_MS + 120 * MINUTE_MS):
        write(client, kpi_record(scope="agent", key={"agent_id": "a1"}, start_ms=start_ms))

    assert [] == client.keys("andon:history:*")


@pytest.mark.parametrize("window", [FIVE_BY_ONE, ("TUMBLING", 30 * MINUTE_MS), DAY])
def test_series_end_by_themselves(client, window):
    """Whatever is no longer written goes after the time that its kind of window says."""
    write(client, kpi_record(window=window))
    write(client, kpi_record(window=window, start_ms=TEN_OCLOCK_MS + 3 * DAY[1]))

    ttl_ms = RETENTION[window[0]].ttl_ms
    name = f"queue|billing|{window[0]}:{window[1]}"
    for key in (f"andon:kpi:{name}", f"andon:history:{name}"):
        assert ttl_ms - 60_000 < client.pttl(key) <= ttl_ms


@pytest.mark.parametrize(
    ("later_ms", "renewed"), [(59_999, False), (60_000, True), (-60_000, True)]
)
def test_a_record_prolongs_the_life_of_its_series_once_a_minute(client, later_ms, renewed):
    """And its member's place in the list, by computed time; also when a clock was put back."""
    write(client, kpi_record())
    client.pexpire(f"andon:kpi:{BILLING}", 1_000_000)

    write(client, kpi_record(version=2, computed_time=COMPUTED_MS + later_ms))

    assert renewed == (client.pttl(f"andon:kpi:{BILLING}") > 1_000_000)
    seen_ms = client.zscore("andon:members:queue|TUMBLING:1800000", "billing")
    assert COMPUTED_MS + (later_ms if renewed and later_ms > 0 else 0) == seen_ms


def test_heads_tell_how_far_all_keys_of_a_scope_have_come(client):
    """Newest start, computed time and watermark of any key; a late record takes nothing back."""
    cards = {"queue_id": "cards"}
    write(client, kpi_record(), kpi_record(key=cards, start_ms=TEN_OCLOCK_MS + 30 * MINUTE_MS))
    write(client, kpi_record(version=2, computed_time=COMPUTED_MS + 5))

    head = b"queue|TUMBLING:1800000"
    assert {head: b"%d" % (TEN_OCLOCK_MS + 30 * MINUTE_MS)} == client.hgetall("andon:heads")
    assert {head: b"%d" % (COMPUTED_MS + 5)} == client.hgetall("andon:fresh")
    assert {head: b"%d" % (TEN_OCLOCK_MS + 45 * MINUTE_MS)} == client.hgetall("andon:watermarks")
    assert [b"billing", b"cards"] == sorted(
        client.zrange("andon:members:queue|TUMBLING:1800000", 0, -1)
    )


def test_changed_records_are_announced_and_only_those(client):
    """A subscriber of a scope and window gets the keys of the records that were replaced."""
    same, other = kpi_record(), kpi_record(key={"queue_id": "cards"})
    write(client, same)
    with client.pubsub(ignore_subscribe_messages=True) as channel:
        channel.subscribe("andon:changed:queue|TUMBLING:1800000")
        channel.get_message(timeout=5)
        write(client, same, other)

        message = channel.get_message(timeout=5)

    assert record_name(other).encode() == message["data"]


def test_a_key_with_a_line_break_stays_one_record(client):
    """Columns travel as lines; a line break in a queue's name does not shift them."""
    record = kpi_record(key={"queue_id": "a\nb"})

    assert Written(applied=1) == write(client, record)
    assert [b"a%0Ab"] == client.zrange("andon:members:queue|TUMBLING:1800000", 0, -1)
