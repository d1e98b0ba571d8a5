"""Rule files: what is wrong is told all at once, with file and line."""

import pytest

from processors.rules import ImmediateRule, RuleError, load_rules
from tests.processors.rules.timeline import registry, rule_book, write_rule

IMMEDIATE = {
    "immediate": "true",
    "source": "evaluations",
    "where": "auto_failed",
    "subject": "agent_id",
    "kpi": "quality",
    "scope": "",
    "window": "",
    "every": "",
    "when": "",
}


def faults(tmp_path, **fields: str) -> list[str]:
    write_rule(tmp_path, "low", **fields)
    with pytest.raises(RuleError) as error:
        load_rules(tmp_path, registry())
    return [f"{fault.line}: {fault.reason}" for fault in error.value.faults]


def test_rules_that_look_at_the_same_figures_are_one_group(tmp_path):
    """The same scope, window and ticks; inhibitors first, then by name."""
    book = rule_book(
        tmp_path,
        a={"inhibited_by": "[c]"},
        b={},
        c={},
        d={"window": "20m"},
        e={"scope": "member"},
    )

    assert [
        ("agent", 600_000, 60_000, ["b", "c", "a"]),
        ("agent", 1_200_000, 60_000, ["d"]),
        ("member", 600_000, 60_000, ["e"]),
    ] == [(g.scope.id, g.window_ms, g.every_ms, [r.id for r in g.rules]) for g in book.groups]


def test_the_book_knows_the_samples_that_evidence_quotes(tmp_path):
    """By scope, so that no others need to be kept."""
    book = rule_book(tmp_path, low={"samples": "{quality: low}"}, other={"scope": "member"})

    assert {("agent", "low")} == book.samples


def test_an_immediate_rule_belongs_to_its_source(tmp_path):
    """It has no ticks; the subject is the key of a scope."""
    book = rule_book(tmp_path, failed=IMMEDIATE, low={})
    (rule,) = book.immediate("evaluations")

    assert isinstance(rule, ImmediateRule)
    assert ("failed", "agent", ("agent_id",)) == (rule.id, rule.subject_scope, rule.subject)
    assert () == book.immediate("surveys")
    assert ["low"] == [r.id for group in book.groups for r in group.rules]


def test_a_subject_with_the_attributes_of_a_scope_belongs_to_that_scope(tmp_path):
    """Or to the scope whose key it is, or else to the rule's own."""
    book = rule_book(
        tmp_path,
        member={"scope": "member"},
        team={"scope": "member", "members": "{by: team_id}"},
    )

    assert ["member", "member"] == [rule.subject_scope for rule in book.rules]


def test_the_fingerprint_changes_with_any_rule(tmp_path):
    """And with nothing else."""
    first = rule_book(tmp_path / "1", low={}).fingerprint

    assert first == rule_book(tmp_path / "2", low={}).fingerprint
    assert first != rule_book(tmp_path / "3", low={"when": "quality < 61.0"}).fingerprint
    assert first != rule_book(tmp_path / "4", low={"reason": "Another"}).fingerprint


def test_no_rules_are_no_fault(tmp_path):
    """But a directory that is not there is."""
    assert () == load_rules(tmp_path, registry()).rules

    with pytest.raises(RuleError, match="found no such directory"):
        load_rules(tmp_path / "nowhere", registry())


def test_all_faults_are_told_at_once(tmp_path):
    """Each with its line; one of them does not hide the others."""
    expected = [
        "2: low.title: found unknown name {agent}; did you mean agent_id?",
        "9: low.when: 1:9: unknown name limit",
        "11: low.sustain: found 90 s, expected a multiple of every, 1 min",
        "12: low.samples: found unknown sample lo; did you mean low?",
        "13: low.subject: found team_id, expected agent_id among them: the keys of agent lie with"
        " it",
        "13: low.subject: found team_id, expected columns of the key of agent: agent_id",
    ]
    found = faults(
        tmp_path,
        title='"{agent}"',
        when="quality<limit",
        minimum_n="5",
        sustain="90s",
        samples="{quality: lo}",
        subject="team_id",
    )

    assert expected == found


@pytest.mark.parametrize(
    ("fields", "fault"),
    [
        ({"when": ""}, "1: low.when: missing"),
        ({"whne": "x"}, "10: low.whne: unknown field"),
        ({"action_type": "WARNING"}, "4: low.action_type: found 'WARNING', expected 'COACHING', "),
        ({"recipient": "{role: BOSS}"}, "5: low.recipient.role: found 'BOSS', expected 'AGENT', "),
        ({"recipient": "{role: AGENT, id: x}"}, "5: low.recipient: id: found x, expected a column"),
        ({"scope": "agnt"}, "6: low.scope: found agnt, expected one of agent, member; did you"),
        ({"window": "soon"}, "7: low.window: found 'soon', expected a duration such as"),
        ({"window": "90s"}, "7: low.window: found 90 s, expected a multiple of every, 1 min"),
        ({"every": "10s"}, "8: low.every: found 10 s, expected a multiple of the pane of agent,"),
        ({"minimum_n": "{csat: 5}"}, "10: low.minimum_n: found csat, which `when` does not name"),
        ({"samples": "{csat: low}"}, "10: low.samples: found csat, which `when` does not name"),
        ({"samples": "{quality: calls}"}, "10: low.samples: found calls of interactions, which"),
        ({"approval": "AUTO"}, "10: low.approval: found AUTO, expected SUGGEST: about a person, a"),
        ({"inhibited_by": "[lo]"}, "10: low.inhibited_by: found unknown rule lo; did you mean"),
        ({"inhibited_by": "[low]"}, "10: low.inhibited_by: found a cycle, low - low"),
        (
            {"members": "{by: agent_id}", "subject": "agent_id"},
            "11: low.subject: found beside members",
        ),
        ({**IMMEDIATE, "where": "auto_fail"}, "8: low.where: found unknown column auto_fail"),
        ({**IMMEDIATE, "subject": "queue_id"}, "9: low.subject: found queue_id, which is the key"),
        ({**IMMEDIATE, "kpi": "speed"}, "10: low.kpi: found unknown KPI speed"),
        ({**IMMEDIATE, "source": "calls"}, "low.source: found calls, expected one of "),
        ({**IMMEDIATE, "immediate": "false"}, "low.immediate: found false, expected true or no"),
    ],
)
def test_a_fault_says_where_what_was_found_and_what_was_expected(tmp_path, fields, fault):
    """One fault each, at the line of its field."""
    found = faults(tmp_path, **fields)

    assert 1 == len(found)
    assert fault in found[0]


def test_two_rules_of_one_name_are_refused(tmp_path):
    """The second says where the first is."""
    write_rule(tmp_path, "low")
    (tmp_path / "other.yaml").write_text((tmp_path / "low.yaml").read_text())
    with pytest.raises(RuleError, match=r"other\.yaml:1: low\.id: defined before, in low\.yaml"):
        load_rules(tmp_path, registry())


def test_an_inhibitor_must_look_at_the_same_figures(tmp_path):
    """Another window is another group, whose ticks this one does not know."""
    write_rule(tmp_path, "other", window="20m")

    assert ["10: low.inhibited_by: found other, which has another scope, window or every"] == (
        faults(tmp_path, inhibited_by="[other]")
    )


def test_what_is_no_yaml_is_told_with_its_line(tmp_path):
    """And so is a file that holds no rule."""
    (tmp_path / "a.yaml").write_text("id: a\n  title: [\n")
    (tmp_path / "b.yaml").write_text("- 1\n")
    with pytest.raises(RuleError) as error:
        load_rules(tmp_path, registry())

    assert ["a.yaml 2", "b.yaml 1"] == [f"{f.file.name} {f.line}" for f in error.value.faults]
