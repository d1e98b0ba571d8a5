"""The shipped KPIs, from events through compiled measures to values, n and states."""

import numpy as np
import pytest

from processors.kpis import KPI_STATES, load_registry
from schemas.contract import contract_schemas
from tests.processors.kpi_events import (
    REFERENCE_JOB,
    evaluations,
    interactions,
    kpis,
    shipped,
    surveys,
    values,
)

ICMI = interactions(
    {"event_type": "OFFERED", "times": 1060},
    {"event_type": "ANSWERED", "queue_wait_ms": 20_000, "times": 860},
    {"event_type": "ANSWERED", "queue_wait_ms": 20_001, "times": 140},
    {"event_type": "ABANDONED", "queue_wait_ms": 5_000, "times": 10},
    {"event_type": "ABANDONED", "queue_wait_ms": 20_000, "times": 10},
    {"event_type": "ABANDONED", "queue_wait_ms": 20_001, "times": 40},
)


def test_the_service_level_formulas_can_be_told_apart():
    """ICMI's example: 860 of 1,000 answers in time, 60 abandons of which 20 in time, 10 short.

    Formula 1 gives 83.0 %, 2 gives 86.0 %, 3 gives 81.1 %, 4 gives 82.7 %.
    """
    expected = {
        "service_level_abandons_as_met": 100 * 880 / 1060,
        "service_level_of_answered": 86.0,
        "service_level_of_offered": 100 * 860 / 1060,
        "service_level_without_threshold_abandons": 100 * 860 / 1040,
        "service_level": 100 * 860 / 1050,
        "abandonment_rate": 100 * 60 / 1060,
        "abandonment_rate_without_short_abandons": 100 * 50 / 1050,
    }
    found = values(shipped(), "queue", {"interactions": ICMI}, *expected)

    assert {name: round(value, 9) for name, value in expected.items()} == found


def test_a_fifth_formula_is_a_user_s_own_few_lines(tmp_path):
    """ICMI's formula 5, short abandons as met, gives 82.1 % without a line of code."""
    (tmp_path / "own.yaml").write_text("""
parameters:
  - {id: limit_ms, by: queue_id, default: 20000}
scopes:
  - {id: queue, key: [queue_id], pane: 10s, windows: [15m]}
measures:
  - {id: offered, source: interactions, value: "event_type = 'OFFERED'"}
  - id: in_time
    source: interactions
    value: "event_type = 'ANSWERED' AND queue_wait_ms <= limit_ms"
  - id: short
    source: interactions
    value: "event_type = 'ABANDONED' AND queue_wait_ms <= 5000"
kpis:
  - id: own_level
    title: Own level
    unit: percent
    numerator: in_time + short
    denominator: offered
""")
    registry = load_registry(tmp_path, contract_schemas())

    assert {"own_level": (pytest.approx(100 * 870 / 1060), 1060, "OK")} == kpis(
        registry, "queue", {"interactions": ICMI}
    )


def test_cisco_s_three_service_levels():
    """70 answered in time, 10 abandoned in time, 20 late: 77.8 %, 80 % and 70 %."""
    frame = interactions(
        {"event_type": "OFFERED", "times": 100},
        {"event_type": "ANSWERED", "queue_wait_ms": 19_000, "times": 70},
        {"event_type": "ANSWERED", "queue_wait_ms": 21_000, "times": 20},
        {"event_type": "ABANDONED", "queue_wait_ms": 10_000, "times": 10},
    )
    expected = {
        "service_level_without_threshold_abandons": round(700 / 9, 9),
        "service_level_abandons_as_met": 80.0,
        "service_level_of_offered": 70.0,
    }

    assert expected == values(shipped(), "queue", {"interactions": frame}, *expected)


def test_eight_contacts_of_half_an_hour():
    """Dynamics 365's example, 14:00 to 14:30: waits, one abandon after 45 s, seven handle times."""
    waits = [8, 15, 4, 30, 10, 20, 53]
    handle_times = [220, 260, 310, 170, 360, 240, 200]
    frame = interactions(
        {"event_type": "OFFERED", "times": 8},
        {"event_type": "ABANDONED", "queue_wait_ms": 45_000},
        *({"event_type": "ANSWERED", "queue_wait_ms": 1000 * w} for w in waits),
        *(
            {
                "event_type": "COMPLETED",
                "talk_ms": 1000 * h - 50_000,
                "after_contact_work_ms": 50_000,
            }
            for h in handle_times
        ),
    )
    expected = {
        "offered": 8.0,
        "average_handle_time": round(1760 / 7, 9),
        "average_speed_of_answer": 20.0,
        "service_level": 62.5,
        "service_level_of_offered": 62.5,
        "service_level_of_answered": round(500 / 7, 9),
        "average_time_in_queue": 23.125,
        "average_after_contact_work": 50.0,
        "after_contact_work_ratio": round(100 * 350 / 1760, 9),
    }

    assert expected == values(shipped(), "queue", {"interactions": frame}, *expected)


def test_customer_satisfaction_is_the_share_of_fours_and_fives():
    """42 fives, 32 fours, 10 threes, 9 twos, 14 ones: 74 of 107; no answer is no response."""
    counts = {5: 42, 4: 32, 3: 10, 2: 9, 1: 14}
    frame = surveys(
        *({"csat": score, "times": times} for score, times in counts.items()),
        {"csat": None, "nps": 3, "times": 20},
        {"event_type": "INVITED", "times": 500},
    )
    found = kpis(shipped(), "agent", {"surveys": frame})

    assert (pytest.approx(69.16, abs=0.005), 107, "CRITICAL") == found["csat"]
    assert (pytest.approx(400 / 107), 107, "OK") == found["csat_mean"]


def test_first_contact_resolution_is_what_customers_say():
    """280 of 400 resolved at the first contact is 70 %; a second contact is not the first."""
    frame = surveys(
        {"resolved": True, "contacts_needed": 1, "times": 200},
        {"resolved": True, "times": 80},
        {"resolved": True, "contacts_needed": 2, "times": 50},
        {"resolved": False, "contacts_needed": 1, "times": 70},
        {"contacts_needed": 1, "times": 9},
    )
    found = kpis(shipped(), "issue", {"surveys": frame})

    assert (70.0, 400, "WARNING") == found["first_contact_resolution"]


def test_promoters_less_detractors_and_the_share_that_found_it_easy():
    """9 and 10 promote, 0 to 6 detract; 5 to 7 of 7 is easy."""
    frame = surveys(
        *({"nps": score, "times": 5} for score in (0, 6, 7, 8, 9, 10, 10)),
        *({"ces": score, "times": 10} for score in (1, 4, 5, 7)),
    )
    found = kpis(shipped(), "overall", {"surveys": frame})

    assert (pytest.approx(100 * 5 / 35), 35, "OK") == found["nps"]
    assert (50.0, 40, "OK") == found["ces"]


def test_only_regular_evaluations_that_stand_count():
    """Calibrations, self-assessments and deleted evaluations enter no quality KPI."""
    frame = evaluations(
        {"score_percent": 90.5, "times": 3},
        {"score_percent": 70.0, "evaluator_kind": "AUTO", "times": 2},
        {"score_percent": 0.0, "auto_failed": True},
        {"score_percent": 10.0, "purpose": "CALIBRATION", "auto_failed": True},
        {"score_percent": 10.0, "purpose": "SELF"},
        {"score_percent": 10.0, "status": "DELETED"},
    )
    found = kpis(shipped(), "team", {"evaluations": frame})

    assert (pytest.approx(411.5 / 6), 6, "CRITICAL") == found["qa_score"]
    assert (pytest.approx(271.5 / 4), 4, "TOO_FEW") == found["qa_score_human"]
    assert (70.0, 2, "TOO_FEW") == found["qa_score_automatic"]
    assert (pytest.approx(100 / 6), 6, "CRITICAL") == found["auto_fail_rate"]


def test_the_score_of_a_question_weighs_points_and_leaves_out_where_it_did_not_apply():
    """100 x points given / points possible over applicable items, in the scopes of questions."""
    item = {"section_id": "s", "question_id": "greeting", "max_score": 4.0, "applicable": True}
    frame = evaluations(
        {"items": [item | {"score": 1.0}, item | {"score": 0.0, "applicable": False}], "times": 4},
        {"items": [item | {"score": 0.3, "max_score": 1.0}]},
        {"items": [item | {"score": 4.0}], "purpose": "SELF"},
        {"items": []},
    )
    expected = {"qa_item_score": (pytest.approx(100 * 4.3 / 17), 5, "CRITICAL")}

    assert expected == kpis(shipped(), "agent_item", {"evaluation_items": frame})
    assert expected == kpis(shipped(), "team_member_item", {"evaluation_items": frame})


def test_bots_answer_apart_from_people():
    """A bot's instant answers lift no service level and shorten no handle time."""
    people = interactions(
        {"event_type": "OFFERED", "times": 10},
        {"event_type": "ANSWERED", "queue_wait_ms": 30_000, "times": 10},
        {"event_type": "COMPLETED", "talk_ms": 60_000, "times": 10},
    )
    bots = interactions(
        {"handler": "BOT", "event_type": "OFFERED", "times": 90},
        {"handler": "BOT", "event_type": "ANSWERED", "queue_wait_ms": 0, "times": 90},
        {"handler": "BOT", "event_type": "COMPLETED", "talk_ms": 1_000, "times": 90},
    )
    alone = kpis(shipped(), "queue", {"interactions": people})
    together = kpis(shipped(), "queue", {"interactions": people.vstack(bots)})

    assert alone | {"bot_answered": (90.0, 90, "OK")} == together


def test_transfers_by_agents_and_into_queues_are_apart():
    """Handled is whose talk time is known; a transfer of unknown kind is the agent's."""
    frame = interactions(
        {"event_type": "COMPLETED", "talk_ms": 0, "times": 20},
        {"event_type": "COMPLETED", "times": 5},
        {"event_type": "TRANSFERRED", "transfer_kind": "WARM", "times": 3},
        {"event_type": "TRANSFERRED", "times": 1},
        {"event_type": "TRANSFERRED", "transfer_kind": "QUEUE", "times": 2},
    )
    found = kpis(shipped(), "agent", {"interactions": frame})

    assert (20.0, 20, "WARNING") == found["transfer_rate"]
    assert (10.0, 20, "OK") == found["queue_transfer_rate"]


def test_blocked_contacts_were_never_offered():
    """5 refused and 95 offered are 5 % of 100 attempts; what ended in the IVR is in neither."""
    frame = interactions(
        {"event_type": "BLOCKED", "times": 5},
        {"event_type": "OFFERED", "times": 95},
        {"event_type": "LEFT_IVR", "times": 30},
        {"event_type": "MISSED", "ring_ms": 9_000, "times": 2},
    )
    found = kpis(shipped(), "overall", {"interactions": frame})

    assert (5.0, 100, "WARNING") == found["blocked_rate"]
    assert (30.0, 30, "OK") == found["left_ivr"]
    assert (2.0, 2, "OK") == found["missed"]


def test_quantiles_rest_on_the_histogram_s_own_count():
    """Half of the waits are 10 s and nine in ten 40 s, within 1 %; abandons are not among them."""
    frame = interactions(
        {"event_type": "ANSWERED", "queue_wait_ms": 10_000, "times": 5},
        {"event_type": "ANSWERED", "queue_wait_ms": 40_000, "times": 4},
        {"event_type": "ANSWERED", "queue_wait_ms": 90_000},
        {"event_type": "ABANDONED", "queue_wait_ms": 900_000, "times": 50},
        {"event_type": "COMPLETED", "talk_ms": 100_000, "hold_ms": 20_000},
    )
    found = kpis(shipped(), "queue", {"interactions": frame})

    assert (pytest.approx(10, rel=0.01), 10, "OK") == found["queue_wait_p50"]
    assert (pytest.approx(40, rel=0.01), 10, "OK") == found["queue_wait_p90"]
    assert (pytest.approx(120, rel=0.01), 1, "TOO_FEW") == found["handle_time_p90"]


def test_no_data_is_null_with_n_0():
    """Without events every count is 0, every other KPI null with n = 0."""
    counts = {kpi.id for kpi in shipped().kpis if kpi.unit == "count"}
    found = kpis(shipped(), "overall", {})

    assert found == {
        name: (0.0, 0, "OK") if name in counts else (None, 0, "NO_DATA") for name in found
    }


def test_no_keys_have_no_kpis():
    """Nothing changed is a case of its own: empty columns, not an error."""
    scope = shipped().scope("queue")
    columns = shipped().evaluate(scope, np.zeros((0, len(scope.sums)), np.int64), {})

    assert {(0, len(scope.kpis))} == {columns.values.shape, columns.n.shape, columns.states.shape}


def test_a_scope_may_have_measures_and_no_kpi(tmp_path):
    """Its sums are published all the same, for others to compute with."""
    (tmp_path / "own.yaml").write_text("""
scopes:
  - {id: site, key: [site_id], pane: 1m, windows: [day]}
measures:
  - {id: offered, source: interactions, value: "event_type = 'OFFERED'"}
""")
    registry = load_registry(tmp_path, contract_schemas())
    columns = registry.evaluate(registry.scope("site"), np.array([[3], [4]]), {})

    assert ("UTC", (2, 0)) == (registry.zone, columns.values.shape)


def test_a_rate_needs_a_positive_base():
    """An abandon whose offer lies in the window before gives no service level, not -100 %."""
    frame = interactions({"event_type": "ABANDONED", "queue_wait_ms": 1_000})
    found = kpis(shipped(), "queue", {"interactions": frame})

    assert (None, 0, "NO_DATA") == found["service_level"]


def test_n_is_never_negative(tmp_path):
    """What rests on a negative base rests on nothing: n is 0."""
    (tmp_path / "own.yaml").write_text("""
scopes:
  - {id: overall, key: [], sources: [interactions], pane: 10s, windows: [15m]}
measures:
  - {id: offered, source: interactions, value: "event_type = 'OFFERED'"}
  - {id: abandoned, source: interactions, value: "event_type = 'ABANDONED'"}
kpis:
  - id: kept
    title: Kept
    unit: percent
    numerator: offered - abandoned
    denominator: offered - abandoned
""")
    registry = load_registry(tmp_path, contract_schemas())
    frame = interactions({"event_type": "ABANDONED", "queue_wait_ms": 0})

    assert {"kept": (None, 0, "NO_DATA")} == kpis(registry, "overall", {"interactions": frame})


def test_a_limit_can_differ_by_queue(tmp_path):
    """A queue's own threshold decides for its events; one that is not named has the default."""
    (tmp_path / "own.yaml").write_text("""
parameters:
  - {id: limit_ms, by: queue_id, default: 20000, values: {slow: 60000, fast: 5000}}
scopes:
  - {id: overall, key: [], sources: [interactions], pane: 10s, windows: [15m]}
measures:
  - {id: in_time, source: interactions, value: "queue_wait_ms <= limit_ms"}
kpis:
  - {id: in_time, title: In time, unit: count, numerator: in_time}
""")
    registry = load_registry(tmp_path, contract_schemas())
    queues = ["slow", "fast", "other"]
    frame = interactions(
        *({"queue_id": q, "queue_wait_ms": w} for q in queues for w in (5_000, 20_000, 60_000))
    )
    prepared = registry.prepare("interactions", frame)

    assert [60_000] * 3 + [5_000] * 3 + [20_000] * 3 == prepared["limit_ms"].to_list()
    assert {"in_time": (6.0, 6, "OK")} == kpis(registry, "overall", {"interactions": frame})


def test_states_say_which_side_of_the_thresholds_a_value_lies():
    """Exactly on a threshold is still good; too few are judged by nobody; null has no state."""
    registry = shipped()
    scope = registry.scope("queue")
    in_time, offered = (scope.sums.index(m) for m in ("answered_within_threshold", "offered"))
    cases = [(80, 100), (79, 100), (70, 100), (69, 100), (0, 9), (10, 10), (0, 0)]
    sums = np.zeros((len(cases), len(scope.sums)), np.int64)
    sums[:, [in_time, offered]] = cases
    columns = registry.evaluate(scope, sums, {})
    service_level = [kpi.id for kpi in scope.kpis].index("service_level")

    assert ["OK", "WARNING", "WARNING", "CRITICAL", "TOO_FEW", "OK", "NO_DATA"] == [
        KPI_STATES[state] for state in columns.states[:, service_level]
    ]
    assert [100, 100, 100, 100, 9, 10, 0] == columns.n[:, service_level].tolist()


def test_shipped_scopes_have_the_sources_and_windows_they_should():
    """Hopping windows for team and coarser, none at all where only rules look; histograms too."""
    scopes = {
        s.id: (s.key, s.attributes, len(s.windows), any(w.kind == "HOPPING" for w in s.windows))
        for s in shipped().scopes
    }

    assert scopes == {
        "overall": ((), (), 5, True),
        "queue": (("queue_id",), (), 5, True),
        "channel": (("channel",), (), 5, True),
        "team": (("team_id",), (), 5, True),
        "issue": (("issue_id",), (), 4, False),
        "agent": (("agent_id",), ("team_id",), 4, False),
        "agent_item": (("agent_id", "question_id"), ("team_id",), 1, False),
        "team_item": (("team_id", "question_id"), (), 1, False),
        "team_member": (("team_id", "agent_id"), (), 0, False),
        "team_member_item": (("team_id", "agent_id", "question_id"), (), 0, False),
    }
    assert ["overall", "queue", "channel"] == [s.id for s in shipped().scopes if s.histograms]


def test_the_reference_job_loads():
    """The benchmark's registry is one minute by five scopes over interactions alone."""
    registry = load_registry(REFERENCE_JOB, contract_schemas())

    assert ["overall", "queue", "team", "issue", "agent"] == [s.id for s in registry.scopes]
    assert {("interactions",)} == {s.sources for s in registry.scopes}
    assert {9} == {len(s.sums) for s in registry.scopes}
