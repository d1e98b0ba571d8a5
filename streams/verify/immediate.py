"""What rules over single events should have said, from the input, against what they did say.

A version of an event that counts and meets a rule opens an action, unless one before it did; the
first version after that which does not meet it withdraws the action. An action's id follows from
rule, version, subject and event, so each expected one is known by its id.
"""

# ruff: noqa: S608 - every name in the SQL comes from the contracts and the rules.

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from uuid import NAMESPACE_URL, uuid5

from streams.verify.definitions import SOURCE_CONTRACTS, Definitions, RuleText
from streams.verify.ledger import Ledger, sql_name
from streams.verify.recompute import prepared
from streams.verify.report import Difference, Findings

_ACTIONS = uuid5(NAMESPACE_URL, "andon:actions")
_FIRST = 20

_Place = tuple[int, int]  # partition and position


@dataclass(slots=True)
class _Expected:
    """An action that the input leads to, and whether it is withdrawn."""

    subject: tuple[str, ...]
    opened: _Place
    withdrawn: bool = False


def compare_immediate(
    ledger: Ledger,
    definitions: Definitions,
    rules: Mapping[str, RuleText],
    records: Iterable[Mapping[str, Any]],
) -> Findings:
    """Judge decoded action records by a decided ledger.

    A rule is judged from its first action in a partition on: nobody else knows when it was added.
    Records of other versions of a rule than the present one are passed over.
    """
    published: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for record in records:
        rule = rules.get(record["rule_id"])
        if rule and rule.where is not None and rule.version == record["rule_version"]:
            published[record["rule_id"]].append(record)
    differences = [
        difference
        for rule_id, found in published.items()
        for difference in _compare(ledger, definitions, rule_id, rules[rule_id], found)
    ]
    return Findings(len(differences), 0, tuple(differences[:_FIRST]))


def _compare(
    ledger: Ledger,
    definitions: Definitions,
    rule_id: str,
    rule: RuleText,
    records: list[Mapping[str, Any]],
) -> Iterator[Difference]:
    said: dict[str, set[str]] = defaultdict(set)
    since: dict[int, int] = {}
    ends = _ends(ledger, rule)
    for record in records:
        ((partition, after),) = [(p["partition"], p["position"]) for p in record["as_of"]]
        if after <= ends.get(partition, 0):
            said[record["action_id"]].add(record["status"])
            since[partition] = min(since.get(partition, after), after)
    expected = _expected(ledger, definitions, rule_id, rule)
    for action_id in sorted(said.keys() | expected.keys()):
        wanted = expected.get(action_id)
        found, should = _words(said.get(action_id, set())), "none"
        if wanted is not None:
            should = "opened, withdrawn" if wanted.withdrawn else "opened"
            if not said.get(action_id) and wanted.opened[1] < since.get(wanted.opened[0], 2**62):
                continue
        # Only withdrawn: the version before was another rule's.
        if found not in (should, "withdrawn"):
            key = "" if wanted is None else ",".join(wanted.subject)
            yield Difference(rule_id, key, "", f"action {action_id}", found, should)


def _words(statuses: set[str]) -> str:
    words = {"OPEN": "opened", "WITHDRAWN": "withdrawn"}
    return ", ".join(word for status, word in words.items() if status in statuses) or "none"


def _ends(ledger: Ledger, rule: RuleText) -> dict[int, int]:
    table = sql_name(SOURCE_CONTRACTS[str(rule.source)])
    return dict(
        ledger.sql.execute(
            f'SELECT "partition", max("position") + 1 FROM {table} GROUP BY ALL'
        ).fetchall()
    )


def _expected(
    ledger: Ledger, definitions: Definitions, rule_id: str, rule: RuleText
) -> dict[str, _Expected]:
    """Return the actions by id, following the versions of each event that ever met the rule."""
    expected: dict[str, _Expected] = {}
    for event_id, versions in _versions(ledger, definitions, rule).items():
        open_now: set[str] = set()
        for place, subjects in versions:
            ids = {_action_id(rule_id, rule, each, event_id): each for each in subjects}
            for action_id in open_now - ids.keys():
                expected[action_id].withdrawn = True
            for action_id, subject in ids.items():
                expected.setdefault(action_id, _Expected(subject, place))
            open_now = set(ids)
    return expected


def _versions(
    ledger: Ledger, definitions: Definitions, rule: RuleText
) -> dict[tuple[int, str], list[tuple[_Place, set[tuple[str, ...]]]]]:
    """Return the versions that counted of each event that met the rule, in their order.

    With each version go the subjects that it meets the rule for.
    """
    contract = SOURCE_CONTRACTS[str(rule.source)]
    applied = f"""
        SELECT "partition", "position" FROM {sql_name(contract + "_outcome")}
        WHERE outcome = 'applied'
    """
    subject = ", ".join(f"coalesce(CAST({sql_name(c)} AS VARCHAR), '')" for c in rule.subject)
    rows = ledger.sql.execute(f"""
        WITH met AS (
            SELECT DISTINCT "partition", "position", event_id, [{subject}]::VARCHAR[] AS subject
            FROM ({prepared(str(rule.source), definitions, applied)}) WHERE ({rule.where})
        )
        SELECT "partition", event_id, "position", subject
        FROM {sql_name(contract)} JOIN ({applied}) USING ("partition", "position")
        LEFT JOIN met USING ("partition", "position", event_id)
        SEMI JOIN met AS any_of_it USING ("partition", event_id)
        ORDER BY "partition", event_id, "position"
    """).fetchall()
    found: dict[tuple[int, str], list[tuple[_Place, set[tuple[str, ...]]]]] = defaultdict(list)
    for partition, event_id, position, values in rows:
        versions = found[partition, event_id]
        if not versions or versions[-1][0] != (partition, position):
            versions.append(((partition, position), set()))
        if values is not None:
            versions[-1][1].add(tuple(values))
    return found


def _action_id(
    rule_id: str, rule: RuleText, subject: tuple[str, ...], event: tuple[int, str]
) -> str:
    named = list(zip(rule.subject, subject, strict=True))
    name = json.dumps([rule_id, rule.version, named, event[1]], separators=(",", ":"))
    return str(uuid5(_ACTIONS, name))
