"""Records as columns, read of what producers have sent together."""

import pytest
from aiokafka.consumer.fetcher import PartitionRecords
from aiokafka.errors import CorruptRecordException
from aiokafka.record.memory_records import MemoryRecords
from hypothesis import given
from hypothesis import strategies as st

from streams.columnar import Answer, Batch, RecordBatch, Unread, WholeBatches, read_together
from streams.records import Fetched, Records, joined
from tests.laws import law
from tests.streams.transport import P0, P1, T0, batch_of, marker_of

CODECS = {"none": 0, "gzip": 1, "snappy": 2, "lz4": 3, "zstd": 4}

some_bytes = st.none() | st.binary(max_size=300)
contents = st.tuples(
    st.integers(0, 1 << 45),
    some_bytes,
    some_bytes,
    st.lists(st.tuples(st.text(max_size=5), some_bytes), max_size=3),
)


@st.composite
def batches(draw) -> list[tuple[bytes, list[Fetched]]]:
    """Batches one behind the other, with holes of compaction between, and what is in them."""
    found, offset = [], draw(st.integers(0, 1 << 40))
    for rows in draw(st.lists(st.lists(contents, min_size=1, max_size=20), max_size=5)):
        records = []
        appended = draw(st.none() | st.integers(1, 1 << 45))
        for timestamp, key, value, headers in rows:
            time_ms = timestamp if appended is None else appended
            records.append(Fetched(offset, time_ms, key, value, tuple(headers)))
            offset += draw(st.sampled_from([1, 1, 1, 2, 300]))
        codec = draw(st.sampled_from([*CODECS.values()]))
        found.append((batch_of(*records, codec=codec, append_time_ms=appended), records))
    return found


def record_batches(data: bytes) -> list[RecordBatch]:
    answer, found = Answer(data), []
    while answer.has_next():
        found.append(answer.next_batch())
    return found


def batch(data: bytes, before: int = 0, after: int = 1 << 62) -> Batch:
    found = record_batches(data)
    return Batch(P0, before, after, Unread.of(found), 1, sum(each.nbytes for each in found))


def plain(records: Records) -> list[Fetched]:
    rows = [records[row] for row in range(len(records))]
    found = [Fetched(r.offset, r.timestamp, r.key, r.value, tuple(r.headers)) for r in rows]
    assert [row.offset for row in found] == records.offsets.tolist()
    assert [row.timestamp for row in found] == records.timestamps.tolist()
    assert [row.value for row in found] == [*records.values]
    assert [row.headers for row in found] == [tuple(headers) for headers in records.headers]
    return found


@law(200)
@given(batches())
def test_every_record_is_read_as_it_was_sent(found):
    """Whatever is null or long, however it is compressed, whoever set its time; and once only."""
    data = b"".join(data for data, _ in found)
    taken = batch(data)
    (first,), (again,) = read_together([taken]), read_together([taken])

    assert [record for _, records in found for record in records] == plain(first.records)
    assert plain(first.records) == plain(again.records)
    assert len(data) == taken.nbytes


@law(100)
@given(batches(), st.data())
def test_rows_of_a_stretch_are_rows_of_the_whole(found, data):
    """Cut anywhere and joined again, records are the same, and so are the spans by offset."""
    (read,) = read_together([batch(b"".join(data for data, _ in found))])
    records, everything = read.records, plain(read.records)
    start = data.draw(st.integers(0, len(records)))
    stop = data.draw(st.integers(start, len(records)))
    parts = [records.rows(0, start), records.rows(start, stop), records.rows(stop, len(records))]

    assert everything[start:stop] == plain(parts[1])
    assert everything == plain(joined(parts))
    if start < len(records):
        assert everything[start:] == plain(records.between(everything[start].offset, 1 << 62))


def test_several_batches_are_read_at_once_and_each_has_its_own():
    """A flush makes columns of all it takes: that costs as much for one record as for many."""
    first = batch(batch_of(_record(5), _record(7)) + batch_of(_record(9)), 5, 10)
    second = Batch(P1, 0, 2, Records.of([_record(1)]), 1, 0)
    third = batch(batch_of(_record(3)), 3, 4)
    found = read_together([first, second, third])

    assert [[5, 7, 9], [1], [3]] == [each.records.offsets.tolist() for each in found]
    assert [(5, 10), (0, 2), (3, 4)] == [(each.before, each.after) for each in found]


def test_a_batch_is_cut_between_what_producers_have_sent():
    """A record batch is compressed whole; so there is always something before the cut."""
    data = batch_of(_record(5), _record(7)) + batch_of(_record(9)) + batch_of(_record(12))
    whole = batch(data, 4, 14)

    assert [[(4, 8, [5, 7])], [(8, 14, [9, 12])]] == _cut(whole, 0.4)
    assert [[(4, 10, [5, 7, 9])], [(10, 14, [12])]] == _cut(whole, 0.8)
    assert [[(4, 14, [5, 7, 9, 12])], []] == _cut(whole, 1.0)
    assert [[], [(4, 14, [5, 7, 9, 12])]] == _cut(whole, 0.0)


def _cut(whole: Batch, share: float) -> list[list[tuple[int, int, list[int]]]]:
    return [
        [(each.before, each.after, each.records.offsets.tolist()) for each in read_together(part)]
        for part in whole.split(share)
    ]


# -- what is left out -----------------------------------------------------------------------------


@law(300)
@given(st.lists(st.tuples(st.integers(1, 3), st.sampled_from("wca")), max_size=12), st.data())
def test_committed_records_are_those_that_aiokafka_would_hand_on(steps, data):
    """Aborted records and markers are passed over, and the position stands behind them."""
    log: list[tuple[int, bytes]] = []
    aborted, offset, first = [], 0, dict[int, int]()
    for producer, step in steps:
        if step == "w":
            first.setdefault(producer, offset)
            written = batch_of(_record(offset), _record(offset + 1), producer_id=producer)
            offset += 2
        else:
            if step == "a" and producer in first:
                aborted.append((producer, first[producer]))
            first.pop(producer, None)
            written = marker_of(producer, offset, abort=step == "a")
            offset += 1
        log.append((offset, written))
    at = data.draw(st.integers(0, offset))
    answer = b"".join(written for after, written in log if after > at)
    theirs = PartitionRecords(T0, MemoryRecords(answer), [*aborted], at, None, None, True, 1)
    ours = WholeBatches(T0, Answer(answer), [*aborted], at, None, None, True, 1)
    expected = [record.offset for record in theirs]
    (read,) = read_together([Batch(P0, at, offset, Unread.of([*ours]), 1, 0)])

    assert expected == read.records.between(at, offset).offsets.tolist()
    assert theirs.next_fetch_offset == ours.next_fetch_offset


def test_an_answer_that_is_cut_off_ends_with_its_last_whole_batch():
    """A broker cuts an answer at so many bytes; the rest is fetched next."""
    one, two = batch_of(_record(5)), batch_of(_record(6))
    (read,) = read_together([batch(one + two[:-1])])

    assert [5] == read.records.offsets.tolist()


def test_a_wrong_checksum_stops_the_fetching():
    """Bytes that were damaged on the way are not taken for events."""
    damaged = bytearray(batch_of(_record(5)))
    damaged[-1] ^= 1

    with pytest.raises(CorruptRecordException):
        [*WholeBatches(T0, Answer(bytes(damaged)), [], 5, None, None, True, 1)]


def _record(offset: int) -> Fetched:
    return Fetched(offset, 1_000 + offset, b"k", b"v%d" % offset, (("h", None),))
