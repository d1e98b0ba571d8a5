"""From what Redis holds to what a wall shows."""

from typing import Any

import pytest

from sinks.wallboard.boards import Board
from sinks.wallboard.snapshot import Head, Snapshot, member_of
from sinks.wallboard.view import board_parts, is_personal, public_action, stale_since_ms
from tests.sinks.builders import (
    COMPUTED_MS,
    MINUTE_MS,
    TEN_OCLOCK_MS,
    action,
    kpi,
    kpi_record,
    record_name,
)

HALF_PAST_MS = TEN_OCLOCK_MS + 30 * MINUTE_MS
FIVE_BY_ONE = ("HOPPING", 5 * MINUTE_MS)
TOO_FEW = kpi("service_level", 50.0, n=2, state="TOO_FEW")


def board(**fields: Any) -> Board:
    tile = {"kpi": "service_level", "window": "30m", "better": "higher"}
    return Board.model_validate({"title": "Board", "tiles": [tile]} | fields)


def snapshot(*records: dict[str, Any], **fields: Any) -> Snapshot:
    """What the reader would have read of these records."""
    heads: dict[str, Head] = {}
    for record in records:
        window = record["window"]
        head = f"{record['scope']}|{window['kind']}:{window['size_ms']}"
        newest = max(window["start_time"], heads.get(head, Head(0)).newest_start_ms or 0)
        heads[head] = Head(newest, record["computed_time"], record["watermark"])
    members = {record_name(r).split("|")[1] for r in records if r["scope"] == "queue"}
    named = {(record_name(r).rpartition("|")[0], r["window"]["start_time"]): r for r in records}
    return Snapshot(**({"heads": heads, "members": sorted(members), "records": named} | fields))


def overall(*kpis: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return kpi_record(*kpis, scope="overall", **fields)


def tile(*records: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return board_parts(board(), snapshot(*records, **fields), None, COMPUTED_MS)["tile:0"]


def test_a_tile_carries_everything_that_makes_its_number_readable():
    """Value, unit, n, target, state, status, definition, window, and when it was computed."""
    assert {
        "label": "Service level",
        "caption": "",
        "scope": "overall",
        "key": "",
        "sparkline": None,
        "kpi": "service_level",
        "definition_version": 1,
        "value": 81.25,
        "unit": "percent",
        "n": 100,
        "target": 80.0,
        "better": "higher",
        "state": "OK",
        "status": "PROVISIONAL",
        "window": {
            "text": "30m",
            "start_time": TEN_OCLOCK_MS,
            "end_time": HALF_PAST_MS,
            "current": True,
        },
        "computed_time": COMPUTED_MS,
        "fresh_time": COMPUTED_MS,
    } == tile(overall())


def test_a_kpis_own_status_goes_before_its_records():
    """A record is provisional while any KPI of it is; the one shown may be final."""
    assert "FINAL" == tile(overall(kpi("service_level", 80.0, status="FINAL")))["status"]


def test_nothing_at_all_is_no_data():
    """An empty Redis gives tiles without a number, not with 0, and nothing to be stale."""
    shown = tile()

    assert (None, 0, "NO_DATA", None) == (
        shown["value"],
        shown["n"],
        shown["state"],
        shown["fresh_time"],
    )
    assert stale_since_ms(shown, 1, COMPUTED_MS) is None


def test_the_window_before_stands_in_while_the_new_one_says_too_little():
    """At half past there are two contacts yet: the tile shows 10:00 to 10:30, and says so."""
    shown = tile(overall(), overall(TOO_FEW, start_ms=HALF_PAST_MS))

    assert (81.25, TEN_OCLOCK_MS, False) == (
        shown["value"],
        shown["window"]["start_time"],
        shown["window"]["current"],
    )


def test_too_few_is_shown_where_the_window_before_has_no_more():
    """The new window then, as it is."""
    shown = tile(overall(TOO_FEW), overall(TOO_FEW, start_ms=HALF_PAST_MS))

    assert ("TOO_FEW", HALF_PAST_MS) == (shown["state"], shown["window"]["start_time"])


def test_a_quiet_queue_has_no_data_in_the_window_that_others_have_reached():
    """What it had two windows ago is not the present."""
    long_ago = kpi_record(key={"queue_id": "quiet"}, start_ms=TEN_OCLOCK_MS - 60 * MINUTE_MS)
    rows = {
        "title": "Queues",
        "scope": "queue",
        "window": "30m",
        "columns": [{"kpi": "service_level"}],
    }

    parts = board_parts(board(rows=rows), snapshot(long_ago, kpi_record()), None, COMPUTED_MS)

    assert ["row:billing", "row:quiet"] == parts["rows"]["order"]
    assert ["OK", "NO_DATA"] == [parts[row]["cells"][0]["state"] for row in parts["rows"]["order"]]
    assert TEN_OCLOCK_MS == parts["row:quiet"]["window"]["start_time"]


def test_a_hopping_window_is_shown_when_it_is_full():
    """Events reach 10:04: shown is [10:00, 10:05), not the five that have just begun."""
    records = [
        overall(
            kpi("service_level", float(i)),
            window=FIVE_BY_ONE,
            start_ms=TEN_OCLOCK_MS + i * MINUTE_MS,
        )
        for i in range(5)
    ]
    by_minute = board(tiles=[{"kpi": "service_level", "window": "5m/1m"}])

    parts = board_parts(by_minute, snapshot(*records), None, COMPUTED_MS)

    assert 0.0 == parts["tile:0"]["value"]


def test_a_sparkline_has_equal_steps_and_gaps():
    """A minute without a record or value is null; a window that is not full is left out."""
    name = "overall||HOPPING:300000"
    history = [
        {
            "version": 1,
            "start_time": TEN_OCLOCK_MS + i * MINUTE_MS,
            "kpis": {"service_level": value},
        }
        for i, value in ((0, 70.0), (2, None), (3, 90.0), (5, 1.0))
    ]
    newest = overall(window=FIVE_BY_ONE, start_ms=TEN_OCLOCK_MS + 7 * MINUTE_MS)
    with_line = board(sparkline="5m/1m")

    parts = board_parts(with_line, snapshot(newest, history={name: history}), None, COMPUTED_MS)

    assert {
        "window": "5m/1m",
        "start_time": TEN_OCLOCK_MS,
        "end_time": TEN_OCLOCK_MS + 8 * MINUTE_MS,
        "values": [70.0, None, None, 90.0],
    } == parts["tile:0"]["sparkline"]


def test_the_filter_puts_one_queue_in_the_place_of_all():
    """Tiles of the whole show the queue, rows only this one, actions only what is about it."""
    rows = {
        "title": "Queues",
        "scope": "queue",
        "window": "30m",
        "columns": [{"kpi": "service_level"}],
    }
    filtered = board(rows=rows, actions={})
    cards = {"queue_id": "cards"}
    about_cards = {"scope": "queue", "key": [{"name": "queue_id", "value": "cards"}]}
    seen = snapshot(
        overall(),
        kpi_record(),
        kpi_record(kpi("service_level", 55.0), key=cards),
        actions=[action("a1"), action("a2", subject=about_cards)],
    )

    parts = board_parts(filtered, seen, "cards", COMPUTED_MS)

    assert ("queue", "cards", 55.0) == tuple(
        parts["tile:0"][name] for name in ("scope", "key", "value")
    )
    assert ["row:cards"] == parts["rows"]["order"]
    assert ["a2"] == [a["action_id"] for a in parts["actions"]["actions"]]
    assert ["billing", "cards"] == [c["member"] for c in parts["head"]["filter"]["choices"]]


@pytest.mark.parametrize(("age_ms", "stale"), [(60_000, None), (60_001, COMPUTED_MS)])
def test_a_tile_is_stale_when_nothing_of_its_scope_was_computed_for_too_long(age_ms, stale):
    """Until then its age is told; from then on since when."""
    assert stale == stale_since_ms(tile(overall()), 60_000, COMPUTED_MS + age_ms)


def test_a_silent_delivery_is_told():
    """Ten seconds without a sign of life."""
    seen = snapshot(overall(), beat_ms=COMPUTED_MS)
    heads = [board_parts(board(), seen, None, COMPUTED_MS + ms)["head"] for ms in (10_000, 10_001)]

    assert [None, COMPUTED_MS] == [head["delivery_silent_since"] for head in heads]


def test_an_action_shows_no_persons_id():
    """The team stays, the agent's id goes from title, reason and subject; numbers stay."""
    key = [("team_id", "T1"), ("agent_id", "17"), ("question_id", "empathy")]
    subject = {"scope": "team_member_item", "key": [{"name": n, "value": v} for n, v in key]}

    shown = public_action(
        action(
            title="Coaching for 17 on empathy",
            reason="agent 17 reached 17.5 % in 9",
            subject=subject,
        )
    )

    assert "Coaching for an agent on empathy" == shown["title"]
    assert "an agent reached 17.5 % in 9" == shown["reason"]
    assert [("Team", "T1"), ("Agent", None), ("Question", "empathy")] == [
        (part["name"], part["value"]) for part in shown["subject"]
    ]


def test_records_about_persons_are_known_by_their_key():
    """Whatever the scope is called."""
    assert is_personal(kpi_record(scope="x", key={"agent_id": "a1"}))
    assert not is_personal(kpi_record())


def test_members_are_written_as_record_keys_write_them():
    """Percent, comma and bar are escaped, nothing else that can be printed is."""
    assert "a%2Cb%7Cc%25,Überlauf 1" == member_of(["a,b|c%", "Überlauf 1"])


@pytest.mark.parametrize(
    ("watermark_ms", "reached_ms"),
    [
        (TEN_OCLOCK_MS + 90_000, TEN_OCLOCK_MS + 90_000),
        # A source is behind; the end of the stream was declared by the wall clock.
        (TEN_OCLOCK_MS - 3 * 60 * MINUTE_MS, TEN_OCLOCK_MS + MINUTE_MS),
        (COMPUTED_MS, TEN_OCLOCK_MS + 2 * MINUTE_MS),
    ],
)
def test_the_data_is_told_to_reach_as_far_as_anything_was_counted(watermark_ms, reached_ms):
    """Events reach into 10:01, so the data ends between 10:01 and 10:02."""
    newest = overall(window=FIVE_BY_ONE, start_ms=TEN_OCLOCK_MS + MINUTE_MS, watermark=watermark_ms)
    with_line = board(sparkline="5m/1m")

    parts = board_parts(with_line, snapshot(newest), None, COMPUTED_MS)

    assert reached_ms == parts["head"]["event_time"]


def test_a_series_that_is_ahead_of_its_head_shows_its_own_newest_window():
    """While a backlog is delivered records arrive before what is said of all of them."""
    ahead = overall(start_ms=HALF_PAST_MS)
    head = {"overall|TUMBLING:1800000": Head(TEN_OCLOCK_MS - 60 * MINUTE_MS, COMPUTED_MS)}

    shown = tile(ahead, heads=head, newest={"overall||TUMBLING:1800000": HALF_PAST_MS})

    assert (81.25, HALF_PAST_MS) == (shown["value"], shown["window"]["start_time"])
