"""Inactive, pending, firing, resolved: what a rule decides over the ticks of event time."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from processors.actions import action_record
from processors.rules import Firing, GroupState, RuleBook
from tests.processors.rules.timeline import play, quality, rule_book, told

MEMBERS = {"scope": "member", "members": "{by: [team_id], at_least: 2, share: 0.5}"}


def test_a_rule_fires_at_the_first_tick_that_meets_its_condition(tmp_path):
    """Without sustain the first such tick decides, and the episode starts there."""
    outputs = play(rule_book(tmp_path, low={}), quality(70, 55, 55))

    assert [(2, "ACTION", "A1")] == told(outputs)
    assert 120_000 == outputs[0].episode_start_ms


def test_a_sustained_rule_fires_when_the_condition_has_held_for_that_time(tmp_path):
    """The episode starts at the first of those ticks.

    minute     1   2   3   4   5
    met            x   x   x   x
    decision                   ACTION
    """
    outputs = play(rule_book(tmp_path, low={"sustain": "3m"}), quality(70, 55, 55, 55, 55))

    assert [(5, "ACTION", "A1")] == told(outputs)
    assert 120_000 == outputs[0].episode_start_ms


def test_a_better_tick_ends_a_pending_episode(tmp_path):
    """Sustain starts anew after a tick that does not meet the condition."""
    ticks = quality(55, 55, 60, 55, 55, 55)

    assert [(6, "ACTION", "A1")] == told(play(rule_book(tmp_path, low={"sustain": "2m"}), ticks))


def test_an_absent_key_is_a_tick_that_does_not_meet_the_condition(tmp_path):
    """No data is no breach: the episode ends, and nothing is remembered of the subject."""
    state = GroupState()
    book = rule_book(tmp_path, low={"sustain": "2m"})

    assert [] == told(play(book, quality(55, 55, None), state=state))
    assert [] == state.dump()


def test_a_null_kpi_meets_no_condition(tmp_path):
    """Not even one that says the opposite."""
    ticks = {1: {("A1",): {"quality": (None, 10)}}}

    assert [] == play(rule_book(tmp_path, low={"when": '"!(quality > 60.0)"'}), ticks)


def test_an_episode_has_one_action(tmp_path):
    """However long it lasts."""
    assert [(1, "ACTION", "A1")] == told(play(rule_book(tmp_path, low={}), quality(*[55] * 30)))


def test_without_a_clear_condition_the_first_better_tick_ends_the_episode(tmp_path):
    """Then the next breach is a new episode, with a new action."""
    outputs = play(rule_book(tmp_path, low={}), quality(55, 60, 55))

    assert [(1, "ACTION", "A1"), (3, "ACTION", "A1")] == told(outputs)
    assert [60_000, 180_000] == [output.episode_start_ms for output in outputs]


def test_with_a_clear_condition_only_that_ends_the_episode(tmp_path):
    """Here when < 60, clear > 70.

    minute     1   2   3   4   5
    quality    55  65  55  75  55
    decision   A               A
    """
    book = rule_book(tmp_path, low={"clear": "quality > 70.0"})

    assert [(1, "ACTION", "A1"), (5, "ACTION", "A1")] == told(
        play(book, quality(55, 65, 55, 75, 55))
    )


def test_the_clear_condition_does_not_start_an_episode_or_keep_a_pending_one(tmp_path):
    """A pending episode needs the condition at every tick."""
    book = rule_book(tmp_path, low={"clear": "quality > 70.0", "sustain": "2m"})

    assert [] == told(play(book, quality(65, 55, 65, 55, 65, 55)))


def test_within_the_cooldown_a_new_episode_is_held_back_and_told_once(tmp_path):
    """Cooldown is counted from the last action, in event time."""
    book = rule_book(tmp_path, low={"cooldown": "10m"})

    assert [(1, "ACTION", "A1"), (3, "COOLDOWN", "A1"), (5, "COOLDOWN", "A1")] == told(
        play(book, quality(55, 60, 55, 60, 55))
    )


def test_an_episode_that_outlasts_the_cooldown_is_acted_on_then(tmp_path):
    """Held back is not forgotten: the problem is still there."""
    outputs = play(rule_book(tmp_path, low={"cooldown": "5m"}), quality(55, 60, *[55] * 6))

    assert [(1, "ACTION", "A1"), (3, "COOLDOWN", "A1"), (6, "ACTION", "A1")] == told(outputs)
    assert 180_000 == outputs[-1].episode_start_ms


def test_an_episode_that_was_acted_on_is_not_acted_on_again_after_the_cooldown(tmp_path):
    """One action per episode, whatever the cooldown."""
    book = rule_book(tmp_path, low={"cooldown": "2m"})

    assert [(1, "ACTION", "A1")] == told(play(book, quality(*[55] * 9)))


def test_cooldowns_of_two_subjects_are_apart(tmp_path):
    """And outputs come in the order of subjects."""
    ticks = {
        1: {("A2",): {"quality": (10, 9)}, ("A1",): {"quality": (10, 9)}},
        2: {},
        3: {("A3",): {"quality": (10, 9)}},
    }
    outputs = play(rule_book(tmp_path, low={"cooldown": "10m"}), ticks)

    assert [(1, "ACTION", "A1"), (1, "ACTION", "A2"), (3, "ACTION", "A3")] == told(outputs)


def test_too_few_data_hold_an_episode_back_and_that_is_told_once(tmp_path):
    """After the sustain, and with the figures."""
    book = rule_book(tmp_path, low={"minimum_n": "5", "sustain": "2m"})
    outputs = play(book, quality(*[55] * 9, n=4))

    assert [(3, "TOO_FEW", "A1")] == told(outputs)
    assert [(55.0, 4)] == [(e.value, e.n) for e in outputs[0].evidence]
    assert "fewer than the least n: quality 5" == outputs[0].detail


def test_when_data_get_enough_the_rule_fires(tmp_path):
    """Sustain counts from the first tick with enough."""
    book = rule_book(tmp_path, low={"minimum_n": "5", "sustain": "2m"})
    ticks = {m: {("A1",): {"quality": (55, m)}} for m in range(1, 10)}

    assert [(3, "TOO_FEW", "A1"), (7, "ACTION", "A1")] == told(play(book, ticks))


def test_the_rest_of_an_episode_whose_data_leave_the_window_is_not_told(tmp_path):
    """It has had its action."""
    book = rule_book(tmp_path, low={"minimum_n": "5"})
    ticks = {m: {("A1",): {"quality": (55, 8 - m)}} for m in range(1, 8)}

    assert [(1, "ACTION", "A1")] == told(play(book, ticks))


def test_a_rule_without_its_own_minimum_takes_the_kpis(tmp_path):
    """Quality asks for 3."""
    book = rule_book(tmp_path, low={})

    assert [(1, "TOO_FEW", "A1")] == told(play(book, quality(55, n=2)))
    assert [(1, "ACTION", "A1")] == told(play(book, quality(55, n=3)))


def test_a_guard_that_does_not_hold_defers_the_action(tmp_path):
    """It is told once, and the action goes out when the guard holds."""
    book = rule_book(tmp_path, low={"guards": "['csat > 50.0']"})
    ticks = {
        minute: {("A1",): {"quality": (55, 9), "csat": (csat, 5)}}
        for minute, csat in enumerate([40, None, 70, 70], start=1)
    }
    outputs = play(book, ticks)

    assert [(1, "GUARD", "A1"), (3, "ACTION", "A1")] == told(outputs)
    assert "does not hold: csat > 50.0" == outputs[0].detail
    assert [("csat > 50.0", "csat 70", True)] == [
        (g.expression, g.value, g.held) for g in outputs[1].guards
    ]


def test_members_are_counted_by_subject(tmp_path):
    """Two of a team, and half of those with data: one action, with the figures of both."""
    book = rule_book(tmp_path, team=MEMBERS)
    low, high = {"quality": (50, 9)}, {"quality": (90, 1)}
    ticks = {
        1: {("T1", "A1"): low, ("T2", "B1"): low},
        2: {("T1", "A1"): low, ("T1", "A2"): low, ("T2", "B1"): low, ("T2", "B2"): high},
        3: {("T2", f"B{i}"): low if i < 2 else high for i in range(5)},
    }
    outputs = play(book, ticks)

    assert [(2, "ACTION", "T1")] == told(outputs)
    assert ["A1", "A2"] == [dict(e.key)["agent_id"] for e in outputs[0].evidence]
    assert 2 == outputs[0].population


def test_a_member_with_too_few_data_does_not_count_towards_the_quorum(tmp_path):
    """But it counts among those with data."""
    book = rule_book(tmp_path, team={**MEMBERS, "minimum_n": "5"})
    few, enough = {"quality": (50, 4)}, {"quality": (50, 5)}
    ticks = {
        1: {("T1", "A1"): enough, ("T1", "A2"): few},
        2: {("T1", "A1"): enough, ("T1", "A2"): enough},
    }

    assert [(1, "TOO_FEW", "T1"), (2, "ACTION", "T1")] == told(play(book, ticks))


@pytest.fixture
def person_or_team(tmp_path) -> RuleBook:
    """One rule for a person after two minutes, which gives way to one for the team."""
    person = {"scope": "member", "subject": "[team_id, agent_id]", "sustain": "2m"}
    team = {"scope": "member", "members": "{by: team_id, at_least: 2}"}
    return rule_book(tmp_path, a_person={**person, "inhibited_by": "z-team"}, z_team=team)


def test_a_rule_gives_way_to_its_inhibitor_in_the_same_tick(person_or_team):
    """The inhibitor stands first although its name does not."""
    low = {"quality": (50, 9)}
    ticks = {
        1: {("T1", "A1"): low, ("T2", "B1"): low},
        2: {("T1", "A1"): low, ("T2", "B1"): low},
        3: {("T1", "A1"): low, ("T1", "A2"): low, ("T2", "B1"): low},
    }
    outputs = play(person_or_team, ticks)

    assert [(3, "ACTION", "T1"), (3, "GUARD", "T1 A1"), (3, "ACTION", "T2 B1")] == told(outputs)
    assert "taken care of by z-team" == outputs[1].detail


def test_what_was_inhibited_stays_so_when_the_inhibitor_ends(person_or_team):
    """Until the key itself has been better: its next episode is a new problem."""
    low, high = {"quality": (50, 9)}, {"quality": (90, 9)}
    ticks = {
        **{m: {("T1", "A1"): low, ("T1", "A2"): low} for m in range(1, 4)},
        **{m: {("T1", "A1"): low} for m in range(4, 9)},
        9: {("T1", "A1"): high},
        **{m: {("T1", "A1"): low} for m in range(10, 14)},
    }
    expected = [
        (1, "ACTION", "T1"),
        (3, "GUARD", "T1 A1"),
        (3, "GUARD", "T1 A2"),
        (12, "ACTION", "T1 A1"),
    ]

    assert expected == told(play(person_or_team, ticks))


def test_a_new_version_of_a_rule_starts_afresh(tmp_path):
    """What another version, or a rule that is gone, remembered is dropped."""
    state = GroupState()
    play(rule_book(tmp_path / "old", low={"cooldown": "1h"}), quality(55), state=state)
    book = rule_book(tmp_path / "new", low={"cooldown": "1h", "version": "2"})

    assert [(1, "ACTION", "A1")] == told(play(book, quality(55), state=state))
    assert [2] == [row["rule_version"] for row in state.dump()]


def test_an_idle_state_may_skip_ticks_without_keys(tmp_path):
    """After one such tick only cooldowns go on, and they end by the time of a later tick."""
    book = rule_book(tmp_path, low={"cooldown": "5m"})
    waiting, skipping = GroupState(), GroupState()
    play(book, quality(55, None), state=waiting)
    play(book, quality(55, None), state=skipping)
    later = {9: {("A1",): {"quality": (55, 9)}}}

    assert skipping.is_idle
    assert [] == play(book, {minute: {} for minute in range(3, 9)}, state=waiting)
    assert [] == waiting.dump()
    assert told(play(book, later, state=waiting)) == told(play(book, later, state=skipping))


LOW_OR_NOT = st.sampled_from([(55.0, 9), (65.0, 9), (75.0, 9), (55.0, 2), (None, 0)])
KEYS = st.sampled_from([("T1", "A1"), ("T1", "A2"), ("T2", "B1")])
TICKS = st.lists(st.dictionaries(KEYS, LOW_OR_NOT), max_size=25).map(
    lambda ticks: {
        minute: {key: {"quality": row} for key, row in rows.items()}
        for minute, rows in enumerate(ticks, start=1)
    }
)


@pytest.fixture(scope="module")
def book(tmp_path_factory) -> RuleBook:
    """Rules with everything that a state remembers."""
    person = {
        "scope": "member",
        "subject": "[team_id, agent_id]",
        "sustain": "2m",
        "cooldown": "6m",
        "clear": "quality > 70.0",
        "inhibited_by": "z-team",
    }
    team = {"scope": "member", "members": "{by: team_id, at_least: 2, share: 0.5}"}
    return rule_book(tmp_path_factory.mktemp("book"), a_person=person, z_team=team)


def action_ids(outputs) -> set[str]:
    return {action_record(o, [], 0)["action_id"] for o in outputs if isinstance(o, Firing)}


@given(ticks=TICKS, saved_at=st.sets(st.integers(1, 25)), reverse=st.booleans())
@settings(max_examples=40, deadline=None)
def test_saving_the_state_and_the_order_of_keys_change_nothing(book, ticks, saved_at, reverse):
    """Wherever the ticks are cut, decisions, action ids and the state that is left are the same."""
    whole, cut = GroupState(), GroupState()
    expected = play(book, ticks, state=whole)
    half = len(ticks) // 2
    first = {m: rows for m, rows in ticks.items() if m <= half}
    rest = {m: rows for m, rows in ticks.items() if m > half}
    found = play(book, first, state=cut, saved_at=(), reverse=reverse)
    cut = GroupState.load(cut.dump())
    found += play(book, rest, state=cut, reverse=reverse)

    assert expected == found == play(book, ticks, saved_at=tuple(saved_at), reverse=reverse)
    assert action_ids(expected) == action_ids(found)
    assert whole.dump() == cut.dump()


@given(ticks=TICKS)
@settings(max_examples=40, deadline=None)
def test_an_episode_is_told_of_once(book, ticks):
    """No two decisions are alike, and no episode of a rule and subject has two actions."""
    outputs = play(book, ticks)
    episodes = [
        (o.rule.id, o.subject, o.episode_start_ms) for o in outputs if isinstance(o, Firing)
    ]
    reasons = [
        (o.rule.id, o.subject, o.episode_start_ms, o.reason, o.detail)
        for o in outputs
        if not isinstance(o, Firing)
    ]

    assert len(set(episodes)) == len(episodes) == len(action_ids(outputs))
    assert len(set(reasons)) == len(reasons)
