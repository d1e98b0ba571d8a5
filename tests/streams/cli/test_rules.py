"""`andon rules`: what an operator sees before a worker does."""

import csv
import json
import shutil
from io import StringIO
from pathlib import Path

import pytest

from streams.cli import main

SHIPPED = Path(__file__).parents[3] / "deploy" / "rules"


@pytest.fixture
def run(monkeypatch, capsys):
    """Return a function that runs `andon rules ...` and gives exit code, output and errors."""

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["andon", "rules", *arguments])
        with pytest.raises(SystemExit) as exit_:
            main()
        return exit_.value.code or 0, *capsys.readouterr()

    return run


@pytest.fixture
def copy(tmp_path) -> Path:
    """A copy of the shipped rules."""
    return shutil.copytree(SHIPPED, tmp_path / "rules")


def test_the_shipped_rules_are_well(run):
    """Nothing on the output, which belongs to data; a word on the other stream."""
    code, output, errors = run("check")

    assert (0, "") == (code, output)
    assert errors.startswith("no fault: rules 7, tests of them ")


def test_a_faulty_rule_is_named_with_file_and_line(run, copy):
    """Exit code 1, and what to do next."""
    file = copy / "coaching-item.yaml"
    file.write_text(file.read_text().replace("< 60.0", "< 60"))
    line = 1 + file.read_text().splitlines().index("when: qa_item_score_upper < 60")
    code, _, errors = run("check", str(copy))

    assert 1 == code
    assert f"{file}:{line}: coaching-item.when: 1:21: found no matching overload" in errors
    assert "\nnext: correct the files named above" in errors


def test_a_story_that_no_longer_comes_true_is_named(run, copy):
    """A threshold was changed, its test was not."""
    file = copy / "process-transfers.yaml"
    file.write_text(file.read_text().replace("> 25.0", "> 45.0"))
    code, _, errors = run("check", str(copy))

    assert 1 == code
    assert "process-transfers.test.yaml:3: fires once, when half" in errors
    assert "expected ACTION at 10:15 for issue_id delivery, which is missing" in errors


def test_a_rule_without_a_story_is_named_and_no_fault(run, copy):
    """One's own rules need none, but should have one."""
    (copy / "process-transfers.test.yaml").unlink()
    code, _, errors = run("check", str(copy))

    assert 0 == code
    assert "process-transfers: has no test" in errors


def test_a_list_has_one_entry_a_rule_in_every_format(run):
    """Sorted by name: what it proposes, to whom, about whom, and when."""
    names = sorted(f.stem for f in SHIPPED.glob("*.yaml") if not f.name.endswith(".test.yaml"))
    as_json = [json.loads(line) for line in run("list", "--format", "json")[1].splitlines()]
    as_csv = list(csv.DictReader(StringIO(run("list", "--format", "csv")[1])))
    as_text = run("list")[1]
    expected = {
        "rule_id": "training-item",
        "version": 1,
        "action_type": "TRAINING",
        "severity": "WARNING",
        "approval": "SUGGEST",
        "recipient": "TRAINER",
        "subject": ["team_id", "question_id"],
        "over": "team_member_item",
        "window": "24 h every 15 min",
        "when": "qa_item_score < 50.0 for at least 3 of a team_id, question_id"
        " (least n: qa_item_score 4)",
    }

    assert names == [row["rule_id"] for row in as_json] == [row["rule_id"] for row in as_csv]
    assert expected == as_json[-1]
    assert all(f"{name}, version 1\n" in as_text for name in names)
