"""Decisions as records: actions and suppressions with ids that the same input gives again."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from math import isnan
from typing import Any, Final
from uuid import NAMESPACE_URL, UUID, uuid5

from processors.keys import printable
from processors.rules.definition import (
    Evidence,
    Firing,
    GuardResult,
    ImmediateRule,
    Named,
    Proposal,
    Sample,
    Suppressed,
)
from processors.rules.texts import fill, names_of_firing, names_of_row

Record = dict[str, Any]

ACTIONS: Final[UUID] = uuid5(NAMESPACE_URL, "andon:actions")
"""Namespace of action ids. Changing it, or what an id is made of, proposes everything again."""


def action_record(
    firing: Firing, as_of: Sequence[Mapping[str, Any]], created_time_ms: int
) -> Record:
    """Return the record, in the contract `action`, of a rule that fires.

    ``as_of`` are the positions {topic, partition, position, from_time} that the figures include.
    Instants are epoch milliseconds.
    """
    rule = firing.rule
    names = names_of_firing(firing)
    return {
        "action_id": _action_id(rule.id, rule.version, firing.subject, firing.episode_start_ms),
        **_proposed(rule.proposal, rule.id, rule.version, names),
        "episode_start": firing.episode_start_ms,
        "subject": _subject(rule.subject_scope, firing.subject),
        "evidence": _evidence(firing),
        "guards": _guards(firing.guards),
        **_times(rule.proposal, firing.tick_ms, created_time_ms),
        "as_of": list(as_of),
    }


def suppression_record(
    suppressed: Suppressed, as_of: Sequence[Mapping[str, Any]], created_time_ms: int
) -> Record:
    """Return the record, in the contract `suppression`, of a firing that was held back."""
    rule = suppressed.rule
    start_ms, tick_ms = suppressed.episode_start_ms, suppressed.tick_ms
    action_id = _action_id(rule.id, rule.version, suppressed.subject, start_ms)
    return {
        "suppression_id": str(uuid5(UUID(action_id), f"{tick_ms} {suppressed.reason}")),
        "action_type": rule.proposal.action_type,
        "rule_id": rule.id,
        "rule_version": rule.version,
        "episode_start": start_ms,
        "subject": _subject(rule.subject_scope, suppressed.subject),
        "reason": suppressed.reason,
        "detail": suppressed.detail,
        "evidence": _evidence(suppressed),
        "guards": _guards(suppressed.guards),
        "event_time": tick_ms,
        "created_time": created_time_ms,
        "as_of": list(as_of),
    }


def immediate_action_records(
    rule: ImmediateRule,
    versions: Mapping[int, Sequence[Mapping[str, Any]]],
    as_of: Sequence[Mapping[str, Any]],
    created_time_ms: int,
) -> Iterator[Record]:
    """Yield the records, in the contract `action`, that the newest version of an event leads to.

    ``versions`` has, by the number of each version of the event that counted, the lowest first, its
    prepared rows that meet the rule, with all columns of the source.
    The first version that meets the rule opens an action, the first after it that does not
    withdraws it. An action that was withdrawn is not opened again.
    """
    *before, newest = [
        {_immediate_id(rule, row): row for row in rows} for rows in versions.values()
    ]
    opened: dict[str, Mapping[str, Any]] = {}
    withdrawn: set[str] = set()
    for met in before:
        withdrawn |= opened.keys() - met.keys()
        opened |= met
    for action_id, row in newest.items():
        if action_id not in opened:
            yield _immediate_record(rule, row, as_of, created_time_ms)
    for action_id, row in opened.items():
        if action_id not in withdrawn and action_id not in newest:
            action = _immediate_record(rule, row, as_of, created_time_ms)
            reason = (
                f"Version {max(versions)} of {row['event_id']} does not meet the rule any more."
            )
            yield {**action, "status": "WITHDRAWN", "reason": reason}


def _immediate_id(rule: ImmediateRule, row: Mapping[str, Any]) -> str:
    return _action_id(rule.id, rule.version, names_of_row(rule.subject, row), row["event_id"])


def _immediate_record(
    rule: ImmediateRule,
    row: Mapping[str, Any],
    as_of: Sequence[Mapping[str, Any]],
    created_time_ms: int,
) -> Record:
    event_time_ms = row["event_time"]
    subject = names_of_row(rule.subject, row)
    names = dict(names_of_row(row, row))
    evaluation_id = row.get("evaluation_id")
    sample = Sample(event_time_ms, row["interaction_id"], evaluation_id)
    evidence = Evidence((), rule.kpi, float("nan"), 1, None, None, None, None, (sample,))
    return {
        "action_id": _immediate_id(rule, row),
        **_proposed(rule.proposal, rule.id, rule.version, names),
        "episode_start": event_time_ms,
        "subject": _subject(rule.subject_scope, subject),
        "evidence": [_evidence_record(evidence, _window(event_time_ms, 0))],
        "guards": [],
        **_times(rule.proposal, event_time_ms, created_time_ms),
        "as_of": list(as_of),
    }


def decision_id(record: Mapping[str, Any]) -> str:
    """Return the id of an action record itself: that of its action, and another if it withdraws.

    >>> record = {"action_id": "2b1d0bd6-6f0f-5a57-9a3e-3c6f6f2c7b11", "status": "WITHDRAWN"}
    >>> decision_id(record)
    'ed1b73ab-9d64-56b7-adbe-e48eb128d72a'
    """
    action_id = str(record["action_id"])
    if record["status"] == "OPEN":
        return action_id
    return str(uuid5(UUID(action_id), str(record["status"])))


def subject_key(record: Mapping[str, Any]) -> bytes:
    """Return the Kafka key of an action or suppression: scope and key values of its subject.

    >>> subject_key({"subject": {"scope": "team", "key": [{"name": "team_id", "value": "T|1"}]}})
    b'team|T%7C1'
    """
    subject = record["subject"]
    values = printable(part["value"] for part in subject["key"])
    return f"{subject['scope']}|{values}".encode()


def _action_id(rule_id: str, version: int, subject: Named, episode: int | str) -> str:
    """The episode is the tick it began at, or for an immediate rule the event's id."""
    name = json.dumps([rule_id, version, subject, episode], separators=(",", ":"))
    return str(uuid5(ACTIONS, name))


def _proposed(
    proposal: Proposal, rule_id: str, rule_version: int, names: Mapping[str, str]
) -> Record:
    recipient = proposal.recipient
    return {
        "action_type": proposal.action_type,
        "status": "OPEN",
        "severity": proposal.severity,
        "approval": proposal.approval,
        "rule_id": rule_id,
        "rule_version": rule_version,
        "recipient": {
            "role": recipient.role,
            "id": (names[recipient.id] or None) if recipient.id else None,
        },
        "title": fill(proposal.title, names),
        "reason": fill(proposal.reason, names),
        "remedy": {
            "module_id": proposal.remedy.module_id,
            "article_id": proposal.remedy.article_id,
            "template_id": proposal.remedy.template_id,
        },
    }


def _times(proposal: Proposal, event_time_ms: int, created_time_ms: int) -> Record:
    due_ms, check_ms = proposal.due_after_ms, proposal.check_after_ms
    return {
        "event_time": event_time_ms,
        "created_time": created_time_ms,
        "due_time": None if due_ms is None else event_time_ms + due_ms,
        "check_time": None if check_ms is None else event_time_ms + check_ms,
    }


def _subject(scope: str, subject: Named) -> Record:
    return {"scope": scope, "key": _key(subject)}


def _key(named: Named) -> list[Record]:
    return [{"name": name, "value": value} for name, value in named]


def _window(end_ms: int, size_ms: int) -> Record:
    return {
        "kind": "HOPPING",
        "size_ms": size_ms,
        "start_time": end_ms - size_ms,
        "end_time": end_ms,
        "zone": "UTC",
    }


def _evidence(decision: Firing | Suppressed) -> list[Record]:
    window = _window(decision.tick_ms, decision.rule.window_ms)
    return [_evidence_record(evidence, window) for evidence in decision.evidence]


def _evidence_record(evidence: Evidence, window: Record) -> Record:
    ids = [sample.evaluation_id for sample in evidence.samples if sample.evaluation_id]
    return {
        "kpi_id": evidence.kpi.id,
        "definition_version": evidence.kpi.version,
        "key": _key(evidence.key),
        "value": _number(evidence.value),
        "n": evidence.n,
        "comparator": evidence.comparator,
        "threshold": evidence.threshold,
        "lower_bound": evidence.lower_bound,
        "upper_bound": evidence.upper_bound,
        "baseline": None,
        "peers": None,
        "window": window,
        "interaction_ids": _distinct(s.interaction_id for s in evidence.samples),
        "evaluation_ids": _distinct(ids),
    }


def _distinct(ids: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(ids))


def _number(value: float) -> float | None:
    return None if isnan(value) else value


def _guards(guards: Sequence[GuardResult]) -> list[Record]:
    return [{"expression": g.expression, "value": g.value, "held": g.held} for g in guards]
