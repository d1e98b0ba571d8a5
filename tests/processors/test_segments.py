"""Sums of all keys of a scope in one window."""

import json
import struct
from dataclasses import dataclass, field

import cramjam
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from processors.histogram import BUCKETS
from processors.segments import (
    UNKNOWN_TIME,
    AttributeRows,
    HistogramRows,
    Segment,
    SumRows,
    pack,
    unpack,
)
from tests.laws import law
from tests.timeline import attributes_in

WIDTH = 3

whole_numbers = st.integers(-(2**40), 2**40)
additions = st.lists(
    st.tuples(
        st.lists(st.integers(0, 20), min_size=1, max_size=6),
        st.sets(st.integers(0, WIDTH - 1), min_size=1).map(sorted),
        st.lists(whole_numbers, min_size=6 * WIDTH, max_size=6 * WIDTH),
    ),
    max_size=6,
)
histograms = st.lists(
    st.tuples(
        st.integers(0, 20), st.integers(0, 2), st.integers(0, BUCKETS - 1), st.integers(1, 2**40)
    ),
    max_size=10,
)
attributes = st.lists(
    st.tuples(st.integers(0, 20), st.none() | st.integers(0, 5), st.sampled_from(["a", "b", "é"])),
    max_size=10,
)


@dataclass
class Contents:
    """What a segment holds, in plain values by key code."""

    sums: dict[int, list[int]] = field(default_factory=dict)
    histograms: dict[tuple[int, int, int], int] = field(default_factory=dict)
    attributes: dict[int, tuple[int, str]] = field(default_factory=dict)


def contents(segment: Segment) -> Contents:
    codes = segment.codes.tolist()
    found = Contents(dict(zip(codes, segment.sums.tolist(), strict=True)))
    for slot, place, count in segment.counts_of(np.arange(segment.rows)).tolist():
        found.histograms[codes[slot], *divmod(place, BUCKETS)] = count
    for slot, noted in attributes_in(segment).items():
        found.attributes[codes[slot]] = noted
    named = [found.attributes.get(code, (0, "?"))[1] for code in codes]
    assert named == segment.attributes_of(np.arange(segment.rows), "?")
    return found


def _add(segment: Segment, added, expected: Contents) -> None:
    codes, columns, numbers = added
    values = np.array(numbers[: len(codes) * len(columns)], np.int64).reshape(len(codes), -1)
    whole = np.zeros((len(codes), WIDTH), np.int64)
    whole[:, columns] = values
    order = np.argsort(codes)
    segment.add(SumRows.of(np.array(codes, np.int32)[order], whole[order]))
    for code, row in zip(codes, values.tolist(), strict=True):
        sums = expected.sums.setdefault(code, [0] * WIDTH)
        for column, value in zip(columns, row, strict=True):
            sums[column] += value


def _filled(adds, counts, notes) -> tuple[Segment, Contents]:
    segment, expected = Segment(0, 60_000, WIDTH, histograms=3), Contents()
    for added in adds:
        _add(segment, added, expected)
    if counts:
        codes, numbers, buckets, added = map(np.array, zip(*counts, strict=True))
        places = numbers * BUCKETS + buckets
        segment.add_histograms(HistogramRows.of(3, codes.astype(np.int32), places, added))
    for code, histogram, bucket, count in counts:
        expected.sums.setdefault(code, [0] * WIDTH)
        place = (code, histogram, bucket)
        expected.histograms[place] = expected.histograms.get(place, 0) + count
    if notes:
        codes, times, values = zip(*notes, strict=True)
        known = [UNKNOWN_TIME if time is None else time for time in times]
        segment.note_attributes(
            AttributeRows.of(
                np.array(codes, np.int32), np.array(known), np.array(values, np.object_)
            )
        )
    for code, time, value in notes:
        if time is not None:
            expected.sums.setdefault(code, [0] * WIDTH)
            expected.attributes[code] = max(expected.attributes.get(code, (-1, "")), (time, value))
    return segment, expected


@law()
@given(additions, histograms, attributes)
def test_a_segment_adds_up_what_a_dictionary_adds_up(adds, counts, notes):
    """Sums, counts per bucket and newest attributes are those of plain Python, for every key."""
    segment, expected = _filled(adds, counts, notes)

    assert expected == contents(segment)


@law()
@given(additions, histograms, attributes, st.sets(st.sampled_from(["surveys", "interactions"])))
def test_a_segment_comes_back_from_bytes_as_it_was(adds, counts, notes, final):
    """Packed and unpacked it holds and adds the same, and has nothing to publish."""
    segment, expected = _filled(adds, counts, notes)
    segment.final = final
    segment.revise(segment.codes[::2])
    back = unpack(pack(segment))

    assert expected == contents(back)
    assert (segment.start_ms, segment.end_ms, final) == (back.start_ms, back.end_ms, back.final)
    assert segment.revised.tolist() == back.revised.tolist()
    assert not back.unsaved
    assert not back.dirty_rows().size
    for added in adds:
        _add(back, added, expected)
    assert expected == contents(back)


@law()
@given(additions, histograms, attributes)
def test_bytes_of_the_first_form_are_read_as_ever(adds, counts, notes):
    """State in the changelog outlives a release: matrices by row, attributes in the head."""
    segment, expected = _filled(adds, counts, notes)
    segment.final = {"surveys"}
    segment.revise(segment.codes[::2])
    back = unpack(_packed_in_form_1(segment))

    assert (expected, {"surveys"}) == (contents(back), back.final)
    assert segment.revised.tolist() == back.revised.tolist()


def _packed_in_form_1(segment: Segment) -> bytes:
    counts = segment.counts_of(np.arange(segment.rows))
    head = json.dumps([segment.start_ms, segment.end_ms, sorted(segment.final)]).encode()
    inner = {
        "rows": segment.rows,
        "width": segment.sums.shape[1],
        "histograms": segment.histograms,
        "counts": len(counts),
        "attributes": [(row, *noted) for row, noted in attributes_in(segment).items()],
    }
    told = json.dumps(inner).encode()
    arrays = (segment.codes, segment.sums, segment.revised, counts)
    body = b"".join([struct.pack("<I", len(told)), told, *(each.tobytes() for each in arrays)])
    return struct.pack("<I", len(head)) + head + bytes(cramjam.zstd.compress(body))


@law()
@given(additions, additions)
def test_taking_a_segment_away_again_leaves_the_sums_as_they_were(adds, others):
    """Adding and subtracting another segment cancel out: running windows rely on it."""
    segment, expected = _filled(adds, [], [])
    other, _ = _filled(others, [], [])
    for sign in (1, -1):
        segment.add(SumRows(other.codes, sign * other.sums))
    found = contents(segment).sums

    assert expected.sums == {code: sums for code, sums in found.items() if code in expected.sums}
    assert all(not any(sums) for code, sums in found.items() if code not in expected.sums)


def test_rows_that_changed_are_dirty_and_others_are_not():
    """A row is dirty from its change until it is published."""
    segment = Segment(0, 60_000, 1)
    segment.add(SumRows(np.array([4, 2], np.int32), np.array([[1], [1]])))
    segment.clean(segment.dirty_rows())
    segment.add(SumRows(np.array([2], np.int32), np.array([[1]])))

    assert [2] == segment.codes[segment.dirty_rows()].tolist()


@given(histograms, st.sets(st.integers(0, 20)), st.integers(1, 20))
def test_stretches_are_the_counts_of_each_row_and_histogram(added, wanted, others):
    """Whether few rows are asked for or most: each has its own counts, in the order asked for."""
    counts = {(code, which, bucket): n for code, which, bucket, n in added}
    codes, which, buckets = (np.array([key[i] for key in counts], np.int64) for i in range(3))
    segment = Segment(0, 60_000, 0, histograms=3)
    every = np.arange(21, dtype=np.int32)
    segment.add(SumRows(every, np.zeros((21, 0), np.int64)))
    if counts:
        places = which * BUCKETS + buckets
        numbers = np.array([*counts.values()], np.int64)
        segment.add_histograms(HistogramRows.of(3, codes.astype(np.int32), places, numbers))
    rows = np.array(sorted(wanted, key=lambda row: row * others % 21), np.intp)

    found = segment.stretches_of(rows)

    for row, edges, bases in zip(rows.tolist(), found.edges, found.bases, strict=True):
        for number, base in enumerate(bases.tolist()):
            stretch = slice(*edges[number : number + 2].tolist())
            of_row = dict(zip(found.numbers[stretch], found.counts[stretch], strict=True))
            expected = {b: n for (c, w, b), n in counts.items() if (c, w) == (row, number)}
            assert expected == {int(place) - base: int(count) for place, count in of_row.items()}


@law()
@given(additions)
def test_what_is_given_to_two_segments_is_changed_by_neither(adds):
    """Windows over each other are given the same arrays, and each goes on adding to its own."""
    shared = []
    for codes, _, numbers in adds:
        keys = np.array(codes, np.int32)
        sums = np.array(numbers[: len(codes) * WIDTH], np.int64).reshape(len(codes), WIDTH)
        tallies = HistogramRows.of(1, keys, keys % 3, np.ones(len(codes), np.int64))
        shared.append((SumRows.of(keys, sums), tallies))
    before = [(rows.values.tolist(), tallies.counts.tolist()) for rows, tallies in shared]
    for segment in (Segment(0, 60_000, WIDTH, 1), Segment(0, 120_000, WIDTH, 1)):
        for rows, tallies in (*shared, *shared):
            segment.add(rows)
            segment.add_histograms(tallies)
            contents(segment)

    assert before == [(rows.values.tolist(), tallies.counts.tolist()) for rows, tallies in shared]
