"""What holds for every command: errors, exit codes, output for people and for programs."""

import io
import json
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from streams import cli
from streams.cli import Command, CommandError, app
from streams.cli.common import print_json_lines, require_kafka
from streams.settings import Settings


def problem() -> None:
    """Find a problem."""
    raise CommandError("kpi.value: 3, expected 4", "look at the rules")


def defect() -> None:
    """Be wrong."""
    raise ValueError("a defect")


@pytest.fixture(autouse=True)
def commands(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two further commands, one with a problem and one with a defect."""
    for name in ("problem", "defect"):
        monkeypatch.setitem(cli.COMMANDS, name, Command(f"{__name__}:{name}", "A test."))


def test_a_problem_is_two_lines_and_exit_code_1() -> None:
    """What is wrong, and what to do next; no traceback."""
    done = CliRunner().invoke(app, ["problem"])

    assert 1 == done.exit_code
    assert "andon: kpi.value: 3, expected 4\nnext: look at the rules\n" == done.stderr
    assert "" == done.stdout


def test_a_defect_keeps_its_traceback() -> None:
    """What nobody foresaw is not dressed up as a user's mistake."""
    with pytest.raises(ValueError, match="a defect"):
        CliRunner().invoke(app, ["defect"], catch_exceptions=False)


@pytest.mark.parametrize("arguments", [["stakc"], ["stack", "sideways"], ["stack", "up", "--fast"]])
def test_wrong_use_is_exit_code_2(arguments: list[str]) -> None:
    """A mistyped command is not a found problem."""
    done = CliRunner().invoke(app, arguments)

    assert 2 == done.exit_code
    assert "Usage:" in done.stderr


def test_a_kafka_that_does_not_answer_is_told_within_the_time() -> None:
    """The clients themselves would wait for ever."""
    settings = Settings(kafka_bootstrap_servers="127.0.0.1:1")

    with pytest.raises(CommandError) as told:
        require_kafka(settings, timeout_s=0.2)

    assert str(told.value).startswith(
        "kafka_bootstrap_servers: no answer from 127.0.0.1:1 within 0.2 s"
    )
    assert "andon stack up" in told.value.next_step


def test_a_kafka_that_answers_passes(kafka: str) -> None:
    """Nothing is said."""
    require_kafka(Settings(kafka_bootstrap_servers=kafka))


def test_records_for_programs_are_one_a_line() -> None:
    """In the contract's order, and readable: no escapes for letters."""
    out = io.StringIO()
    print_json_lines([{"b": 1, "a": "Müller"}, {"b": None}], out)

    assert '{"b":1,"a":"Müller"}\n{"b":null}\n' == out.getvalue()
    assert [{"b": 1, "a": "Müller"}, {"b": None}] == [
        json.loads(line) for line in out.getvalue().splitlines()
    ]


def test_a_reader_that_goes_away_is_no_error() -> None:
    """`andon ... | head -1` ends quietly."""
    code = (
        "import sys; from streams import cli; from streams.cli.common import print_json_lines\n"
        "cli.app = lambda **_: print_json_lines({'n': n} for n in range(100_000))\n"
        "cli.main()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    said = process.stderr.read()
    process.stderr.close()

    assert (0, b"") == (process.wait(), said)
