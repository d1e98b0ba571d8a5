"""Tests of rules as data: a wrong story is told with its line."""

from pathlib import Path

from processors.rules import RuleBook, load_rules
from processors.rules.cases import check_cases
from tests.processors.rules.timeline import registry, write_rule

STORY = """
rule: low
cases:
  - it: fires once
    figures:
      - {from: "10:00", to: "10:05", keys: [[A1]], kpis: {quality: {value: 50, n: 9}}}
    expect:
      - {at: "10:00", decision: ACTION, subject: {agent_id: A1}}
"""


def checked(directory: Path, story: str) -> tuple[int, list[str]]:
    write_rule(directory, "low")
    book: RuleBook = load_rules(directory, registry())
    (directory / "low.test.yaml").write_text(story.lstrip())
    found = check_cases(directory, book, registry())
    return found.cases, [f"{fault.line}: {fault.reason}" for fault in found.faults]


def test_a_story_that_comes_true_is_no_fault(tmp_path):
    """It is counted."""
    assert (1, []) == checked(tmp_path, STORY)


def test_a_story_that_does_not_come_true_says_what_was_found_and_what_is_missing(tmp_path):
    """Both sides, at the line of the case."""
    expected = [
        "3: fires once: found ACTION at 10:00 for agent_id A1, which is not expected",
        "3: fires once: expected ACTION at 10:02 for agent_id A1, which is missing",
    ]

    assert (1, expected) == checked(tmp_path, STORY.replace('at: "10:00"', 'at: "10:02"'))


def test_a_story_of_another_kind_is_refused(tmp_path):
    """Unknown rules, keys, KPIs and fields, and stories without figures."""
    for old, new, fault in [
        ("rule: low", "rule: high", "1: rule: found unknown rule high"),
        ("[A1]]", "[A1, B]]", "3: fires once: found key ('A1', 'B'), expected agent_id"),
        ("{quality:", "{speed:", "3: fires once: found KPI speed, which agent has not"),
        ("figures:", "events:", "3: fires once: found no figures, expected some"),
        ("10:05", "noon", "2: low.test.yaml.cases.0.figures.0.to: found 'noon', expected match"),
    ]:
        _, (found,) = checked(tmp_path, STORY.replace(old, new))

        assert found.startswith(fault), found


def test_rules_without_a_story_are_named(tmp_path):
    """So that a check can say it."""
    write_rule(tmp_path, "low")
    book = load_rules(tmp_path, registry())

    assert ("low",) == check_cases(tmp_path, book, registry()).untested
