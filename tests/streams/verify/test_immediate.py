"""What rules over single events should have said follows from the input, version by version."""

import json
from typing import Any
from uuid import NAMESPACE_URL, uuid5

import pytest

from streams.verify.definitions import RuleText
from streams.verify.immediate import compare_immediate
from tests.oracle.support import REGISTRY, Log, ledger_of

NOON_MS = 1_772_366_400_000
RULE = RuleText(2, None, "evaluations", "auto_failed AND status = 'SUBMITTED'", ("agent_id",))


def _log(*versions: tuple[int, str, bool]) -> Log:
    log = Log()
    for version, agent, failed in versions:
        log.add(
            "evaluation", 0, event_id="e1", event_time=NOON_MS, version=version, agent_id=agent,
            auto_failed=failed,
        )  # fmt: skip
    return log


def _action(status: str, agent: str = "ann", after: int = 1, event: str = "e1") -> dict[str, Any]:
    name = json.dumps(["failed", 2, [["agent_id", agent]], event], separators=(",", ":"))
    return {
        "action_id": str(uuid5(uuid5(NAMESPACE_URL, "andon:actions"), name)),
        "status": status,
        "rule_id": "failed",
        "rule_version": 2,
        "as_of": [{"topic": "evaluations", "partition": 0, "position": after}],
    }


def _said(log: Log, *records: dict[str, Any]) -> list[tuple[str, str]]:
    with ledger_of(log) as ledger:
        findings = compare_immediate(ledger, REGISTRY, {"failed": RULE}, records)
    assert findings.final == len(findings.first)
    return [(each.found, each.expected) for each in findings.first]


@pytest.mark.parametrize(
    ("versions", "records"),
    [
        ([(1, "ann", True)], [("OPEN", "ann", 1)]),
        ([(1, "ann", True), (2, "ann", True)], [("OPEN", "ann", 1)]),
        (
            [(1, "ann", True), (2, "ann", False), (3, "ann", True)],
            [("OPEN", "ann", 1), ("WITHDRAWN", "ann", 2)],
        ),
        ([(2, "ann", True), (1, "ann", False)], [("OPEN", "ann", 1)]),
        (
            [(1, "ann", True), (2, "bob", True)],
            [("OPEN", "ann", 1), ("OPEN", "bob", 2), ("WITHDRAWN", "ann", 2)],
        ),
    ],
)
def test_what_follows_from_the_versions_of_an_event_is_right(versions, records):
    """Opened by the first version that meets the rule, withdrawn by the first that does not."""
    assert [] == _said(_log(*versions), *(_action(*record) for record in records))


def test_everything_else_is_a_difference():
    """A withdrawal that is missing or one too many, an action of nothing, one that is not there."""
    failed, mended = _log((1, "ann", True)), _log((1, "ann", True), (2, "ann", False))
    two = _log((1, "ann", True), (2, "bob", True))
    opened, withdrawn = _action("OPEN"), _action("WITHDRAWN", after=2)

    assert [("opened", "opened, withdrawn")] == _said(mended, opened)
    assert [("opened, withdrawn", "opened")] == _said(failed, opened, _action("WITHDRAWN"))
    assert [("opened", "none")] == _said(_log((1, "ann", False)), opened)
    assert [("none", "opened")] == _said(two, opened, withdrawn)


def test_what_came_before_a_rule_or_after_the_input_is_not_judged():
    """The first action of a rule says since when it is there; a version later is another rule."""
    log = _log((1, "ann", True))
    log.add("evaluation", 0, event_id="e2", event_time=NOON_MS, agent_id="ann", auto_failed=True)

    assert [] == _said(log, _action("OPEN", after=2, event="e2"))
    assert [] == _said(_log((1, "ann", True)), _action("OPEN", after=9, event="e9"))
    assert [] == _said(log, _action("OPEN") | {"rule_version": 1})
