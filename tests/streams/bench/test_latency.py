"""Latency: from an event's append to the first record of its key that includes it."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from streams.bench.latency import Appended, Latency, Published, latencies_ms, summarise

SALES, SERVICE = 0, 1


def appended(*rows):
    key, partition, offset, append_ms = np.array(rows, np.int64).reshape(-1, 4).T
    return Appended(key, partition, offset, append_ms.astype(float))


def published(*rows):
    return Published(
        np.array([row[0] for row in rows], np.int64),
        np.array([row[1] for row in rows], float),
        np.array([row[2:] for row in rows], np.int64).reshape(len(rows), 2),
    )


def test_an_event_is_visible_with_the_first_record_of_its_key_that_includes_its_offset():
    """A position is the offset of the first event that is not included."""
    events = appended((SALES, 0, 7, 100), (SALES, 0, 8, 100), (SALES, 1, 0, 150))
    records = published((SALES, 300, 8, 0), (SALES, 500, 9, 1))

    assert [200.0, 400.0, 350.0] == latencies_ms(events, records).tolist()


def test_a_record_of_another_key_makes_nothing_visible():
    """A queue's wallboard is not up to date because another queue's is."""
    events = appended((SALES, 0, 0, 100))
    records = published((SERVICE, 200, 5, 5), (SALES, 900, 5, 5))

    assert [800.0] == latencies_ms(events, records).tolist()


def test_an_event_in_no_record_is_unseen_and_leaves_the_quantiles_alone():
    """It is counted, because a run with such events has shown nothing."""
    events = appended((SALES, 0, 0, 100), (SALES, 0, 1, 100), (SERVICE, 0, 2, 100))

    found = summarise(latencies_ms(events, published((SALES, 140, 1, 0))))

    assert Latency(40.0, 40.0, 40.0, 40.0, unseen=2, n=1) == found


def test_what_an_earlier_record_includes_a_later_one_does_not_hide():
    """A reader may get the record of an older position after the newer one."""
    events = appended((SALES, 0, 3, 100), (SALES, 0, 6, 100))
    records = published((SALES, 200, 5, 0), (SALES, 300, 2, 0), (SALES, 400, 7, 0))

    assert [100.0, 300.0] == latencies_ms(events, records).tolist()


def test_quantiles_are_latencies_that_were_seen():
    """Of a thousand, p99.9 is the last but one or above, never a value in between."""
    found = summarise(np.arange(1, 1_001, dtype=float))

    assert Latency(501.0, 991.0, 1_000.0, 1_000.0, unseen=0, n=1_000) == found


KEYS, OFFSETS = st.integers(0, 2), st.integers(0, 9)
RECORDS = st.lists(st.tuples(KEYS, st.integers(0, 50), OFFSETS, OFFSETS), max_size=12)
EVENTS = st.lists(st.tuples(KEYS, st.integers(0, 1), OFFSETS, st.integers(0, 20)), max_size=12)


@given(EVENTS, RECORDS)
def test_the_arithmetic_is_that_of_looking_at_every_record(events, records):
    """The quick way by columns finds for each event what a search through all records finds."""
    found = latencies_ms(appended(*events), published(*records))

    expected = [
        min(
            (at - append for of, at, *reached in records if of == key and reached[part] > offset),
            default=None,
        )
        for key, part, offset, append in events
    ]
    assert expected == [None if np.isnan(each) else each for each in found]
