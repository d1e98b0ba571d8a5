"""The demo's summary: roll-ups from sums, and planted problems against actions."""

from pathlib import Path

import pytest

from processors.kpis import Registry, load_registry
from schemas.contract import contract_schemas
from streams.cli.demo_summary import Verdict, compare, rolled_up
from streams.sources.centre import Planted

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def registry() -> Registry:
    return load_registry(ROOT / "deploy/kpis", contract_schemas())


def day(queue: str, start_time: int, **measures: float) -> dict:
    return {
        "key": [{"name": "queue_id", "value": queue}],
        "window": {"kind": "DAY", "start_time": start_time},
        "measures": [{"name": name, "value": value} for name, value in measures.items()],
    }


def action(rule_id: str, action_type: str = "COACHING", status: str = "OPEN", **key: str) -> dict:
    return {
        "status": status,
        "rule_id": rule_id,
        "action_type": action_type,
        "subject": {"key": [{"name": name, "value": value} for name, value in key.items()]},
    }


LOW_TONE = Planted("COACHING", "coaching-item", {"agent_id": "amber-01"})
LOW_TEAM = Planted("TRAINING", "training-item", {"team_id": "birch"})


def test_kpis_of_several_days_come_from_their_sums(registry):
    """Two days of 1 of 10 and 9 of 90 abandoned are 10 of 100; an absent measure counts 0."""
    rows = rolled_up(
        registry,
        [
            day("billing", 0, offered=10, abandoned=1),
            day("billing", 1, offered=90, abandoned=9, evaluations=2, evaluation_score=170.5),
            day("orders", 0, answered=0),
        ],
    )
    (billing, values), (orders, nothing) = rows

    assert (["billing", "orders"], 100, 10.0, 85.25) == (
        [billing, orders],
        values["offered"],
        values["abandonment_rate"],
        values["qa_score"],
    )
    assert nothing["abandonment_rate"] is None


def test_each_planted_problem_takes_one_action():
    """Every plant finds its action by type, rule and subject; further key columns do not matter."""
    actions = [
        action("training-item", "TRAINING", team_id="birch", question_id="tone"),
        action("coaching-item", team_id="amber", agent_id="amber-01"),
    ]

    assert Verdict((), ()) == compare([LOW_TONE, LOW_TEAM], actions)
    assert compare([LOW_TONE, LOW_TEAM], actions).is_right


def test_a_missed_problem_and_an_action_without_one_are_told():
    """A subject that differs is a miss on one side and a surplus on the other."""
    other = action("coaching-item", team_id="amber", agent_id="amber-02")

    assert Verdict((LOW_TONE,), (other,)) == compare([LOW_TONE], [other])


def test_a_problem_that_was_none_takes_its_action_withdrawn():
    """Open it would tell a person of a mistake; withdrawn, another problem would be forgotten."""
    mistaken = Planted("COACHING", "coaching-item", {"agent_id": "amber-01"}, withdrawn=True)
    open_, gone = (
        action("coaching-item", status=s, agent_id="amber-01") for s in ("OPEN", "WITHDRAWN")
    )

    assert compare([mistaken], [gone]).is_right
    assert Verdict((mistaken,), (open_,)) == compare([mistaken], [open_])
    assert Verdict((LOW_TONE,), (gone,)) == compare([LOW_TONE], [gone])


def test_a_second_action_for_one_problem_is_one_too_many():
    """One problem explains one action."""
    once = action("coaching-item", agent_id="amber-01")

    assert Verdict((), (once,)) == compare([LOW_TONE], [once, dict(once)])
