"""Which events were seen before."""

from mmap import mmap

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from processors.dedupe import BUCKET_MS, OWN_PAGES_BYTES, SeenIds, hash_ids
from tests.laws import cut, law

#: Few ids, so that many come twice; few instants, in several buckets.
events = st.lists(
    st.tuples(st.integers(0, 30), st.sampled_from([0, 1, BUCKET_MS - 1, BUCKET_MS, 5 * BUCKET_MS])),
    max_size=60,
)


def _hashes(found: list[tuple[int, int]]) -> np.ndarray:
    return hash_ids([str(number).encode() for number, _ in found])


def _times(found: list[tuple[int, int]]) -> np.ndarray:
    return np.array([time for _, time in found], dtype=np.int64)


def _oracle(found: list[tuple[int, int]]) -> list[bool]:
    seen: set[tuple[int, int]] = set()
    fresh = []
    for number, time in found:
        fresh.append((number, time // BUCKET_MS) not in seen)
        seen.add((number, time // BUCKET_MS))
    return fresh


def _pieces(found: list[tuple[int, int]], places: list[int], seen: SeenIds) -> list[bool]:
    fresh: list[bool] = []
    for piece in cut(found, places):
        fresh += seen.first_seen(_hashes(piece), _times(piece)).tolist()
    return fresh


@law()
@given(events, st.lists(st.integers(0, 60)))
def test_an_id_is_new_once_in_its_bucket_wherever_batches_are_cut(found, places):
    """What is new is what a set per bucket says; the first of equal ones counts."""
    assert _oracle(found) == _pieces(found, places, SeenIds())


@law()
@given(events, st.lists(st.integers(0, 60)), st.integers(0, 60), st.integers(0, 3))
def test_what_checkpoints_wrote_remembers_what_was_seen(found, places, crash, checkpoints):
    """Ids taken for checkpoints and put back, in any number of steps, are known as before."""
    first, rest = found[:crash], found[crash:]
    before = SeenIds()
    saved: list[tuple[int, np.ndarray]] = []
    fresh: list[bool] = []
    for piece in cut(first, range(0, 60, 60 // (checkpoints + 1))):
        fresh += before.first_seen(_hashes(piece), _times(piece)).tolist()
        saved += before.take_unsaved().items()
    after = SeenIds()
    for bucket, hashes in saved:
        after.restore(bucket, hashes)

    assert {} == before.take_unsaved()
    assert _oracle(found) == fresh + _pieces(rest, places, after)
    assert before.nbytes + 16 * sum(_oracle(found)[crash:]) == after.nbytes


@law()
@given(events, st.integers(-1, 7), st.booleans())
def test_closed_buckets_are_forgotten_whole_and_no_others(found, buckets, is_restored):
    """A bucket is closed when it ends at or before the instant; the others know their ids still."""
    seen = SeenIds()
    seen.first_seen(_hashes(found), _times(found))
    if is_restored:
        saved, seen = seen.take_unsaved(), SeenIds()
        for bucket, hashes in saved.items():
            seen.restore(bucket, hashes)
    held = {time - time % BUCKET_MS for _, time in found}
    closed = {bucket for bucket in held if bucket + BUCKET_MS <= buckets * BUCKET_MS}

    assert closed == set(seen.close(buckets * BUCKET_MS))
    assert held - closed == seen.buckets
    again = seen.first_seen(_hashes(found), _times(found)).tolist()
    kept = [time - time % BUCKET_MS in closed for _, time in found]
    assert [a and b for a, b in zip(_oracle(found), kept, strict=True)] == again


@law()
@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 3)), max_size=30),
    st.lists(st.integers(0, 30)),
)
def test_ids_that_share_half_of_their_hash_are_told_apart(halves, places):
    """Equal high halves are looked at more closely: only whole hashes make a duplicate."""
    hashes = np.array(halves, dtype=np.uint64).reshape(-1, 2)
    seen = SeenIds()
    fresh: list[bool] = []
    for rows in cut(range(len(halves)), places):
        fresh += seen.first_seen(hashes[list(rows)], np.zeros(len(rows), np.int64)).tolist()
    expected = [halves.index(pair) == place for place, pair in enumerate(halves)]

    assert expected == fresh


def test_the_hash_of_an_id_is_that_of_every_machine_and_release():
    """State is read back by later releases: the hash is part of its format."""
    assert [[0x99AA06D3014798D8, 0x6001C324468D497F]] == hash_ids([b""]).tolist()


def test_many_ids_are_kept_in_pages_of_their_own():
    """Once forgotten they leave no holes in the heap that flushes work in."""
    seen = SeenIds()
    ids = hash_ids([str(number).encode() for number in range(64_000)])
    times = np.zeros(len(ids), dtype=np.int64)

    for batch in np.split(ids, 64):
        assert seen.first_seen(batch, times[:1000]).all()
    assert not seen.first_seen(ids, times).any()
    large = [run for run in seen.runs[0] if run.nbytes >= OWN_PAGES_BYTES]
    assert sum(map(len, large)) == len(ids)
    assert all(isinstance(_owner(run), mmap) for run in large)


def _owner(array: np.ndarray) -> object:
    while isinstance(array.base, np.ndarray):
        array = array.base
    assert isinstance(array.base, memoryview)
    return array.base.obj
