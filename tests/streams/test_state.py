"""What a checkpoint writes, and reading it back."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from processors.fold import Account, SourceState, admit
from processors.merge import Merge
from streams.state import (
    BLOCK_BYTES,
    Advance,
    Entry,
    MergeBlocks,
    Progress,
    SourceBlocks,
    read_saved,
)
from tests.builders import EVALUATIONS, INTERACTIONS, NOON_MS, frame, record, small_definitions
from tests.laws import cut, law
from tests.timeline import END_MS, SOURCES, Folding, Merged, histories

LATENESS = small_definitions().inputs[INTERACTIONS].lateness


class Changelog:
    """A compacted partition: the newest value of each key."""

    def __init__(self) -> None:
        self.values: dict[bytes, bytes | None] = {}

    def write(self, entries: list[Entry]) -> None:
        for key, value in entries:
            self.values.pop(key, None)
            self.values[key] = value

    def compact(self) -> None:
        """Take tombstones out, as a broker does after a while."""
        self.values = {key: value for key, value in self.values.items() if value is not None}

    @property
    def saved(self) -> Any:
        return read_saved(self.values.items(), 0)


def test_progress_comes_back_as_it_was():
    """Position, account, writer and the advances since the checkpoint are in one record."""
    advances = (Advance(4, 900, "IDLE"), Advance(7, 0, "EMPTY"))
    progress = Progress(7, "writer", 2, 1_000, Account(7, 3, 2, 1, 1), advances)
    log = Changelog()
    log.write([progress.entry(0)])

    assert progress == log.saved.progress


def test_state_of_another_epoch_is_stale():
    """A rebuild does not read what was before it, knows its keys, and never goes back."""
    progress = Progress(7, "writer")
    log = Changelog()
    log.write([progress.entry(1), Entry(b"2|checkpoint", b"{}")])
    saved = log.saved

    assert (None, None) == (saved.progress, saved.checkpoint)
    assert ((b"1|progress", b"2|checkpoint"), 2) == (saved.stale, saved.newest_epoch)


@law(40)
@given(histories(most=20), st.lists(st.integers(0, 20), max_size=5), st.integers(0, 2))
def test_a_source_comes_back_from_its_checkpoints(history, places, compactions):
    """Restored at any checkpoint, a partition decides about what follows as if nothing was."""
    events = history.get((INTERACTIONS, 0), [])
    whole, lived = SourceState(), SourceState()
    log, blocks, expected, found = Changelog(), SourceBlocks(), [], []
    for piece in cut(events, places):
        expected += _admit(whole, piece)
        found += _admit(lived, piece)
        log.write(blocks.save(lived, 0))
        if compactions:
            log.compact()
        blocks = SourceBlocks()
        lived = blocks.load(log.saved)

    assert expected == found
    assert (whole.account, whole.watermark_ms) == (lived.account, lived.watermark_ms)
    assert whole.seen.nbytes == lived.seen.nbytes


def _admit(state: SourceState, events: Any) -> list[bool]:
    state.position += len(events)
    return admit(state, frame(INTERACTIONS, *events), len(events), LATENESS).applied.tolist()


def test_ids_of_closed_buckets_are_taken_out_of_the_changelog():
    """The changelog of a partition holds what may still come twice, and no more."""
    log, blocks, state = Changelog(), SourceBlocks(), SourceState()
    _admit(state, [record(INTERACTIONS, "a", NOON_MS)])
    log.write(blocks.save(state, 0))
    before = sorted(log.values)
    _admit(state, [record(INTERACTIONS, "b", NOON_MS + 86_400_000)])
    log.write(blocks.save(state, 0))
    log.compact()

    assert 1 == sum(b"seen" in key for key in log.values)
    assert not set(before) & {key for key in log.values if b"seen" in key}


def test_versions_of_closed_buckets_are_taken_out_of_the_changelog():
    """The same holds for the versions that are kept of a restatable topic."""
    log, blocks, state = Changelog(), SourceBlocks(), SourceState()
    for n, time in enumerate((NOON_MS, NOON_MS + 86_400_000)):
        event = frame(EVALUATIONS, record(EVALUATIONS, str(n), time))
        admit(state, event, 1, LATENESS, [b"kept"])
        log.write(blocks.save(state, 0))
    log.compact()

    assert [1] == [key.count(b"|versions|") for key in log.values if b"versions" in key]
    assert blocks.load(log.saved).versions.nbytes == state.versions.nbytes


@law(15)
@given(histories(most=8), st.lists(st.integers(0, 12), max_size=4), st.data())
def test_a_merge_comes_back_from_its_checkpoints(history, places, data):
    """Restored after any block, sums, finals and rules go on as if nothing had been.

    Also in the middle of an episode, a cooldown or a window, and whatever a broker compacted.
    """
    empty = {source: None for source in SOURCES if source not in history}
    pieces = [
        {source: piece} for source, events in history.items() for piece in cut(events, places)
    ]
    taken = data.draw(st.permutations(range(len(pieces))))
    in_order = _in_order(pieces, taken)
    flushes = [({}, empty), *((piece, {}) for piece in in_order)]
    flushes.append(({}, dict.fromkeys(SOURCES, END_MS)))
    folding = Folding(small_definitions())
    blocks = [block for flush in flushes for block in folding.flush(*flush)]
    lived, lived_merged = Merge(small_definitions().merge), Merged()
    restored, restored_merged = Merge(small_definitions().merge), Merged()
    log, written = Changelog(), MergeBlocks()
    for block in blocks:
        for merge, merged in ((lived, lived_merged), (restored, restored_merged)):
            merge.apply(block)
            merged.note(merge, merge.settle())
            merge.position += 1
        if data.draw(st.booleans()):
            log.write(written.save(restored, 0))
            log.compact()
            written, restored = MergeBlocks(), Merge(small_definitions().merge)
            written.load(restored, log.saved)
        assert _seen_by_rules(lived) == _seen_by_rules(restored)

    assert lived_merged == restored_merged
    assert (lived.chain, lived.watermarks) == (restored.chain, restored.watermarks)


def _seen_by_rules(merge: Merge) -> list[Any]:
    """How far rules have come, and the sums that are in their windows now."""
    found: list[Any] = [state.ticked for state in merge.scopes.values()]
    for runtime in merge.groups:
        running, keys = runtime.running, merge.scopes[runtime.scope.id].keys
        sums = zip(running.codes.tolist(), running.sums.tolist(), strict=True)
        in_window = {keys[code]: row for code, row in sums if any(row)}
        found += [runtime.next_tick_ms, in_window, runtime.state.dump()]
    return found


def _in_order(pieces: list[Any], order: list[int]) -> list[Any]:
    """Interleave the pieces of partitions, each partition's in their order."""
    waiting: dict[Any, list[Any]] = {}
    for piece in pieces:
        waiting.setdefault(next(iter(piece)), []).append(piece)
    return [waiting[next(iter(pieces[place]))].pop(0) for place in order]


@pytest.mark.parametrize("size", [0, 1, BLOCK_BYTES, BLOCK_BYTES + 1, 3 * BLOCK_BYTES])
def test_a_large_block_is_cut_and_joined_again(size):
    """Blocks stay below a broker's limit; parts of an older, longer one are never joined to it."""
    blocks, log = MergeBlocks(), Changelog()
    log.write(blocks._cut("segment", bytes(4 * BLOCK_BYTES), 0))
    log.write(blocks._cut("segment", b"x" * size, 0))
    longest = max(len(value) for value in log.values.values() if value is not None)

    assert b"x" * size == log.saved.blocks["segment"]
    assert longest <= BLOCK_BYTES + 4
    log.compact()
    assert b"x" * size == log.saved.blocks["segment"]
