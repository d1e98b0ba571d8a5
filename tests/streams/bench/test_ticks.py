"""A tick of rules is due with the append that takes the last partition's watermark over it."""

import numpy as np

from streams.bench.ticks import Read, due_ms

DISORDER_MS = 2_000


def read(*rows):
    partition, offset, append_ms, event_ms = np.array(rows, np.int64).reshape(-1, 4).T
    return Read(partition, offset, append_ms.astype(float), event_ms)


def due(events, *ticks, partitions=2):
    return due_ms(events, np.array(ticks), DISORDER_MS, partitions).tolist()


def test_a_tick_is_due_when_the_slowest_partition_has_reached_it():
    """The watermark is the highest event time less the disorder, and counts from the tick on."""
    events = read((0, 0, 100, 11_999), (0, 1, 200, 12_000), (1, 0, 150, 15_000))

    assert [200.0] == due(events, 10_000)


def test_an_event_out_of_order_takes_no_watermark_back():
    """What was due stays due."""
    events = read((0, 0, 100, 12_000), (0, 1, 200, 3_000), (0, 2, 300, 22_000))

    assert [100.0, 300.0] == due(events, 10_000, 20_000)


def test_an_empty_partition_holds_nothing_back():
    """Nor does one of a topic that has more of them than events."""
    assert [100.0] == due(read((0, 0, 100, 12_000)), 10_000, partitions=4)


def test_a_tick_that_the_events_do_not_reach_is_never_due():
    """That it ran all the same, at the end of the input, says nothing about its speed."""
    events = read((0, 0, 100, 12_000), (1, 0, 100, 11_000))

    assert [float("inf")] == due(events, 10_000)


def test_records_are_taken_in_the_order_of_their_offsets():
    """A reader may have got them in another."""
    events = read((0, 1, 200, 22_000), (0, 0, 100, 12_000))

    assert [100.0, 200.0] == due(events, 10_000, 20_000, partitions=1)
