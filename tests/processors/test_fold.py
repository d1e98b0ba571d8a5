"""Events become partials: a function of the prefix of each partition, and of nothing else."""

from collections.abc import Mapping
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from processors.fold import SourceState, admit
from processors.merge import Merge
from tests.builders import EVALUATIONS, INTERACTIONS, NOON_MS, frame, record, small_definitions
from tests.laws import cut, law
from tests.timeline import (
    END_MS,
    SOURCES,
    Account,
    Event,
    Folding,
    Merged,
    Source,
    decide,
    histories,
    totals,
    without_zeros,
)

LATENESS = small_definitions().inputs[INTERACTIONS].lateness


def _play(flushes: list[dict[str, Any]], *, settle_each: bool) -> tuple[Folding, Merged]:
    """Play flushes: all of them before the merge looks at its watermarks, or one by one."""
    folding, merge, merged = (
        Folding(small_definitions()),
        Merge(small_definitions().merge),
        Merged(),
    )
    for flush in flushes:
        for block in folding.flush(**flush):
            merge.apply(block)
            if settle_each:
                merged.note(merge, merge.settle())
    merged.note(merge, merge.settle())
    for block in folding.flush({}, dict.fromkeys(SOURCES, END_MS)):
        merge.apply(block)
    merged.note(merge, merge.settle())
    merged.outcomes.sort(key=_by_rule_and_time)
    assert merge.whole
    assert merge.too_late == 0
    return folding, merged


def _by_rule_and_time(outcome: dict[str, Any]) -> tuple[Any, ...]:
    # A group decides in order; between groups it depends on when the watermarks are looked at.
    return outcome["rule_id"], outcome["event_time"], str(outcome["subject"])


@st.composite
def _cut_up(draw: st.DrawFn, history: Mapping[Source, list[Event]]) -> list[dict[str, Any]]:
    """Return the history in flushes: each partition cut anywhere, partitions taken in any order."""
    places = st.lists(st.integers(0, 12), max_size=4)
    left = {source: list(cut(events, draw(places))) for source, events in history.items()}
    empty = [source for source in SOURCES if source not in history]
    flushes = []
    while left or empty:
        chosen = draw(st.sets(st.sampled_from(sorted([*left, *empty])), min_size=1, max_size=3))
        taken = {source: left[source].pop(0) for source in sorted(chosen) if source in left}
        told = {source: None for source in sorted(chosen) if source in empty}
        left = {source: pieces for source, pieces in left.items() if pieces}
        empty = [source for source in empty if source not in told]
        parts = draw(st.integers(1, 3))
        flushes.append({"taken": taken, "advances": told, "parts": parts})
    return flushes


@st.composite
def _histories_in_flushes(draw: st.DrawFn) -> tuple[dict[Source, list[Event]], list[Any]]:
    history = draw(histories())
    return history, draw(_cut_up(history))


@law(60)
@given(_histories_in_flushes(), st.booleans())
def test_no_cut_and_no_interleaving_changes_what_is_counted_or_decided(played, settle_each):
    """Cut into any flushes, taken in any order, in any parts: one big batch gives the same.

    Sums, histograms, attributes, finals and every decision of a rule with its evidence; and all
    totals are those of a loop in plain Python.
    """
    history, flushes = played
    whole, at_once = _play([{"taken": history}], settle_each=False)
    cut_up, in_pieces = _play(flushes, settle_each=settle_each)
    decided = {
        source: decide(events, small_definitions().inputs[source[0]].lateness)
        for source, events in history.items()
    }
    accounts = {source: account for source, (_, account) in decided.items()}

    assert without_zeros(totals({s: applied for s, (applied, _) in decided.items()})) == (
        in_pieces.rows
    )
    assert {"FINAL"} >= set(in_pieces.statuses.values())
    assert at_once == in_pieces
    for folding in (whole, cut_up):
        assert accounts == {source: _account(folding.state(source)) for source in history}


def _account(state: SourceState) -> Account:
    found = state.account
    return Account(
        found.consumed, found.applied, found.duplicates, found.expired, found.dead_lettered
    )


def test_every_record_is_accounted_for_once():
    """A record is dead, expired, a duplicate or applied: the first of these that holds."""
    state = SourceState()
    records = [
        record(INTERACTIONS, "a", NOON_MS),
        record(INTERACTIONS, "a", NOON_MS),
        record(INTERACTIONS, "b", NOON_MS + 60_000),
        record(INTERACTIONS, "a", NOON_MS),
        record(INTERACTIONS, "c", NOON_MS + 38_000),
        record(INTERACTIONS, "d", NOON_MS + 37_999),
    ]
    admission = admit(state, frame(INTERACTIONS, *records), 8, LATENESS)

    assert [True, False, True, False, True, False] == admission.applied.tolist()
    assert [False, False, False, True, False, True] == admission.expired.tolist()
    assert Account(8, 3, 1, 2, 2) == _account(state)
    assert NOON_MS + 58_000 == state.watermark_ms


def test_a_logged_advance_decides_about_the_events_after_it():
    """An idle advance raises the watermark at its position, and never lowers it."""
    state = SourceState()
    admit(state, frame(INTERACTIONS, record(INTERACTIONS, "a", NOON_MS)), 1, LATENESS)
    state.advance(NOON_MS - 50_000)
    state.advance(NOON_MS + 50_000)
    late = record(INTERACTIONS, "b", NOON_MS + 29_999)
    admission = admit(state, frame(INTERACTIONS, late), 1, LATENESS)

    assert [True] == admission.expired.tolist()


def test_the_newest_ids_are_kept_whatever_flush_they_came_in():
    """Of events at one instant a rule quotes the same ones, taken at once or one by one."""
    low = [
        record(
            EVALUATIONS, f"e{n}", NOON_MS, evaluation_id=f"v{n}", interaction_id=f"i{n % 2}",
            score_percent=10.0,
        )
        for n in range(5)
    ]  # fmt: skip
    tell = [{"taken": {}, "advances": dict.fromkeys(SOURCES[:4])}]
    tell += [{"taken": {}, "advances": {(EVALUATIONS, 1): None}}]
    _, at_once = _play([*tell, {"taken": {(EVALUATIONS, 0): low}}], settle_each=True)
    single = [{"taken": {(EVALUATIONS, 0): [event]}} for event in low]
    _, one_by_one = _play([*tell, *single], settle_each=True)

    assert at_once.outcomes == one_by_one.outcomes
    assert len(at_once.outcomes) > 0


# -- versions -------------------------------------------------------------------------------------

#: What rules need to know before they look: the other partitions hold nothing.
_TOLD = [
    {"taken": {}, "advances": dict.fromkeys(SOURCES[:4])},
    {"taken": {}, "advances": {(EVALUATIONS, 1): None}},
]


def _review(name: str, version: int, score: float, second: int = 0) -> Event:
    return record(
        EVALUATIONS, name, NOON_MS + second * 1_000, version=version, evaluation_id=name,
        interaction_id=f"contact of {name}", score_percent=score,
    )  # fmt: skip


def _one_by_one(events: list[Event]) -> list[dict[str, Any]]:
    return [*_TOLD, *({"taken": {(EVALUATIONS, 0): [event]}} for event in events)]


@law(30)
@given(
    st.lists(st.integers(1, 5), min_size=1, max_size=3).flatmap(
        lambda counts: st.permutations(
            [
                _review(f"v{n}", v, 10.0 * v + n)
                for n, most in enumerate(counts)
                for v in range(1, most + 1)
            ]
        )
    ),
    st.lists(st.integers(0, 12), max_size=4),
)
def test_the_highest_version_counts_in_whatever_order_they_come(events, places):
    """Any order of versions and any cut add up to what the highest versions alone add up to."""
    highest = {e["event_id"]: e for e in sorted(events, key=lambda e: int(e["version"]))}
    pieces = [{"taken": {(EVALUATIONS, 0): list(piece)}} for piece in cut(events, places)]
    _, alone = _play(
        [*_TOLD, {"taken": {(EVALUATIONS, 0): list(highest.values())}}], settle_each=True
    )
    folding, all_of_them = _play([*_TOLD, *pieces], settle_each=True)

    assert (alone.rows, alone.statuses) == (all_of_them.rows, all_of_them.statuses)
    assert _without_ids(alone.outcomes) == _without_ids(all_of_them.outcomes)
    account = folding.state((EVALUATIONS, 0)).account
    assert account.consumed == account.applied + account.duplicates == len(events)
    assert account.applied >= len(highest)


def _without_ids(outcomes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    nothing: dict[str, list[str]] = {"interaction_ids": [], "evaluation_ids": []}
    return [{**o, "evidence": [{**e, **nothing} for e in o["evidence"]]} for o in outcomes]


def test_rules_take_a_restatement_that_comes_on_time_and_keep_what_they_knew_otherwise():
    """What was decided rests on what was known then; the records of KPIs take it all."""
    low, good = _review("v1", 1, 10.0), _review("v1", 2, 90.0)
    later = _review("v2", 1, 90.0, second=40)
    _, on_time = _play(_one_by_one([low, good, later]), settle_each=True)
    _, late = _play(_one_by_one([low, later, good]), settle_each=True)
    taken = {"taken": {(EVALUATIONS, 0): [low, later, good]}}
    _, before_any_tick = _play([taken, *_TOLD], settle_each=True)

    assert late == before_any_tick
    assert on_time.rows == late.rows
    assert [] == on_time.outcomes
    assert [("weak-agent", 10.0)] == [
        (outcome["rule_id"], outcome["evidence"][0]["value"]) for outcome in late.outcomes
    ]


def test_evidence_does_not_name_what_was_taken_back():
    """It leaves its place empty: which ids are named does not hang on the cuts."""
    reviews = [_review(f"v{n}", 1, 10.0, second=n) for n in range(3)]
    events = [*reviews, _review("v2", 2, 60.0, second=2), _review("end", 1, 20.0, second=30)]
    _, one_by_one = _play(_one_by_one(events), settle_each=True)
    _, at_once = _play([*_TOLD, {"taken": {(EVALUATIONS, 0): events}}], settle_each=True)

    assert one_by_one.outcomes == at_once.outcomes
    assert ["v1"] == one_by_one.outcomes[0]["evidence"][0]["evaluation_ids"]
