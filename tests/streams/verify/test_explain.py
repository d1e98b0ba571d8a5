"""What an action quotes is held against what its rule saw: no more, and no less, than that."""

import pytest

from streams.verify.definitions import RuleText, definitions
from streams.verify.explain import explain_actions
from streams.verify.intake import Extent
from streams.verify.ledger import Advance
from tests.oracle.support import HOUR_MS, MINUTE_MS, Log, ledger_of

NINE = 1_774_746_000_000
TICK = NINE + HOUR_MS

REGISTRY = definitions(
    [
        {
            "scopes": [{"id": "queue", "key": ["queue_id"], "pane": "1m", "windows": []}],
            "measures": [
                {"id": "offered", "source": "interactions", "value": "event_type = 'OFFERED'"},
                {"id": "answered", "source": "interactions", "value": "event_type = 'ANSWERED'"},
                {"id": "scored", "source": "evaluations", "value": "status = 'SUBMITTED'"},
                {
                    "id": "score",
                    "source": "evaluations",
                    "value": "score_percent",
                    "precision": 0.000001,
                },
            ],
            "kpis": [
                {
                    "id": "answer_rate",
                    "unit": "percent",
                    "numerator": "answered",
                    "denominator": "offered",
                },
                {"id": "quality", "version": 2, "numerator": "score", "denominator": "scored"},
            ],
        }
    ]
)
RULES = {
    "slow": RuleText(1, "queue", None, None),
    "failed": RuleText(1, None, "evaluations", "auto_failed"),
}


def evidence(kpi="answer_rate", **changes):
    quoted = {
        "kpi_id": kpi,
        "definition_version": 1,
        "key": [{"name": "queue_id", "value": "sales"}],
        "value": 50.0,
        "n": 2,
        "comparator": "<",
        "threshold": 80.0,
        "lower_bound": None,
        "upper_bound": None,
        "window": {"start_time": NINE, "end_time": TICK},
        "interaction_ids": [],
        "evaluation_ids": [],
    }
    return quoted | changes


def action(*quoted, rule="slow", positions=(("interactions", 0, 9),), from_time=None):
    names = ("topic", "partition", "position")
    as_of = [dict(zip(names, place, strict=True)) | {"from_time": from_time} for place in positions]
    return {
        "action_id": "a",
        "rule_id": rule,
        "rule_version": 1,
        "evidence": list(quoted),
        "as_of": as_of,
    }


def offers_and_an_answer():
    """Two offers and an answer, all on time, of three interactions."""
    log = Log()
    for n, kind in enumerate(("OFFERED", "OFFERED", "ANSWERED")):
        more = {"queue_wait_ms": 1} if kind == "ANSWERED" else {}
        time = NINE + n * MINUTE_MS
        log.add("interaction", 0, event_time=time, event_type=kind, interaction_id=f"i{n}", **more)
    return log


def explained(log, one, **options):
    with ledger_of(log) as ledger:
        (found,) = explain_actions(ledger, REGISTRY, RULES, [one], **options)
    return found


def problems(log, one, **options):
    found = explained(log, one, **options)
    return [*found.problems, *(each for entry in found.entries for each in entry.problems)]


def test_what_follows_from_the_input_is_confirmed():
    """Value, n and the events that are named; another queue and what came later say nothing."""
    log = offers_and_an_answer()
    log.add("interaction", 0, event_time=NINE, queue_id="billing")
    log.add("interaction", 0, event_time=TICK)

    found = explained(log, action(evidence(interaction_ids=["i1"])))

    assert found.agrees
    assert ["i1"] == [event.interaction_id for event in found.entries[0].events]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"value": 50.001}, "value: quoted 50.001, recomputed 50.0"),
        ({"value": None}, "value: quoted none, recomputed 50.0"),
        ({"n": 3}, "n: quoted 3, recomputed 2"),
        ({"lower_bound": 9.0, "upper_bound": 90.5}, "lower_bound: quoted 9.0, recomputed 9.45"),
        ({"interaction_ids": ["x"]}, "interaction x is not among the events that the rule saw"),
    ],
)
def test_whatever_was_changed_is_told(changed, said):
    """Each figure, each bound and each event that is named."""
    (first, *_) = problems(offers_and_an_answer(), action(evidence(**changed)))

    assert first.startswith(said)


def test_only_what_lies_before_the_positions_is_looked_at():
    """An event behind them is not in the figures, however early it happened."""
    one = action(evidence(), positions=[("interactions", 0, 1)])

    assert ["n: quoted 2, recomputed 1", "value: quoted 50.0, recomputed 0.0"] == problems(
        offers_and_an_answer(), one
    )


def test_an_event_that_came_after_its_pane_was_over_is_not_seen():
    """By the watermark of its own partition, which a logged advance may have raised."""
    late = offers_and_an_answer()
    late.add("interaction", 0, event_time=NINE + 10 * MINUTE_MS)
    late.add("interaction", 0, event_time=NINE)
    raised = offers_and_an_answer()
    raised.add("interaction", 0, event_time=NINE + 5 * MINUTE_MS)
    raised.advances.append(Advance("interactions", 0, 3, NINE + 6 * MINUTE_MS))
    other = offers_and_an_answer()
    other.add("interaction", 0, event_time=NINE + 10 * MINUTE_MS)
    other.add("interaction", 1, event_time=NINE)
    two = action(evidence(), positions=[("interactions", 0, 9), ("interactions", 1, 9)])

    assert ["n: quoted 2, recomputed 3"] == problems(late, action(evidence()))[:1]
    assert [] == problems(raised, action(evidence()))
    assert ["n: quoted 2, recomputed 4"] == problems(other, two)[:1]


def test_of_a_partition_that_joined_late_only_what_came_in_time_is_seen():
    """Rules had decided up to ``from_time`` when its first event came."""
    log = offers_and_an_answer()
    one = action(evidence(value=100.0, n=1), from_time=NINE + MINUTE_MS)

    assert [] == problems(log, one)


def test_a_restatement_takes_back_what_was_seen_if_it_came_in_time():
    """Later, the rule has the version before in its figures, and the new one where that fits."""

    def log(*versions):
        made = Log()
        for version, (time, score) in enumerate(versions, 1):
            made.add(
                "evaluation",
                0,
                event_id="e",
                version=version,
                event_time=time,
                queue_id="sales",
                score_percent=score,
            )
        return made

    def quoted(value, n):
        figures = {"definition_version": 2, "value": value, "n": n}
        return action(evidence("quality", **figures), positions=[("evaluations", 0, 9)])

    assert [] == problems(log((NINE, 40.0), (NINE, 70.0)), quoted(70.0, 1))
    late = log((NINE, 40.0), (NINE, 70.0))
    late.advances.append(Advance("evaluations", 0, 1, NINE + 5 * MINUTE_MS))
    assert [] == problems(late, quoted(40.0, 1))


def test_an_event_that_meets_its_rule_is_confirmed_and_another_is_not():
    """A rule over single events quotes the event just before its position."""
    log = Log()
    log.add("evaluation", 0, event_time=NINE, evaluation_id="v1", auto_failed=True)
    log.add("evaluation", 0, event_time=NINE, evaluation_id="v2")
    window = {"start_time": NINE, "end_time": NINE}

    def of(evaluation, position):
        ids = {"interaction_ids": ["i"], "evaluation_ids": [evaluation]}
        figures = {"value": None, "n": 1, "window": window, **ids}
        place = [("evaluations", 0, position)]
        return action(evidence("fails", **figures), rule="failed", positions=place)

    assert [] == problems(log, of("v1", 1))
    assert "no such event was counted that meets the rule: auto_failed" in problems(
        log, of("v2", 2)
    )


def test_what_cannot_be_recomputed_is_said_in_words():
    """Another version of the KPI, no rule file, a topic that ends before the position."""
    log = offers_and_an_answer()
    newer = problems(log, action(evidence("quality", definition_version=1)))
    nobody = problems(log, action(evidence(), rule="gone"))
    extents = [Extent("interactions", 0, 0, 9, 3)]
    anew = problems(log, action(evidence()), extents=extents)

    assert ["cannot be recomputed: decided by version 1 of quality, the files have 2"] == newer
    assert nobody[0].startswith("no rule file has gone: set ANDON_RULES_DIR")
    assert [
        "the action includes interactions-0 up to 9, but it ends at 3: the topic was made anew"
    ] == anew
