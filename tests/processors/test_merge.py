"""Partials add up to windows, finals and ticks: the chain of blocks, and what time does."""

from dataclasses import replace
from typing import Any

import pytest

from processors.merge import Block, ChainBroken, Merge, Stretch
from processors.watermark import BEFORE_ALL_MS
from tests.builders import EVALUATIONS, INTERACTIONS, NOON_MS, SURVEYS, record, small_definitions
from tests.timeline import SOURCES, Event, Folding, Merged, Source

FIRST, SECOND = (INTERACTIONS, 0), (INTERACTIONS, 1)

#: What a queue's first minute ends with before it is final: its end, the graces and the reach.
INTERACTIONS_FINAL_MS = NOON_MS + 60_000 + 20_000
SURVEYS_FINAL_MS = NOON_MS + 60_000 + 30_000 + 60_000

MINUTE = ("queue", "TUMBLING:60000", NOON_MS, "billing")


def answered(name: str, seconds: float, **fields: Any) -> Event:
    """Return an answer of a queue, so many seconds after noon."""
    time = NOON_MS + int(seconds * 1000)
    usual = {"event_type": "ANSWERED", "queue_wait_ms": 60_000, "interaction_id": name}
    return record(INTERACTIONS, name, time, **usual | fields)


class Playing:
    """Blocks as they come, with what is published and decided after each."""

    def __init__(self, *empty: Source) -> None:
        self.folding = Folding(small_definitions())
        self.merge = Merge(small_definitions().merge)
        self.merged = Merged()
        self.flush({}, dict.fromkeys(empty))

    def flush(self, taken: Any, advances: Any = None, parts: int = 1) -> None:
        for block in self.folding.flush(taken, advances, parts):
            self.apply(block)

    def apply(self, block: Block) -> None:
        self.merge.apply(block)
        self.merged.note(self.merge, self.merge.settle())

    def at(self, seconds: float, *sources: Source) -> None:
        """Advance the watermark of partitions."""
        self.flush({}, dict.fromkeys(sources, NOON_MS + int(seconds * 1000)))

    def status(self, row: Any = MINUTE) -> str | None:
        return self.merged.statuses.get(row)

    @property
    def decided(self) -> dict[str, list[float]]:
        """Seconds after noon of the decisions, by rule, in the order in which they were made."""
        found: dict[str, list[float]] = {}
        for outcome in self.merged.outcomes:
            seconds = (outcome["event_time"] - NOON_MS) / 1000
            found.setdefault(outcome["rule_id"], []).append(seconds)
        return found

    def outcomes(self, rule: str) -> list[dict[str, Any]]:
        """Return the decisions of a rule in full."""
        return [outcome for outcome in self.merged.outcomes if outcome["rule_id"] == rule]


def _block(source: Source, start: int, end: int, part: int = 0, parts: int = 1) -> Block:
    return Block((Stretch(*source, start, end, NOON_MS, start == 0),), part, parts, ())


# -- the chain ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "found"),
    [
        pytest.param([(0, 5)], (6, 9), id="a stretch is missing"),
        pytest.param([(0, 5)], (3, 9), id="a stretch came twice in part"),
        pytest.param([(0, 5, 0, 2)], (5, 9), id="a part is missing"),
        pytest.param([(0, 5, 0, 3)], (0, 5, 2, 3), id="parts out of order"),
        pytest.param([], (0, 5, 1, 2), id="the first part is missing"),
        pytest.param([], (5, 9), id="the first stretch is missing"),
        pytest.param([(0, 5, 0, 2)], (0, 7, 1, 2), id="a part of another flush"),
    ],
)
def test_partials_that_do_not_join_are_refused(before, found):
    """A gap is never added up: it names the partition, what was found and what was expected."""
    merge = Merge(small_definitions().merge)
    for block in before:
        merge.apply(_block(FIRST, *block))

    with pytest.raises(ChainBroken, match=r"contact-centre\.interactions\.v1\[0\]: found partials"):
        merge.apply(_block(FIRST, *found))


def test_partials_that_were_applied_before_are_skipped_and_counted():
    """Sent again whole, a block changes neither sums nor positions."""
    playing = Playing()
    blocks = playing.folding.flush({FIRST: [answered("a", 1)]})
    blocks += playing.folding.flush({FIRST: [answered("b", 2)]})
    for block in [*blocks, *blocks]:
        playing.apply(block)

    assert playing.merge.skipped == 2
    assert {"answered": 2, "wait": 120_000} == playing.merged.rows[MINUTE].sums


def test_old_and_new_positions_in_one_block_are_refused():
    """A flush is applied whole or not at all."""
    merge = Merge(small_definitions().merge)
    merge.apply(_block(FIRST, 0, 5))
    mixed = tuple(Stretch(*source, 0, 5, NOON_MS, begins=True) for source in (FIRST, SECOND))

    with pytest.raises(ChainBroken, match="old and new"):
        merge.apply(Block(mixed, 0, 1, ()))


def test_windows_that_were_opened_long_before_are_packed_as_rows_come(monkeypatch):
    """A topic that is far ahead opens all of a day; others fill them, in few and large blocks."""
    monkeypatch.setattr("processors.merge.FREEZE_ROWS", 4)
    monkeypatch.setattr("processors.merge.HOT_BYTES", 0)
    playing = Playing()
    playing.flush({FIRST: [answered(str(n), 60 * n) for n in range(5)]})
    state = playing.merge.scopes["queue"]
    minute = [window.size_ms for window in state.scope.windows].index(60_000)
    first, last = (minute, NOON_MS), (minute, NOON_MS + 240_000)
    opened = {first, last} & state.segments.hot.keys()
    playing.flush({FIRST: [answered(q, 250, queue_id=q) for q in "abcdef"]})

    assert {first, last} == opened
    assert ({first}, {last}) == tuple(
        {first, last} & places.keys() for places in (state.segments.cold, state.segments.hot)
    )


def test_a_block_in_part_holds_back_publication_and_ticks():
    """Sums belong to positions only when all parts of a flush are there."""
    others = [source for source in SOURCES if source != FIRST]
    playing = Playing(*others)
    events = [answered("a", 1), answered("b", 2), answered("c", 200)]
    first, *rest = playing.folding.flush({FIRST: events}, parts=3)
    playing.apply(first)

    assert not playing.merge.whole
    assert ({}, {}) == (playing.decided, playing.merged.rows)
    assert not any(playing.merge.has_changed(scope) for scope in playing.merge.scopes)
    for block in rest:
        playing.apply(block)
    assert playing.merge.whole
    assert playing.status() == "FINAL"
    assert [20.0] == playing.decided["slow-queue"]


# -- finality -------------------------------------------------------------------------------------


def test_a_record_is_final_when_every_source_has_passed_end_grace_and_reach():
    """PROVISIONAL until the slower source, with the longer grace and its reach, is through too."""
    playing = Playing(SECOND, (SURVEYS, 1), (EVALUATIONS, 0), (EVALUATIONS, 1))
    survey = record(SURVEYS, "s", NOON_MS + 5_000, queue_id="billing")
    playing.flush({FIRST: [answered("a", 1)], (SURVEYS, 0): [survey]})
    timeline = [playing.status()]
    playing.flush({}, {FIRST: INTERACTIONS_FINAL_MS, (SURVEYS, 0): SURVEYS_FINAL_MS - 1})
    timeline.append(playing.status())
    playing.flush({}, {(SURVEYS, 0): SURVEYS_FINAL_MS})

    assert ["PROVISIONAL", "PROVISIONAL", "FINAL"] == [*timeline, playing.status()]


def test_a_kpi_is_final_when_its_own_sources_are():
    """Final sources are told apart, so a queue's waits need not wait for surveys."""
    playing = Playing(SECOND, (SURVEYS, 1))
    survey = record(SURVEYS, "s", NOON_MS + 5_000, queue_id="billing")
    playing.flush({FIRST: [answered("a", 1)], (SURVEYS, 0): [survey]})
    finals = []
    for watermark in (INTERACTIONS_FINAL_MS - 1, INTERACTIONS_FINAL_MS):
        for block in playing.folding.flush({}, {FIRST: watermark}):
            playing.merge.apply(block)
        playing.merge.settle()
        finals += [c.final for c in playing.merge.changed("queue") if c.window.kind == "TUMBLING"]

    assert [frozenset({"interactions"})] == finals


def test_a_partition_that_is_not_announced_holds_finals_and_ticks_back():
    """Of a partition nobody has looked at, anything may still come."""
    playing = Playing((SURVEYS, 0), (SURVEYS, 1))
    playing.flush({FIRST: [answered("a", 1), answered("b", 2)]})
    playing.at(3_600, FIRST)

    assert ("PROVISIONAL", {}) == (playing.status(), playing.decided)
    playing.flush({}, {SECOND: None})
    assert playing.status() == "FINAL"
    assert [20.0] == playing.decided["slow-queue"]


def test_a_topic_that_is_empty_holds_nothing_back():
    """Where no survey was ever written, the scope's other sources decide when it is final."""
    playing = Playing(SECOND, (SURVEYS, 0), (SURVEYS, 1))
    playing.flush({FIRST: [answered("a", 1)]})
    playing.flush({}, {FIRST: SURVEYS_FINAL_MS - 1})
    before = playing.status()
    playing.flush({}, {FIRST: SURVEYS_FINAL_MS})

    assert ("PROVISIONAL", "FINAL") == (before, playing.status())


def test_a_final_record_that_changes_after_all_is_revised():
    """A partition taken for empty may bring events of a window that is final for its source."""
    survey = record(SURVEYS, "s", NOON_MS + 5_000, queue_id="billing")
    playing = Playing(SECOND, (SURVEYS, 1))
    playing.flush({FIRST: [answered("a", 1)], (SURVEYS, 0): [survey]})
    playing.flush({}, {FIRST: INTERACTIONS_FINAL_MS})
    playing.flush({SECOND: [answered("late", 3)]})
    assert playing.status() == "PROVISIONAL"
    playing.flush({}, {(SURVEYS, 0): SURVEYS_FINAL_MS, SECOND: SURVEYS_FINAL_MS})

    assert playing.status() == "REVISED"
    assert {"answered": 2, "wait": 120_000, "responses": 1, "points": 4} == (
        playing.merged.rows[MINUTE].sums
    )


def test_rows_for_a_window_that_is_gone_are_counted_and_open_nothing():
    """A total of late rows alone would pass for the whole of the window."""
    playing = Playing(SECOND, (SURVEYS, 0), (SURVEYS, 1), (EVALUATIONS, 0), (EVALUATIONS, 1))
    playing.flush({FIRST: [answered("a", 1)]})
    playing.at(7_200, FIRST)
    finals = dict(playing.merged.rows)
    playing.flush({SECOND: [record(INTERACTIONS, "late", NOON_MS + 3_000)]})
    changed = {row: total for row, total in playing.merged.rows.items() if finals[row] != total}

    # One row each of five hopping windows, and two minutes: of the queue and of no agent.
    assert playing.merge.too_late == 7
    assert {"queue"} == {row[0] for row in changed}
    assert {"DAY:86400000"} == {row[1] for row in changed}


def test_hopping_windows_hold_what_came_in_their_length():
    """A window of five minutes that moves by one holds each minute five times."""
    playing = Playing()
    playing.flush({FIRST: [answered("a", 1), answered("b", 61), answered("c", 299)]})
    hopping = {
        (row[2] - NOON_MS) // 60_000: total.sums["answered"]
        for row, total in playing.merged.rows.items()
        if row[1] == "HOPPING:300000"
    }

    assert {-4: 1, -3: 2, -2: 2, -1: 2, 0: 3, 1: 2, 2: 1, 3: 1, 4: 1} == hopping


@pytest.mark.parametrize(
    ("last_second", "start", "hours"),
    [
        pytest.param(1_774_821_599_000, 1_774_738_800_000, 23, id="spring"),
        pytest.param(1_792_969_199_000, 1_792_879_200_000, 25, id="autumn"),
    ],
)
def test_the_day_is_that_of_the_zone_over_the_change_of_clocks(last_second, start, hours):
    """The first and the last second of a day in Berlin count together, the next one does not."""
    playing = Playing()
    times = [start, last_second, last_second + 1_000]
    events = [record(INTERACTIONS, str(n), time) for n, time in enumerate(times)]
    playing.flush({FIRST: events})
    days = {
        row[2]: total.sums["offered"]
        for row, total in playing.merged.rows.items()
        if row[1] == "DAY:86400000"
    }

    assert {start: 2, start + hours * 3_600_000: 1} == days


# -- publication ----------------------------------------------------------------------------------


def test_a_hopping_window_that_fills_up_is_published_once_and_then_when_it_is_the_fullest():
    """That it has begun is told at once; what is repeated is the one that readers look at."""
    playing = Playing(SECOND)

    def hopping(*events: Event, filling: bool = False) -> dict[str, list[int]]:
        """Return the starts that are published, in minutes after noon, by queue."""
        for block in playing.folding.flush({FIRST: [*events]}):
            playing.merge.apply(block)
        found: dict[str, list[int]] = {}
        for changed in playing.merge.changed("queue", filling=filling):
            if changed.window.kind == "HOPPING":
                for key in changed.keys:
                    minute = (changed.segment.start_ms - NOON_MS) // 60_000
                    found.setdefault(key, []).append(minute)
        return found

    timeline = [
        hopping(answered("a", 1)),
        hopping(answered("b", 2)),
        hopping(answered("c", 3, queue_id="sales")),
        hopping(answered("d", 61)),
        hopping(),
    ]

    assert [
        {"billing": [-4, -3, -2, -1, 0]},
        {"billing": [-4]},
        {"sales": [-4, -3, -2, -1, 0]},
        {"billing": [-3, 1]},
        {},
    ] == timeline
    assert [True, False] == [
        playing.merge.has_changed("queue", filling=filling) for filling in (True, False)
    ]
    assert {"billing": [-2, -1, 0]} == hopping(filling=True)
    assert not playing.merge.has_changed("queue")


def test_what_is_final_of_a_hopping_window_goes_out_at_once():
    """Also of the newest, of which nobody has seen more than its first record."""
    playing = Playing(SECOND)
    for taken, advances in (({FIRST: [answered("a", 1)]}, {}), ({}, {FIRST: NOON_MS + 3_600_000})):
        for block in playing.folding.flush(taken, advances):
            playing.merge.apply(block)
        playing.merge.settle()
        found = [
            (each.segment.start_ms, each.final)
            for each in playing.merge.changed("queue", filling=False)
            if each.window.kind == "HOPPING"
        ]

    final = frozenset({"interactions"})
    assert [(NOON_MS + minute * 60_000, final) for minute in (-4, -3, -2, -1, 0)] == found


# -- ticks ----------------------------------------------------------------------------------------

OTHERS = tuple(source for source in SOURCES if source != FIRST)


def _one_by_one(*events: Event) -> Playing:
    playing = Playing(*OTHERS)
    for event in events:
        playing.flush({FIRST: [event]})
    playing.at(3_600, FIRST)
    return playing


def _at_once(*events: Event) -> Playing:
    playing = Playing(*OTHERS)
    playing.flush({FIRST: events}, {FIRST: NOON_MS + 3_600_000})
    return playing


def test_one_flush_over_many_ticks_runs_each_of_them_in_order():
    """What is sustained for a tick fires on the second, though all came at once."""
    events = [answered("a", 1), answered("b", 2), answered("c", 95), answered("d", 96)]
    playing = _at_once(*events)

    assert [20.0, 110.0] == playing.decided["slow-queue"]
    assert _one_by_one(*events).decided == playing.decided


def test_an_event_that_is_in_time_for_a_quiet_tick_is_seen_by_rules():
    """While nothing goes on, ticks are skipped only up to where events may still come."""
    events = [answered("a", 111), answered("b", 109.5), answered("c", 112)]

    at_once, one_by_one = _at_once(*events), _one_by_one(*events)

    for rule in ("slow-queue", "slow-agent"):
        assert at_once.outcomes(rule) == one_by_one.outcomes(rule)
    assert [130.0] == at_once.decided["slow-queue"]


def test_what_goes_quiet_is_not_looked_at_again():
    """After a pause ticks go on where they were: nothing is decided twice."""
    first = [answered("a", 1), answered("b", 2)]
    again = [answered("c", 301), answered("d", 302)]
    playing = _one_by_one(*first, *again)

    assert [20.0, 320.0] == playing.decided["slow-queue"]
    assert playing.decided == _at_once(*first, *again).decided


def test_panes_wait_for_the_slowest_source_that_a_rule_of_the_scope_reads():
    """Rules over evaluations see their panes, though those over interactions are far ahead."""
    low = record(EVALUATIONS, "v", NOON_MS + 5_000, score_percent=10.0)
    playing = Playing(SECOND, (SURVEYS, 0), (SURVEYS, 1))
    answers = [answered("a", 1, agent_id="A2"), answered("b", 598, agent_id="A2")]
    playing.flush({FIRST: answers, (EVALUATIONS, 0): [low]})
    playing.at(600, FIRST)
    before = playing.decided
    playing.at(600, (EVALUATIONS, 0), (EVALUATIONS, 1))

    assert {"slow-agent": [20.0, 600.0], "slow-queue": [20.0]} == before
    assert {**before, "weak-agent": [10.0]} == playing.decided


def test_a_watermark_is_unknown_until_every_partition_is_announced():
    """Before all instants, then the lowest of those that hold data."""
    merge = Merge(small_definitions().merge)
    merge.apply(_block(FIRST, 0, 5))
    unknown = merge.topic_watermark("interactions")
    empty = replace(_block(SECOND, 0, 0).sources[0], watermark_ms=None)
    merge.apply(Block((empty,), 0, 1, ()))

    assert (BEFORE_ALL_MS, NOON_MS) == (unknown, merge.topic_watermark("interactions"))


def test_records_that_nobody_can_read_say_nothing_about_time():
    """A partition whose first records are dead is not empty: what comes next may be old."""
    playing = Playing((SURVEYS, 0), (SURVEYS, 1))
    playing.flush({FIRST: [answered("a", 1), answered("b", 2)]})
    playing.at(3_600, FIRST)
    playing.apply(Block((Stretch(*SECOND, 0, 3, None, begins=True),), 0, 1, ()))
    dead = (playing.status(), playing.decided)
    playing.apply(Block((Stretch(*SECOND, 3, 3, None),), 0, 1, ()))

    assert ("PROVISIONAL", {}) == dead
    assert ("FINAL", [20.0]) == (playing.status(), playing.decided["slow-queue"])
