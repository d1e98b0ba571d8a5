"""Which segments are kept packed."""

import numpy as np

from processors.segment_store import SegmentStore
from processors.segments import Segment, SumRows


def _segment(start_ms: int) -> Segment:
    segment = Segment(start_ms, start_ms + 60_000, 1)
    segment.add(SumRows(np.array([7], np.int32), np.array([[start_ms]])))
    segment.clean(segment.dirty_rows())
    return segment


def _store(starts: range) -> SegmentStore:
    store = SegmentStore()
    for start in starts:
        store.put((0, start), _segment(start))
    return store


def test_segments_at_rest_are_packed_once_they_take_too_much():
    """Those used since somebody last looked are not at rest, whatever they take."""
    store = _store(range(4))
    store.freeze(0)
    in_use = set(store.hot)
    store.get((0, 2))
    store.freeze(0)

    assert {(0, start) for start in range(4)} == in_use
    assert ({(0, 2)}, {(0, 0), (0, 1), (0, 3)}) == (set(store.hot), set(store.cold))


def test_what_is_over_is_at_rest_though_it_was_just_used():
    """Who catches up opens hours of windows in a block, and comes back to none of them."""
    store = _store(range(0, 240_000, 60_000))
    store.freeze(0, over_ms=120_000)

    assert [(0, 0), (0, 60_000)] == sorted(store.cold)


def test_as_many_stay_as_fit():
    """The oldest go first."""
    store = _store(range(4))
    store.freeze(0)
    store.freeze(2 * _segment(0).nbytes)

    assert [(0, 0), (0, 1)] == sorted(store.cold)


def _frozen(start: int = 0) -> SegmentStore:
    """Return a store with a packed segment of two rows, one of which is to be published."""
    store = _store(range(start, start + 1))
    store.hot[0, start].add(SumRows(np.array([9], np.int32), np.array([[1]])))
    store.freeze(0)
    store.freeze(0)
    return store


def test_what_is_to_be_published_is_known_of_the_packed_too():
    """However much has changed, what is at rest need not wait for publication to be packed."""
    store = _frozen()
    looked = store.look((0, 0))
    dirty = [looked.codes[looked.dirty_rows()].tolist()]
    store.clean((0, 0), looked.dirty_rows())
    dirty.append(store.look((0, 0)).dirty_rows().tolist())

    assert [[9], []] == dirty
    assert (0, 0) in store.cold
    thawed = _frozen().get((0, 0))
    assert thawed is not None
    assert [9] == thawed.codes[thawed.dirty_rows()].tolist()


def test_what_is_packed_becomes_final_as_it_is():
    """Every row of it is then to be published, and to be saved."""
    packed, same = _frozen(), _store(range(1))
    same.hot[0, 0].add(SumRows(np.array([9], np.int32), np.array([[1]])))
    for store in (packed, same):
        list(store.unsaved())
        made = [store.make_final((0, 0), source) for source in ("b", "a", "b")]
        segment = store.look((0, 0))

        assert [True, True, False] == made
        assert ({"a", "b"}, 2, True) == (
            segment.final,
            len(segment.dirty_rows()),
            segment.unsaved,
        )
    assert (0, 0) in packed.cold
    assert list(same.unsaved()) == list(packed.unsaved())
    assert not packed.make_final((0, 7), "a")


def test_a_packed_segment_comes_back_as_it_was():
    """Whether it had been saved, too."""
    store = _store(range(2))
    list(store.unsaved())
    store.hot[0, 1].unsaved = True
    store.freeze(0)
    store.freeze(0)
    found = [store.get((0, start)) for start in range(2)]

    assert not store.cold
    assert [(0, [0], False), (1, [1], True)] == [
        (s.start_ms, s.sums[:1, 0].tolist(), s.unsaved) for s in found if s is not None
    ]
