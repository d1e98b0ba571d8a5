"""The oracle against a recomputation in plain Python, and against published examples."""

from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from streams.verify.definitions import definitions
from streams.verify.ledger import Account, Advance
from streams.verify.recompute import bucket_bounds
from tests.oracle.support import (
    HOUR_MS,
    MINUTE_MS,
    REGISTRY,
    Log,
    ledger_of,
    naive,
    records_of,
)

# Midnight in Berlin before the clocks go forward: a day of 23 hours.
SPRING = 1_774_738_800_000
# Midnight before they go back: one of 25.
AUTUMN = 1_792_879_200_000

_moments = st.sampled_from([SPRING, AUTUMN]).flatmap(
    lambda day: st.integers(day - HOUR_MS, day + 27 * HOUR_MS)
)
_bunched = st.integers(SPRING + 24 * HOUR_MS, SPRING + 27 * HOUR_MS)
_times = st.one_of(_bunched, _moments)
_partitions = st.integers(0, 3)


@st.composite
def interactions(draw):
    at = draw(_times)
    return "interaction", {
        "event_id": draw(st.sampled_from("abcdefgh")),
        "version": draw(st.integers(1, 2)),
        "event_time": at,
        "event_type": draw(st.sampled_from(["OFFERED", "ANSWERED"])),
        "queue_id": draw(st.sampled_from(["sales", "vip", "o'hara, |%"])),
        "queue_wait_ms": draw(st.integers(0, 60_000)),
        "offered_time": draw(st.one_of(st.none(), st.just(at - 20 * MINUTE_MS))),
    }


@st.composite
def surveys(draw):
    at = draw(_times)
    return "survey", {
        "event_id": draw(st.sampled_from("abcd")),
        "version": draw(st.integers(1, 3)),
        "event_time": at,
        "queue_id": draw(st.sampled_from(["sales", None])),
        "interaction_time": draw(st.one_of(st.none(), st.just(at - 3 * HOUR_MS))),
        "csat": draw(st.one_of(st.none(), st.integers(1, 5))),
    }


@st.composite
def evaluations(draw):
    names = st.sampled_from(["greeting", "empathy"])
    items = st.lists(st.tuples(names, st.sampled_from([0.5, 1.0])), max_size=3)
    return "evaluation", {
        "event_id": draw(st.sampled_from("abcd")),
        "version": draw(st.integers(1, 3)),
        "event_time": draw(_times),
        "queue_id": draw(st.sampled_from(["sales", None])),
        "agent_id": draw(st.sampled_from(["ann", "bob"])),
        "score_percent": draw(st.sampled_from([0.0, 33.333333, 87.5])),
        "items": [
            {
                "section_id": "s",
                "question_id": question,
                "score": score,
                "max_score": 1.0,
                "weight": 1.0,
                "critical": False,
                "applicable": True,
            }
            for question, score in draw(items)
        ],
    }


@st.composite
def logs(draw):
    log = Log()
    events = st.one_of(interactions(), surveys(), evaluations())
    for contract, fields in draw(st.lists(events, max_size=60)):
        log.add(contract, draw(_partitions), **fields)
    for position, watermark in draw(st.lists(st.tuples(st.integers(0, 8), _times), max_size=2)):
        log.advances.append(Advance("interactions", draw(_partitions), position, watermark))
    filled = log.partitions()
    # An advance stands at a position that the partition has reached.
    log.advances = [
        each
        for each in log.advances
        if each.position <= len(filled.get(("interaction", each.partition), ()))
        and ("interaction", each.partition) in filled
    ]
    return log


@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(log=logs())
def test_any_log_gives_the_records_and_accounts_of_a_recomputation_event_by_event(log):
    """Disorder, duplicates, versions, idle advances, null keys and clock changes included."""
    with ledger_of(log) as ledger:
        found = records_of(ledger, REGISTRY)
        accounts = {(a.topic.removesuffix("s"), a.partition): a for a in ledger.accounts()}

    expected = naive(log)
    assert expected.records.keys() == found.keys()
    for place, fields in expected.records.items():
        assert _rounded(fields) == _rounded(found[place]), place
    assert expected.watermarks == {key: a.watermark_ms for key, a in accounts.items()}
    assert expected.accounts == {
        key: {name: getattr(a, name) for name in expected.accounts[key]}
        for key, a in accounts.items()
    }
    assert all(a.balances for a in accounts.values())


def _rounded(fields):
    """Return the fields with floats cut to twelve digits: the order of operations shows beyond."""
    return {k: float(f"{v:.12g}") if isinstance(v, float) else v for k, v in fields.items()}


def _kpis(log, registry):
    with ledger_of(log) as ledger:
        (fields,) = records_of(ledger, registry).values()
    return {
        name.removeprefix("v:"): value for name, value in fields.items() if name.startswith("v:")
    }


def test_eight_contacts_of_half_an_hour_give_the_published_values():
    """D365's example: AHT 251 s, ASA 20 s, service level 62.5 %, and 71.4 % of those answered."""
    log = Log()
    waits = (8, 15, 4, 45, 30, 10, 20, 53)
    handled = (220, 260, 310, None, 170, 360, 240, 200)
    for i, (wait, handle) in enumerate(zip(waits, handled, strict=True)):
        at = SPRING + i * MINUTE_MS
        log.add("interaction", 0, event_type="OFFERED", event_time=at)
        if handle is None:
            kind = "ABANDONED"
        else:
            kind = "ANSWERED"
            done = at + 10 * MINUTE_MS
            log.add(
                "interaction", 0, event_type="COMPLETED", event_time=done, talk_ms=handle * 1000
            )
        log.add(
            "interaction",
            0,
            event_type=kind,
            event_time=at + wait * 1000,
            queue_wait_ms=wait * 1000,
        )
    registry = definitions(
        [
            {
                "scopes": [{"id": "all", "key": [], "windows": ["30m"]}],
                "measures": [
                    _counted("offered", "event_type = 'OFFERED'"),
                    _counted("answered", "event_type = 'ANSWERED'"),
                    _counted("in_time", "event_type = 'ANSWERED' AND queue_wait_ms <= 20000"),
                    _counted("strict", "event_type = 'ANSWERED' AND queue_wait_ms < 20000"),
                    _counted("wait", "CASE WHEN event_type = 'ANSWERED' THEN queue_wait_ms END"),
                    _counted("handled", "talk_ms IS NOT NULL"),
                    _counted("talk", "talk_ms"),
                ],
                "kpis": [
                    _ratio("aht", "seconds", "talk", "handled"),
                    _ratio("asa", "seconds", "wait", "answered"),
                    _ratio("sl", "percent", "in_time", "offered"),
                    _ratio("sl_strict", "percent", "strict", "offered"),
                    _ratio("sl_of_answered", "percent", "in_time", "answered"),
                ],
            }
        ]
    )

    expected = {
        "aht": 1760 / 7,
        "asa": 20.0,
        "sl": 62.5,
        "sl_strict": 50.0,
        "sl_of_answered": 500 / 7,
    }
    assert pytest.approx(expected) == _kpis(log, registry)


def test_a_thousand_answers_and_sixty_abandons_give_the_five_published_service_levels():
    """ICMI's example: 83.0, 86.0, 81.1, 82.7 and 82.1 %, by formula."""
    log = Log()
    answered = [10_000] * 860 + [60_000] * 140
    abandoned = [4_000] * 10 + [15_000] * 10 + [30_000] * 40
    for kind, waits in (("ANSWERED", answered), ("ABANDONED", abandoned)):
        for wait in waits:
            log.add("interaction", 0, event_type=kind, event_time=SPRING, queue_wait_ms=wait)
    registry = definitions(
        [
            {
                "scopes": [{"id": "all", "key": [], "windows": ["day"]}],
                "measures": [
                    _counted("answered", "event_type = 'ANSWERED'"),
                    _counted("abandoned", "event_type = 'ABANDONED'"),
                    _counted("in_time", "event_type = 'ANSWERED' AND queue_wait_ms <= 20000"),
                    _counted("left", "event_type = 'ABANDONED' AND queue_wait_ms <= 20000"),
                    _counted("short", "event_type = 'ABANDONED' AND queue_wait_ms <= 10000"),
                ],
                "kpis": [
                    _ratio("f1", "percent", "in_time + left", "answered + abandoned"),
                    _ratio("f2", "percent", "in_time", "answered"),
                    _ratio("f3", "percent", "in_time", "answered + abandoned"),
                    _ratio("f4", "percent", "in_time", "answered + abandoned - left"),
                    _ratio("f5", "percent", "in_time + short", "answered + abandoned"),
                ],
            }
        ]
    )

    found = {name: round(value, 1) for name, value in _kpis(log, registry).items()}
    assert {"f1": 83.0, "f2": 86.0, "f3": 81.1, "f4": 82.7, "f5": 82.1} == found


def test_satisfaction_of_a_hundred_and_seven_answers_is_the_published_share():
    """(42 + 32) of 107 answers are fours and fives: 69.16 %."""
    log = Log()
    for score, times in ((5, 42), (4, 32), (3, 10), (2, 9), (1, 14)):
        for _ in range(times):
            log.add("survey", 0, event_time=SPRING, csat=score)
    registry = definitions(
        [
            {
                "scopes": [{"id": "all", "key": [], "windows": ["day"]}],
                "measures": [
                    {"id": "responses", "source": "surveys", "value": "csat IS NOT NULL"},
                    {"id": "satisfied", "source": "surveys", "value": "csat >= 4"},
                ],
                "kpis": [_ratio("csat", "percent", "satisfied", "responses")],
            }
        ]
    )

    assert round(_kpis(log, registry)["csat"], 2) == 69.16


def test_bad_records_are_dead_letters_by_reason_and_nothing_else_is_touched():
    """Each record that cannot be read or breaks its contract is one dead letter with its reason."""
    log = Log(append_ms=SPRING)
    log.add("interaction", 0, event_time=SPRING)
    log.add_bytes("interaction", 0, None)
    log.add_bytes("interaction", 0, b"")
    log.add_bytes("interaction", 0, b"\x00\x00\x00\x00\x07nonsense")
    log.add("interaction", 0, event_time=SPRING, event_type="ANSWERED", queue_wait_ms=-1)
    log.add("interaction", 0, event_time=SPRING + 300_001)
    log.add("interaction", 0, event_time=SPRING + 300_000)
    log.add(
        "evaluation",
        0,
        event_time=SPRING,
        items=[
            {
                "section_id": "s",
                "question_id": "q",
                "score": 2.0,
                "max_score": 1.0,
                "weight": 1.0,
                "critical": False,
                "applicable": True,
            }
        ],
    )

    with ledger_of(log) as ledger:
        reasons = ledger.sql.execute(
            'SELECT "position", reason FROM interaction_outcome WHERE reason IS NOT NULL ORDER BY 1'
        ).fetchall()
        accounts = ledger.accounts()

    assert [
        (1, "UNDECODABLE"),
        (2, "UNDECODABLE"),
        (3, "UNKNOWN_SCHEMA"),
        (4, "CONTRACT"),
        (5, "FUTURE_TIME"),
    ] == reasons
    assert [
        Account("interactions", 0, 7, 2, 0, 0, 5, SPRING + 298_000),
        Account("evaluations", 0, 1, 0, 0, 0, 1, None),
    ] == accounts


def test_a_restatement_takes_back_what_it_replaces_and_leaves_its_record():
    """The highest version counts, at its own queue; where the first counted there are zeros."""
    log = Log()
    for version, queue, csat in ((1, "sales", 2), (3, "vip", 5), (2, "billing", 1)):
        log.add(
            "survey", 0, event_id="s", event_time=SPRING, version=version, queue_id=queue, csat=csat
        )
    with ledger_of(log) as ledger:
        found = records_of(ledger, REGISTRY)
        (account,) = ledger.accounts()

    assert {"sales": (0, 0, None), "vip": (5, 1, 5.0)} == {
        key[0]: (row["csat_points"], row["csat_answers"], row["v:csat"])
        for (_, key, kind, *_), row in found.items()
        if kind == "DAY"
    }
    assert (3, 2, 1) == (account.consumed, account.applied, account.duplicates)


def test_a_version_says_nothing_where_a_topic_is_not_restatable():
    """The first record of an id stays, and those after it are duplicates."""
    log = Log()
    for version, queue in ((1, "sales"), (2, "vip")):
        log.add("interaction", 0, event_id="i", event_time=SPRING, version=version, queue_id=queue)
    with ledger_of(log) as ledger:
        keys = {key for _, key, *_ in records_of(ledger, REGISTRY)}
        (account,) = ledger.accounts()

    assert {("sales",)} == keys
    assert (2, 1, 1) == (account.consumed, account.applied, account.duplicates)


def test_histogram_buckets_follow_the_published_rule_and_cover_thirty_days():
    """Every whole duration is within 1 % of what its bucket stands for."""
    bounds = bucket_bounds()

    assert (0, -(2**62), 0.0) == bounds[0]
    for (_, first, stands_for), (_, after, _) in pairwise(bounds[1:]):
        assert first * 0.99 <= stands_for * (1 + 1e-12)
        assert abs(stands_for - first) <= 0.01 * first * (1 + 1e-9) + 1e-9
        assert abs(stands_for - (after - 1)) <= 0.01 * (after - 1) * (1 + 1e-9) + 1e-9


def _counted(name, value):
    return {"id": name, "source": "interactions", "value": value}


def _ratio(name, unit, numerator, denominator):
    return {"id": name, "unit": unit, "numerator": numerator, "denominator": denominator}
