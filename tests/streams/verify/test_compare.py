"""Every way in which a published record can be wrong is found, and nothing else is."""

import pytest

from schemas.codec import Codec
from schemas.headers import dead_letter_headers
from schemas.registry import FileRegistry
from streams.verify.compare import (
    NEVER_MS,
    Comparison,
    SourceTime,
    compare_set_aside,
    final_until,
    source_times,
    unknown_records,
)
from streams.verify.decisions import compare_actions
from streams.verify.definitions import definitions
from streams.verify.intake import Raw, add_set_aside
from streams.verify.published import Published
from streams.verify.recompute import recompute
from streams.verify.report import Difference, Findings
from tests.oracle.support import INTERACTIONS, Log, ledger_of

NINE = 1_774_746_000_000
QUARTER_MS = 900_000
HOUR_MS = 3_600_000

KPI_CODEC = Codec("kpi-record", FileRegistry(), "andon.kpis.v1")

REGISTRY = definitions(
    [
        {
            "scopes": [{"id": "queue", "key": ["queue_id"], "windows": ["15m"]}],
            "measures": [
                {"id": "offered", "source": "interactions", "value": "event_type = 'OFFERED'"},
                {"id": "answered", "source": "interactions", "value": "event_type = 'ANSWERED'"},
            ],
            "kpis": [
                {
                    "id": "answer_rate",
                    "unit": "percent",
                    "numerator": "answered",
                    "denominator": "offered",
                }
            ],
        }
    ]
)


def record(queue="sales", start=NINE, offered=2, answered=1, **changes):
    """Return the KPI record of a queue and quarter of an hour, as it should be published."""
    whole = {
        "scope": "queue",
        "key": [{"name": "queue_id", "value": queue}],
        "attributes": [],
        "window": {
            "kind": "TUMBLING",
            "size_ms": QUARTER_MS,
            "start_time": start,
            "end_time": start + QUARTER_MS,
            "zone": "UTC",
        },
        "status": "FINAL",
        "version": 1,
        "watermark": None,
        "computed_time": NINE,
        "measures": [
            {"name": "offered", "value": float(offered)},
            {"name": "answered", "value": float(answered)},
        ],
        "kpis": [
            {
                "kpi_id": "answer_rate",
                "definition_version": 1,
                "value": 100.0 * answered / offered if offered else None,
                "n": offered,
                "unit": "percent",
                "target": None,
                "state": "OK" if offered else "NO_DATA",
                "status": None,
            }
        ],
        "as_of_id": 1,
    }
    return whole | changes


def with_kpi(whole, **changes):
    """Return the record with its KPI changed."""
    return whole | {"kpis": [whole["kpis"][0] | changes]}


LAST = record("sales", NINE + 2 * HOUR_MS, offered=1, answered=0, status="PROVISIONAL")


def quiet_log():
    """Two offers and an answer in one quarter; two hours on, an offer that makes that final."""
    log = Log()
    log.add("interaction", 0, event_time=NINE)
    log.add("interaction", 0, event_time=NINE + 1_000)
    log.add("interaction", 0, event_time=NINE + 2_000, event_type="ANSWERED", queue_wait_ms=1)
    log.add("interaction", 0, event_time=NINE + 2 * HOUR_MS + 2_000)
    return log


def judged(records, log=None):
    """Return the findings about published records, and about those that nobody defined."""
    with ledger_of(log or quiet_log()) as ledger:
        published = Published(ledger, KPI_CODEC)
        published.add([_kept(i, each) for i, each in enumerate(records)])
        published.compact()
        made = recompute(ledger, REGISTRY)
        times = source_times(ledger, ledger.inputs)
        (result,) = [Comparison(m, REGISTRY.measures, times).run(ledger) for m in made]
        return *result, unknown_records(ledger, made)


def _kept(position, whole):
    values = ",".join(part["value"] for part in whole["key"])
    window = whole["window"]
    name = f"{window['kind']}:{window['size_ms']}|{window['start_time']}"
    key = f"{whole['scope']}|{values}|{name}".encode()
    return Raw(0, position, 0, key, KPI_CODEC.encode(whole), None)


def difference(what, found, expected, start=NINE, final=True):
    return Difference("queue", "sales", f"TUMBLING:900000:{start}", what, found, expected, final)


def test_records_that_say_what_the_input_implies_have_no_difference():
    """Final and provisional records agree, and are counted."""
    compared, findings, unknown = judged([record(), LAST])

    assert Findings(0, 0, ()) == findings == unknown
    assert (2, 1, 1) == (compared.records, compared.final_records, compared.final_kpis)


def test_the_highest_version_of_a_key_is_judged_wherever_it_lies():
    """An older version that comes later changes nothing."""
    _, findings, _ = judged([record(version=7), record(offered=9, version=6), LAST])

    assert Findings(0, 0, ()) == findings


@pytest.mark.parametrize(
    ("published", "expected"),
    [
        (record(offered=3), ("measures.offered", "3.0", "2.0")),
        (with_kpi(record(), value=50.0000001), ("kpis.answer_rate.value", "50.0000001", "50.0")),
        (with_kpi(record(), value=None), ("kpis.answer_rate.value", "None", "50.0")),
        (with_kpi(record(), n=3), ("kpis.answer_rate.n", "3.0", "2.0")),
        (with_kpi(record(), state="WARNING"), ("kpis.answer_rate.state", "WARNING", "OK")),
        (
            with_kpi(record(), definition_version=2),
            ("kpis.answer_rate.definition_version", "2", "1"),
        ),
        (record(status="PROVISIONAL"), ("kpis.answer_rate.status", "PROVISIONAL", "FINAL")),
        (record(kpis=[]), ("kpis.answer_rate.value", "None", "50.0")),
        (record(measures=[]), ("measures.offered", "None", "2.0")),
    ],
)
def test_each_wrong_field_of_a_final_record_is_named_with_both_values(published, expected):
    """What differs is said with what was found and what was expected."""
    compared, findings, _ = judged([published, LAST])

    assert difference(*expected) in findings.first
    assert (1, 0, 1) == (findings.final, findings.provisional, compared.differing)


def test_a_missing_and_a_surplus_record_are_differences():
    """Each side is searched for what the other has."""
    surplus = record(start=NINE - QUARTER_MS)
    _, findings, _ = judged([surplus, LAST])

    before = NINE - QUARTER_MS
    assert (
        Findings(
            2,
            0,
            (
                difference("record", "a record", "none", before),
                difference("record", "none", "a record"),
            ),
        )
        == findings
    )


def test_what_may_still_change_is_counted_apart():
    """A provisional record that differs is no fault by itself."""
    late = LAST["window"]["start_time"]
    _, findings, _ = judged([record(), LAST | {"measures": record(offered=5)["measures"]}])

    assert (0, 1) == (findings.final, findings.provisional)
    assert difference("measures.offered", "5.0", "1.0", late, final=False) in findings.first


def test_a_record_that_is_final_too_early_is_a_difference():
    """FINAL is a promise that the watermark has not made yet."""
    late = LAST["window"]["start_time"]
    _, findings, _ = judged([record(), LAST | {"status": "FINAL"}])

    assert (0, 1) == (findings.final, findings.provisional)
    assert (
        difference("kpis.answer_rate.status", "FINAL", "PROVISIONAL", late, final=False)
        in findings.first
    )


def test_a_record_of_a_scope_that_no_file_defines_is_a_difference():
    """Nothing is published that the registry does not ask for."""
    _, _, unknown = judged([record(), LAST, record() | {"scope": "planet"}])

    assert 1 == unknown.final


def test_the_late_topic_holds_exactly_the_expired_events():
    """One record for each expired event, with its own bytes; none for any other."""
    log = quiet_log()
    log.add("interaction", 0, event_time=NINE)
    with ledger_of(log) as ledger:
        (value,) = ledger.sql.execute(
            'SELECT digest FROM interaction WHERE "position" = 4'
        ).fetchone()
        late, dead = compare_set_aside(ledger, INTERACTIONS, "late", "dead")
        assert (1, 0) == (late.final, dead.final)

        add_set_aside(ledger, "late", [_aside(4), _aside(2)])
        late, dead = compare_set_aside(ledger, INTERACTIONS, "late", "dead")

    assert value is not None
    assert (2, 0) == (late.final, dead.final)
    places = [(each.key, each.found, each.expected) for each in late.first]
    assert [
        ("interactions-0@2", "EXPIRED", "none"),
        ("interactions-0@4", "other bytes", "EXPIRED"),
    ] == places


def _aside(position):
    headers = dead_letter_headers(
        None,
        topic="interactions",
        partition=0,
        offset=position,
        reason="EXPIRED",
        exception="Expired",
        message="late",
    )
    return Raw(0, 0, 0, None, b"other", headers)


ACTION = {
    "action_id": "a1",
    "status": "OPEN",
    "rule_id": "low",
    "rule_version": 1,
    "episode_start": 5,
    "event_time": 9,
    "subject": {"scope": "agent", "key": [{"name": "agent_id", "value": "ann"}]},
    "evidence": [],
}


def test_one_action_for_an_episode_published_once_is_right():
    """A withdrawal repeats the id of its action."""
    found = compare_actions([ACTION, ACTION | {"status": "WITHDRAWN"}])

    assert (1, 1, 0) == (found.actions, found.episodes, found.findings.final)


def test_an_action_published_twice_and_an_episode_with_two_actions_are_differences():
    """A decision is made once."""
    withdrawn = ACTION | {"status": "WITHDRAWN"}
    found = compare_actions([ACTION, ACTION, ACTION | {"action_id": "a2"}, withdrawn, withdrawn])

    assert (
        Difference("agent", "ann", "", "action a1", "2 times", "once"),
        Difference("agent", "ann", "", "withdrawal of a1", "2 times", "once"),
        Difference("agent", "ann", "", "episode low@5", "a1, a2", "one action"),
    ) == found.findings.first


def test_single_events_of_one_instant_are_episodes_of_their_own():
    """Two failed evaluations of an agent in one millisecond ask for two actions."""
    first = ACTION | {"episode_start": 9, "evidence": [_evidence("v1")]}
    second = first | {"action_id": "a2", "evidence": [_evidence("v2")]}

    assert 0 == compare_actions([first, second]).findings.final


def _evidence(evaluation):
    return {"interaction_ids": [], "evaluation_ids": [evaluation]}


@pytest.mark.parametrize(
    ("contracts", "expected"),
    [
        (["interaction"], 1_000 - 60),
        (["survey"], 1_000 - 500),
        (["interaction", "survey"], 1_000 - 500),
    ],
)
def test_a_topic_without_records_lets_the_others_of_its_scope_decide(contracts, expected):
    """Without surveys, what surveys count is final by the interactions, after its own grace."""
    times = {"interaction": SourceTime(1_000, 60), "survey": SourceTime(None, 500)}

    assert expected == final_until(contracts, times, times)


def test_nothing_is_final_where_no_topic_has_records():
    """No watermark, no promise."""
    times = {"interaction": SourceTime(None, 60)}

    assert NEVER_MS == final_until(["interaction"], times, times) + 60
