"""What readers noted, joined with what the topics say: by place in Kafka, by version in Redis."""

import numpy as np
import polars as pl

from processors.kpis import load_registry
from schemas.catalogue import load_catalogue
from schemas.contract import load_contract
from streams.bench.scenarios import DEPLOY
from streams.bench.seen import Events, head_of, in_kafka, in_redis, visible_ms
from streams.bench.watch import Receptions, Shown

BILLING_DAY = "queue|billing|DAY:86400000|0"
VECTORS = {70: np.array([1, 0]), 71: np.array([2, 1])}
RECORDS = pl.DataFrame(
    {
        "version": [70, 71],
        "as_of_id": [70, 71],
        "partition": [3, 3],
        "offset": [10, 11],
        "append_ms": [1_000, 2_000],
        "name": [BILLING_DAY, BILLING_DAY],
        "of": ["billing", "billing"],
    }
)
EVENTS = Events(
    partition=np.array([0, 0, 1, 1]),
    offset=np.array([0, 1, 0, 1]),
    append_ms=np.array([100.0, 200.0, 300.0, 400.0]),
    event_ms=np.array([0, 0, 0, 0]),
    names={
        "queue": pl.Series(["billing", "billing", "billing", "sales"]),
        "team": pl.Series([None, "t1", None, None], dtype=pl.String),
    },
)
ALL = np.arange(4)


def test_every_event_of_a_scope_is_in_its_longest_window():
    """Of the shipped scopes that is the day, of the reference's the minute."""
    contracts = {t.contract: load_contract(t.contract).columns for t in load_catalogue().inputs}
    heads = [
        head_of(load_registry(DEPLOY / name, contracts).scope("queue"))
        for name in ("kpis", "bench/kpis")
    ]

    assert ["queue|DAY:86400000", "queue|TUMBLING:60000"] == heads


def test_a_record_was_received_where_a_reader_got_its_offset():
    """One that no reader got makes nothing visible."""
    got = Receptions([1_500.0, 9_999.0], [3, 4], [10, 11])

    received = in_kafka(RECORDS, got)

    assert [(70, 1_500.0)] == received.select("version", "received_ms").rows()
    assert [1_400.0] == [
        each for each in visible_ms(EVENTS, ALL, "queue", received, VECTORS) if not np.isnan(each)
    ]


def test_redis_has_shown_an_event_with_the_first_version_that_includes_it():
    """A version that was replaced before anybody looked is no version that was seen."""
    shown = Shown([2_500.0], [BILLING_DAY], [71])

    found = visible_ms(EVENTS, ALL, "queue", in_redis(RECORDS, shown), VECTORS)

    assert [2_400.0, 2_300.0, 2_200.0] == found[:3].tolist()
    assert np.isnan(found[3])


def test_an_event_that_counts_under_no_key_of_a_scope_is_not_waited_for_there():
    """Who is in a queue is of no team yet."""
    nothing = in_kafka(RECORDS, Receptions())

    assert 1 == len(visible_ms(EVENTS, ALL, "team", nothing, VECTORS))


def test_the_warm_up_are_those_that_were_appended_first():
    """Whatever their partition."""
    assert [2, 3] == EVENTS.measured(2).tolist()
