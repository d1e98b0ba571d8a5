"""Which versions of an event count, and what they take back."""

from collections.abc import Sequence

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from processors.dedupe import BUCKET_MS, hash_ids
from processors.versions import PACK_BYTES, KeptVersions
from tests.laws import cut, law

Stated = tuple[int, int, int, bytes]  # id, event time, version, record

#: Few ids and versions, so that many come again; few instants, in several buckets; records of which
#: some fill a block at once.
stated = st.lists(
    st.tuples(
        st.integers(0, 8),
        st.sampled_from([0, 1, BUCKET_MS - 1, BUCKET_MS, 5 * BUCKET_MS]),
        st.integers(1, 4),
        st.builds(bytes.__mul__, st.binary(min_size=1, max_size=3), st.sampled_from([1, 40_000])),
    ),
    max_size=40,
)
places = st.lists(st.integers(0, 40))


def _oracle(events: Sequence[Stated]) -> list[list[bytes] | None]:
    """Return for each event that counts the records before it, None for one that does not."""
    known: dict[tuple[int, int], list[tuple[int, bytes]]] = {}
    found: list[list[bytes] | None] = []
    for number, time, version, record in events:
        before = known.setdefault((number, time // BUCKET_MS), [])
        if before and version <= before[-1][0]:
            found.append(None)
        else:
            found.append([kept for _, kept in before])
            before.append((version, record))
    return found


def _admit(kept: KeptVersions, events: Sequence[Stated]) -> list[list[bytes] | None]:
    hashes = hash_ids([str(number).encode() for number, *_ in events])
    times = np.array([time for _, time, *_ in events], dtype=np.int64)
    versions = np.array([version for _, _, version, _ in events], dtype=np.int64)
    counts, earlier = kept.admit(hashes, versions, times, [record for *_, record in events])
    assert set(earlier) <= set(np.flatnonzero(counts).tolist())
    return [earlier.get(row, []) if counts[row] else None for row in range(len(events))]


@law(60)
@given(stated, places)
def test_a_version_counts_if_it_is_higher_than_all_before_wherever_batches_are_cut(events, cuts):
    """And what it takes back is what counted before it, the lowest first."""
    kept = KeptVersions()

    assert _oracle(events) == [one for piece in cut(events, cuts) for one in _admit(kept, piece)]


@law(60)
@given(stated, places, st.integers(0, 40), st.integers(1, 4))
def test_what_checkpoints_wrote_knows_every_version_and_its_record(events, cuts, crash, every):
    """Blocks taken for checkpoints and put back, in any number of steps, decide as before."""
    before, after = KeptVersions(), KeptVersions()
    saved: list[tuple[int, bytes]] = []
    found = []
    for n, piece in enumerate(cut(events[:crash], cuts)):
        found += _admit(before, piece)
        if n % every == 0:
            saved += before.take_unsaved()
    saved += before.take_unsaved()
    for start, block in saved:
        after.restore(start, block)

    assert [] == list(before.take_unsaved())
    assert before.nbytes == after.nbytes
    assert _oracle(events) == found + _admit(after, events[crash:])
    assert max((len(block) for _, block in saved), default=0) < 2 * PACK_BYTES + 60 * 40


@law()
@given(stated, st.integers(-1, 7))
def test_closed_buckets_are_forgotten_whole_and_no_others(events, buckets):
    """A bucket is closed when it ends at or before the instant; the others know their versions."""
    kept = KeptVersions()
    _admit(kept, events)
    held = {time - time % BUCKET_MS for _, time, *_ in events}
    closed = {start for start in held if start + BUCKET_MS <= buckets * BUCKET_MS}

    assert closed == set(kept.close(buckets * BUCKET_MS))
    assert held - closed == set(kept.buckets)


def test_ids_of_one_hash_half_are_told_apart():
    """Two ids that share the first 64 bits are two ids, in one batch and across batches."""
    kept = KeptVersions()
    hashes = np.array([[7, 1], [7, 2], [7, 1]], dtype=np.uint64)
    times = np.zeros(3, dtype=np.int64)
    counts, earlier = kept.admit(hashes, np.array([1, 1, 2]), times, [b"a", b"b", b"c"])
    again, before = kept.admit(hashes[:2], np.array([3, 1]), times[:2], [b"d", b"e"])

    assert ([True, True, True], {2: [b"a"]}) == (counts.tolist(), earlier)
    assert ([True, False], {0: [b"a", b"c"]}) == (again.tolist(), before)


def test_a_version_costs_its_index_and_its_packed_record():
    """32 bytes and the record, packed with those beside it: the figure that the documents state."""
    kept = KeptVersions()
    count = 20_000
    hashes = hash_ids([str(n).encode() for n in range(count)])
    records = [b"one record much like another, number %d" % n for n in range(count)]
    kept.admit(hashes, np.ones(count, np.int64), np.zeros(count, np.int64), records)
    list(kept.take_unsaved())

    assert 32 * count < kept.nbytes < (32 + 10) * count
