"""The shipped rules: each keeps its story, and takes no chance for a problem."""

from functools import cache
from math import comb
from pathlib import Path

import numpy as np
import pytest

from processors.kpis import Registry, load_registry
from processors.rules import ImmediateRule, Rule, RuleBook, load_rules
from processors.rules.cases import check_cases
from processors.rules.statistics import wilson_bounds
from schemas.contract import contract_schemas

DEPLOY = Path(__file__).parents[3] / "deploy"


@cache
def shipped() -> tuple[Registry, RuleBook]:
    registry = load_registry(DEPLOY / "kpis", contract_schemas())
    return registry, load_rules(DEPLOY / "rules", registry)


def rule(name: str) -> Rule:
    found = shipped()[1].rule(name)
    assert isinstance(found, Rule)
    return found


def test_every_shipped_rule_keeps_its_story():
    """Each has one, and says when it fires, when not, and that it does not fire twice."""
    registry, book = shipped()
    checked = check_cases(DEPLOY / "rules", book, registry)

    assert () == checked.faults
    assert () == checked.untested


@pytest.mark.parametrize("name", [rule.id for rule in shipped()[1].rules])
def test_a_story_tells_of_firing_not_firing_and_not_firing_twice(name):
    """In so many words."""
    story = (DEPLOY / "rules" / f"{name}.test.yaml").read_text()

    for words in ("it: fires", "it: does not fire", "it: does not fire twice"):
        assert words in story


def test_there_is_a_rule_for_each_way_to_improve():
    """And about a person, a person decides."""
    rules = shipped()[1].rules
    expected = {
        "COACHING",
        "TRAINING",
        "KNOWLEDGE_UPDATE",
        "COMMUNICATION",
        "PROCESS_REVIEW",
        "RECOGNITION",
    }

    assert expected == {rule.proposal.action_type for rule in rules}
    assert {"SUGGEST"} == {rule.proposal.approval for rule in rules if "agent_id" in rule.subject}
    assert [True] == [isinstance(rule, ImmediateRule) for rule in rules if "auto" in rule.id]


# How often would an ordinary day make a rule fire? A day of 60 agents in 6 teams, 16 issues and 10
# questions, where every survey, transfer and question is a coin with an ordinary level. Each look
# at a growing (or, as the window moves on, shrinking) sample is counted as if it were independent
# of the others, which errs on the safe side: the true chance is smaller.

LOOKS_BOTH_WAYS = 2
ALLOWED = 0.01


def binomial(n: int, share: float) -> np.ndarray:
    return np.array([comb(n, k) * share**k * (1 - share) ** (n - k) for k in range(n + 1)])


def chance(n: int, share: float, bound: str, limit: float) -> float:
    """Return how likely ``n`` coins of ``share`` put a Wilson bound beyond a limit in percent."""
    percent = np.arange(n + 1) * 100.0 / n
    lower, upper = wilson_bounds(percent, np.full(n + 1, n))
    beyond = {
        "upper <": upper < limit,
        "lower >": lower > limit,
        "value <": percent < limit,
    }[bound]
    return float(binomial(n, share)[beyond].sum())


def poisson(mean: float, most: int = 60) -> np.ndarray:
    terms = [np.exp(-mean)]
    for k in range(1, most + 1):
        terms.append(terms[-1] * mean / k)
    return np.array(terms)


def test_knowledge_resolution_takes_no_chance_for_a_problem():
    """16 issues at 72 % resolved, looked at after each of up to 150 answers."""
    looks = sum(chance(n, 0.72, "upper <", 55.0) for n in range(40, 151))

    assert LOOKS_BOTH_WAYS * 16 * looks < ALLOWED


def test_process_transfers_takes_no_chance_for_a_problem():
    """16 issues at 12 % transferred, 60 contacts an hour, 15 hours of ticks every 5 minutes."""
    assert 16 * 15 * 12 * chance(60, 0.12, "lower >", 25.0) < ALLOWED


def test_coaching_takes_no_chance_for_a_problem():
    """60 agents, 10 questions at 90 %, evaluations at random, two an agent and day on average."""
    evaluated = poisson(2.0, 14)
    looks = sum(
        evaluated[total] * sum(chance(n, 0.9, "upper <", 60.0) for n in range(6, total + 1))
        for total in range(6, 15)
    )

    assert LOOKS_BOTH_WAYS * 60 * 10 * looks < ALLOWED


def test_training_takes_no_chance_for_a_problem():
    """6 teams of 10, 10 questions: three members low at once, each on four evaluations or more."""
    evaluated = poisson(2.0, 14)
    low = sum(
        evaluated[total] * sum(chance(n, 0.9, "value <", 50.0) for n in range(4, total + 1))
        for total in range(4, 15)
    )
    three = sum(binomial(10, min(LOOKS_BOTH_WAYS * low, 1.0))[3:])

    assert 6 * 10 * three < ALLOWED


def test_recognition_takes_no_chance_for_merit():
    """60 agents at 85 % satisfied, twenty answers a day on average; quality is not even counted."""
    answers = poisson(20.0)
    looks = sum(
        answers[total] * max(chance(n, 0.85, "lower >", 88.0) for n in range(30, total + 1))
        for total in range(30, 61)
    )
    # Four evaluations of 95 or more on average, where 90 with a deviation of 6 is ordinary: 5 %.
    assert 60 * looks * 0.05 < ALLOWED


def test_communication_takes_no_chance_for_a_problem():
    """30 contacts, 16 % of whose time is after-contact work that varies by as much as its mean.

    Such a ratio of sums deviates by 16 % x sqrt(1.5 / 30) = 3.6 points; 35 % is five of
    them away.
    """
    deviation = 16.0 * (1.5 / 30) ** 0.5
    threshold = rule("communication-after-contact-work").when.comparisons[0].threshold

    assert threshold - 16.0 > 5 * deviation
