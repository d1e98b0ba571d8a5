"""Actions and suppressions: records that keep their contract, with ids that stay the same."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from processors.actions import (
    action_record,
    immediate_action_records,
    subject_key,
    suppression_record,
)
from processors.rules import Firing, GroupState, Sample, Suppressed, advance
from schemas.codec import Codec
from schemas.registry import FileRegistry
from tests.processors.rules.timeline import play, quality, rule_book

AS_OF = [
    {
        "topic": "contact-centre.evaluations.v1",
        "partition": 2,
        "position": 41,
        "from_time": None,
    }
]
FAILED = {
    "immediate": "true",
    "source": "evaluations",
    "where": "auto_failed",
    "subject": "agent_id",
    "kpi": "quality",
    "title": "Talk with {agent_id}",
    "reason": "Evaluation {evaluation_id} of {interaction_id}",
    "recipient": "{role: TEAM_LEAD, id: team_id}",
    "due_after": "1d",
    "scope": "",
    "window": "",
    "every": "",
    "when": "",
}
EVENT: dict[str, Any] = {
    "event_id": "E1",
    "event_time": 600_000,
    "evaluation_id": "V1",
    "interaction_id": "I1",
    "agent_id": "A1",
    "team_id": None,
}


def through(contract: str, record: dict[str, Any]) -> dict[str, Any]:
    codec = Codec(contract, FileRegistry(), f"andon.{contract}s.v1")
    return codec.decode(codec.encode(record))


def one_firing(tmp_path: Path) -> Firing:
    book = rule_book(
        tmp_path,
        low={
            "title": "Coaching for {agent_id}",
            "reason": '"{quality} of {quality_n}, at most {quality_upper}, over {window}"',
            "when": "quality_upper < 70.0 && quality < quality_target",
            "recipient": "{role: TEAM_LEAD, id: agent_id}",
            "remedy": "{module_id: M1}",
            "severity": "CRITICAL",
            "samples": "{quality: low}",
            "due_after": "7d",
            "check_after": "21d",
        },
    )
    (group,) = book.groups
    values = np.full((1, len(group.scope.kpis)), np.nan)
    n = np.zeros(values.shape, np.int64)
    position = [kpi.id for kpi in group.scope.kpis].index("quality")
    values[0, position], n[0, position] = 40.0, 30
    kept = {(("A1",), "low"): [Sample(590_000, "I2", "V2"), Sample(580_000, "I1", "V1")]}
    (firing,) = advance(
        group, GroupState(), 600_000, [("A1",)], values, n, lambda key, name: kept[key, name]
    )
    assert isinstance(firing, Firing)
    return firing


def test_a_firing_becomes_an_action_with_its_evidence(tmp_path):
    """Every field of the contract, and it comes back from its bytes as it was."""
    record = action_record(one_firing(tmp_path), AS_OF, 600_500)
    (evidence,) = record["evidence"]
    bounds = [round(evidence.pop(name), 2) for name in ("lower_bound", "upper_bound")]
    expected = {
        "action_id": "",
        "action_type": "COACHING",
        "status": "OPEN",
        "severity": "CRITICAL",
        "approval": "SUGGEST",
        "rule_id": "low",
        "rule_version": 1,
        "episode_start": 600_000,
        "subject": {"scope": "agent", "key": [{"name": "agent_id", "value": "A1"}]},
        "recipient": {"role": "TEAM_LEAD", "id": "A1"},
        "title": "Coaching for A1",
        "reason": "40.0 % of 30, at most 57.7 %, over 10 min",
        "evidence": [
            {
                "kpi_id": "quality",
                "definition_version": 1,
                "key": [{"name": "agent_id", "value": "A1"}],
                "value": 40.0,
                "n": 30,
                "comparator": "upper_bound <",
                "threshold": 70.0,
                "baseline": None,
                "peers": None,
                "window": {
                    "kind": "HOPPING",
                    "size_ms": 600_000,
                    "start_time": 0,
                    "end_time": 600_000,
                    "zone": "UTC",
                },
                "interaction_ids": ["I2", "I1"],
                "evaluation_ids": ["V2", "V1"],
            }
        ],
        "guards": [],
        "remedy": {"module_id": "M1", "article_id": None, "template_id": None},
        "event_time": 600_000,
        "created_time": 600_500,
        "due_time": 600_000 + 7 * 86_400_000,
        "check_time": 600_000 + 21 * 86_400_000,
        "as_of": AS_OF,
    }

    assert expected == {**record, "action_id": ""}
    assert [24.59, 57.68] == bounds
    assert record["evidence"] == [evidence]


def test_actions_keep_their_contract(tmp_path):
    """What is written is what is read; conditions without a simple comparison too."""
    book = rule_book(tmp_path / "other", low={"when": '"!(quality > 60.0)"'})
    firings = [one_firing(tmp_path), *play(book, quality(50))]
    for firing in firings:
        assert isinstance(firing, Firing)
        record = action_record(firing, AS_OF, 600_500)

        assert record == through("action", record)
    assert [None, None] == [record["evidence"][0][name] for name in ("comparator", "threshold")]


def test_suppressions_keep_their_contract(tmp_path):
    """The reason, its detail, and the figures."""
    book = rule_book(tmp_path, low={"minimum_n": "5"})
    (suppressed,) = play(book, quality(50, n=4))
    assert isinstance(suppressed, Suppressed)
    record = suppression_record(suppressed, AS_OF, 60_500)

    assert record == through("suppression", record)
    assert ("TOO_FEW", "fewer than the least n: quality 5", 60_000, 60_000) == tuple(
        record[name] for name in ("reason", "detail", "episode_start", "event_time")
    )


def test_an_id_is_of_rule_version_subject_and_episode(tmp_path):
    """The same decision has the same id wherever it is made; any of the four gives another."""
    ids = [
        action_record(firing, [], created)["action_id"]
        for created, name, fields, ticks in [
            (1, "low", {}, quality(50)),
            (2, "low", {}, quality(50)),
            (1, "low", {"version": "2"}, quality(50)),
            (1, "other", {}, quality(50)),
            (1, "low", {}, quality(50, key=("A2",))),
            (1, "low", {}, quality(70, 50)),
        ]
        for firing in play(
            rule_book(tmp_path / f"{created}{name}{len(fields)}", **{name: fields}), ticks
        )
        if isinstance(firing, Firing)
    ]

    assert ids[0] == ids[1]
    assert 5 == len(set(ids))
    assert "e9ac22c2-07ca-50ba-b24b-c3b110c13f40" == ids[0]


def test_an_event_that_meets_an_immediate_rule_becomes_an_action(tmp_path):
    """The episode is the event's id: sent again, it is the same action."""
    (rule,) = rule_book(tmp_path, failed=FAILED).immediate("evaluations")
    other = {**EVENT, "event_id": "E2", "team_id": "T1"}
    (first,), (again,), (second,) = (
        immediate_action_records(rule, {1: [row, row]}, AS_OF, 600_500)
        for row in (EVENT, EVENT, other)
    )

    assert first == again == through("action", first)
    assert first["action_id"] != second["action_id"]
    assert ("Talk with A1", "Evaluation V1 of I1") == (first["title"], first["reason"])
    assert [None, "T1"] == [record["recipient"]["id"] for record in (first, second)]
    assert [("quality", ["I1"], ["V1"])] == [
        (e["kpi_id"], e["interaction_ids"], e["evaluation_ids"]) for e in first["evidence"]
    ]
    assert (600_000, 600_000, 600_000 + 86_400_000) == tuple(
        first[name] for name in ("episode_start", "event_time", "due_time")
    )


_OTHER = {"agent_id": "A2"}


@pytest.mark.parametrize(
    ("versions", "decided"),
    [
        ([], []),
        ([{}], ["OPEN A1"]),
        ([None, {}], ["OPEN A1"]),
        ([{}, {}], []),
        ([{}, None], ["WITHDRAWN A1"]),
        ([{}, None, None], []),
        ([{}, None, {}], []),
        ([{}, None, {}, None], []),
        ([{}, _OTHER], ["OPEN A2", "WITHDRAWN A1"]),
        ([{}, _OTHER, {}], ["WITHDRAWN A2"]),
        ([{}, None, _OTHER], ["OPEN A2"]),
    ],
)
def test_an_action_is_opened_once_and_withdrawn_once_by_the_versions_of_its_event(
    tmp_path, versions, decided
):
    """None is a version that does not meet the rule; what is said follows from the last one."""
    (rule,) = rule_book(tmp_path, failed=FAILED).immediate("evaluations")
    rows = {n: [] if fields is None else [EVENT | fields] for n, fields in enumerate(versions, 2)}
    found = list(immediate_action_records(rule, rows or {1: []}, AS_OF, 600_500))

    assert decided == [f"{r['status']} {r['subject']['key'][0]['value']}" for r in found]
    assert found == [through("action", record) for record in found]


def test_a_withdrawal_has_the_id_of_its_action_and_says_why(tmp_path):
    """All else is as in the action: a reader can tell what it is that falls away."""
    (rule,) = rule_book(tmp_path, failed=FAILED).immediate("evaluations")
    (opened,) = immediate_action_records(rule, {1: [EVENT]}, AS_OF, 600_500)
    (withdrawn,) = immediate_action_records(rule, {1: [EVENT], 3: []}, AS_OF, 600_500)

    reason = f"Version 3 of {EVENT['event_id']} does not meet the rule any more."
    assert {**opened, "status": "WITHDRAWN", "reason": reason} == withdrawn


@pytest.mark.parametrize(
    ("values", "key"),
    [(["A1"], b"agent|A1"), (["A|1", "50%,x"], b"agent|A%7C1,50%25%2Cx"), ([""], b"agent|")],
)
def test_the_key_of_a_record_names_its_subject(values, key):
    """Separators inside a value are written in percent."""
    parts = [{"name": "c", "value": value} for value in values]

    assert key == subject_key({"subject": {"scope": "agent", "key": parts}})


def test_an_action_is_plain_json(tmp_path):
    """So that the command line can print it as it is."""
    record = action_record(one_firing(tmp_path), AS_OF, 600_500)

    assert record == json.loads(json.dumps(record, allow_nan=False))
