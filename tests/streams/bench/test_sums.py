"""What all engines must come to, and how what they have sent is read."""

import json

import pytest

from streams.bench.load import FIRST_MS, parts
from streams.bench.scenarios import load_scenarios
from streams.bench.sums import Expected, Unreadable, differences, found_cells, totals

REFERENCE = load_scenarios()["reference-catch-up"]
EVENTS = 2_000


def one_by_one(events):
    """Return the same in a loop over records, as one would write it without any library."""
    cells = {}
    (load,) = parts(REFERENCE.seed, REFERENCE.per_hundred, 0, events, REFERENCE.per_second)
    for event in load.columns.to_pylist():
        kind = event["event_type"]
        answered, completed = kind == "ANSWERED", kind == "COMPLETED"
        sums = (
            1,
            int(kind == "OFFERED"),
            int(answered),
            int(answered and event["queue_wait_ms"] <= 20_000),
            event["queue_wait_ms"] if answered else 0,
            event["talk_ms"] if completed else 0,
            event["hold_ms"] if completed else 0,
            event["after_contact_work_ms"] if completed else 0,
        )
        keys = {"overall": "all"} | {
            scope: event[f"{scope}_id"] for scope in ("queue", "team", "issue", "agent")
        }
        window_ms = event["event_time"] // 60_000 * 60_000
        for scope, key in keys.items():
            if key is not None:
                before = cells.get((scope, key, window_ms), (0,) * 8)
                cells[scope, key, window_ms] = tuple(map(sum, zip(before, sums, strict=True)))
    return cells


def record(key, value):
    return key.encode(), json.dumps(value).encode()


def test_the_sums_are_those_of_a_loop_over_the_events():
    """Whatever adds them up, whole numbers are the same to the last."""
    expected = Expected(REFERENCE)

    assert one_by_one(EVENTS) == expected.cells(EVENTS)


def test_an_event_counts_once_in_each_scope_that_it_has_a_key_of():
    """An offered interaction has no agent and no team yet, the other two steps have both."""
    expected = Expected(REFERENCE)
    sums = totals(expected.cells(EVENTS))

    assert {"agent", "issue", "overall", "queue", "team"} == sums.keys()
    assert [EVENTS] * 3 == [sums[scope][0] for scope in ("overall", "queue", "issue")]
    assert sums["team"] == sums["agent"] == [EVENTS - sums["overall"][1], 0, *sums["overall"][2:]]
    assert expected.updates(EVENTS) == 3 * EVENTS + 2 * sums["team"][0]


def test_the_sums_of_a_prefix_do_not_depend_on_what_follows():
    """Engines that do part of the load are held to that part."""
    expected = Expected(REFERENCE)

    assert EVENTS == totals(expected.cells(EVENTS))["overall"][0]
    assert 10 == totals(expected.cells(10))["overall"][0]


def test_the_newest_update_of_a_key_counts():
    """Updates replace each other; what an engine keeps apart by partition is added up."""
    ones, twos = [1] * 8, [2] * 8
    records = [
        record("queue|q1|60000|0", ones),
        record("queue|q1|60000|0", twos),
        record('"queue|q1|60000|3"', ones),
        record("queue|q1|120000", ones),
        (b"queue|q1|120000", None),
    ]

    assert {("queue", "q1", 60_000): (3,) * 8, ("queue", "q1", 120_000): (1,) * 8} == found_cells(
        records
    )


def test_a_window_may_stand_in_the_value():
    """One engine has a form of its own for windows, and keeps it."""
    value = {"start": FIRST_MS, "end": FIRST_MS + 60_000, "value": [1] * 8}
    later = {**value, "value": [5] * 8}

    assert {("team", "t7", FIRST_MS): (5,) * 8} == found_cells(
        [record("team|t7", value), record("team|t7", later)]
    )


@pytest.mark.parametrize(
    ("key", "value"), [("queue|q1", [1] * 8), ("queue|q1|60000", [1] * 7), ("queue|q1|0", "1")]
)
def test_what_is_no_update_is_refused(key, value):
    """A peer that sends something else has not done the job."""
    with pytest.raises(Unreadable, match=r"expected 8 sums of scope\|key\|window"):
        found_cells([record(key, value)])


def test_differences_name_scope_key_and_window():
    """Right totals do not make up for sums in the wrong place."""
    expected = {("queue", "q1", 0): (1,) * 8, ("queue", "q2", 0): (2,) * 8}
    swapped = {("queue", "q1", 0): (2,) * 8, ("queue", "q3", 0): (1,) * 8, ("site", "s", 0): ()}

    assert [] == list(differences(expected, expected))
    assert [
        "queue: 3 sums differ, first q1 at 0: [2, 2, 2, 2, 2, 2, 2, 2],"
        " expected [1, 1, 1, 1, 1, 1, 1, 1]; q2 at 0: nothing,"
        " expected [2, 2, 2, 2, 2, 2, 2, 2]; q3 at 0: [1, 1, 1, 1, 1, 1, 1, 1], expected nothing",
        "scopes: ['site'], expected ['overall', 'queue', 'team', 'issue', 'agent']",
    ] == list(differences(swapped, expected))
