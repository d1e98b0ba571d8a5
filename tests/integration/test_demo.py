"""`andon demo` as a user runs it: what it finds, what it says, and that nothing stays behind."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from streams.settings import load_settings
from tests.waiting import wait_until

ROOT = Path(__file__).parents[2]
MONTH = ROOT / "../shared/data/anonymous_bank_feb1999.tsv.gz"

pytestmark = [
    pytest.mark.integration,
    pytest.mark.timeout(600),
    pytest.mark.skipif(
        load_settings().own_kafka or load_settings().own_redis,
        reason="the demo wants servers of its own, the settings name others",
    ),
]


class Demo:
    """A running demo and what it has said so far."""

    def __init__(self, state_dir: Path, *arguments: str) -> None:
        state_dir.parent.mkdir(parents=True, exist_ok=True)
        self.state_dir = state_dir
        self.environment = {**os.environ, "ANDON_STATE_DIR": str(state_dir)}
        self.log = state_dir.parent / f"demo-{uuid.uuid4().hex}.log"
        with self.log.open("wb") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "streams.cli", "demo", *arguments],
                cwd=ROOT,
                env=self.environment,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def said(self) -> str:
        return self.log.read_text(errors="replace")

    def wait_for(self, words: str, seconds: float = 500) -> None:
        deadline = time.monotonic() + seconds
        while words not in self.said:
            assert self.process.poll() is None, self.said
            assert time.monotonic() < deadline, self.said
            time.sleep(0.05)

    def end(self, number: int) -> int:
        self.process.send_signal(number)
        return self.process.wait(120)

    def ask(self, *arguments: str) -> list[dict]:
        """Return what another command says of the demo's topics, one record a line."""
        done = subprocess.run(
            [sys.executable, "-m", "streams.cli", *arguments, "--format", "json"],
            cwd=ROOT,
            env={**self.environment, "ANDON_STATE_DIR": str(self.state_dir / "demo")},
            capture_output=True,
            text=True,
            check=True,
        )
        return [json.loads(line) for line in done.stdout.splitlines()]

    def left_behind(self) -> list[str]:
        """Return the processes that belong to this demo by their state directory."""
        return [command for _, command in self._processes()]

    def _processes(self) -> Iterator[tuple[psutil.Process, str]]:
        # Each is asked once: between two questions it may have ended.
        for process in psutil.process_iter():
            try:
                command = process.cmdline()
                words = [*command, process.environ().get("ANDON_STATE_DIR", "")]
                ended = process.status() == psutil.STATUS_ZOMBIE
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
            if not ended and any(str(self.state_dir) in word for word in words):
                yield process, " ".join(command)

    def kill(self) -> None:
        for process, _ in self._processes():
            with suppress(psutil.NoSuchProcess):
                process.kill()


@pytest.fixture
def few_windows(tmp_path, monkeypatch):
    """The shipped KPIs in few windows: a month has 40,000 minutes, and windows at each."""
    directory = tmp_path / "kpis"
    shutil.copytree(ROOT / "deploy/kpis", directory)
    scopes = directory / "scopes.yaml"
    scopes.write_text(re.sub(r"windows: \[.+\]", "windows: [60m, day]", scopes.read_text()))
    monkeypatch.setenv("ANDON_KPIS_DIR", str(directory))


@pytest.fixture
def demo(tmp_path):
    """Return a starter of demos in a state directory of their own; nothing of them survives."""
    started: list[Demo] = []

    def start(*arguments: str, state_dir: Path = tmp_path / "state") -> Demo:
        started.append(Demo(state_dir, *arguments))
        return started[-1]

    yield start
    for each in started:
        each.kill()


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A demo of the generated day that has come to its end by itself."""
    whole = Demo(tmp_path_factory.mktemp("whole") / "state", "--speed", "max", "--exit-when-done")
    try:
        whole.process.wait(500)
        yield whole
    finally:
        whole.kill()


def test_each_planted_problem_leads_to_its_action_and_nothing_else_fires(done):
    """The generated day ends well, tells what it has found, and leaves no process behind."""
    assert 0 == done.process.returncode, done.said
    assert "planted problems: all 8 have led to their actions, nothing else has fired" in done.said
    assert re.search(r"account of events: ([\d,]+) consumed = \1 applied \+ 0 dup", done.said)
    assert "verify: no difference in" in done.said
    for title in ("KPIs per queue over the day", "technical-support", "knowledge update"):
        assert title in done.said
    assert [] == done.left_behind()


def test_a_second_demo_after_a_first_one_starts_afresh(demo, done, few_windows):
    """What an earlier demo has left changes nothing; the wallboard stays until Ctrl-C."""
    second = demo("--speed", "max", "--workers", "2", state_dir=done.state_dir)
    second.wait_for("Ctrl-C ends everything")
    (address,) = re.findall(r"wallboard: (http://\S+)", second.said)
    with urllib.request.urlopen(address, timeout=10) as page:
        status = page.status
    actions = Counter(action["rule_id"] for action in second.ask("actions"))

    assert (200, 8) == (status, actions.total())
    assert 0 == second.end(signal.SIGINT), second.said
    assert [] == second.left_behind()


@pytest.mark.parametrize(
    ("words", "number", "code"),
    [
        ("starting Kafka", signal.SIGINT, 130),
        ("starting Valkey", signal.SIGTERM, 143),
        ("wallboard: ", signal.SIGINT, 130),
        ("closing the day", signal.SIGTERM, 143),
    ],
)
def test_an_interrupted_demo_leaves_no_process_behind(demo, few_windows, words, number, code):
    """Ctrl-C and SIGTERM end everything, whatever the demo is doing."""
    interrupted = demo("--speed", "max")
    interrupted.wait_for(words)

    assert code == interrupted.end(number), interrupted.said
    assert [] == interrupted.left_behind()


def test_a_killed_demo_leaves_no_process_behind(demo):
    """Where the demo itself can do nothing any more, its watchers do."""
    killed = demo()
    killed.wait_for("playing")
    killed.end(signal.SIGKILL)

    wait_until(lambda: [] == killed.left_behind(), "all that it had started ends")


def test_a_file_of_another_format_is_refused_before_anything_starts(demo, tmp_path):
    """A file that cannot be read is wrong use, told with the way out."""
    file = tmp_path / "calls.csv"
    file.write_text("a,b\n")
    refused = demo("--data", str(file))

    assert 2 == refused.process.wait(60)
    assert "calls.csv: header ['a,b'], expected" in refused.said
    assert "next: give a file in the format anonymous-bank" in refused.said
    assert "starting" not in refused.said


def test_the_recorded_month_has_its_published_totals(demo, few_windows):
    """Sums of the day windows in the KPI topic are the published totals of the recorded month."""
    if not MONTH.exists():
        if os.environ.get("CI") == "true":
            pytest.fail(f"{MONTH} is absent, and CI must not skip it")
        pytest.skip(f"the recorded month is not published with the project: {MONTH} is absent")
    played = demo("--data", str(MONTH), "--speed", "max")
    played.wait_for("Ctrl-C ends everything")
    totals: Counter[str] = Counter()
    for record in played.ask("kpis", "--scope", "overall", "--window", "day"):
        totals.update({each["name"]: round(each["value"]) for each in record["measures"]})

    assert "verify: no difference in" in played.said
    assert {
        "offered": 31_125,
        "answered": 27_162,
        "abandoned": 3_963,
        "left_ivr": 1_941,
        "wait_of_answered": 1_107_512_000,
        "handled": 27_112,
        "talk_time": 4_790_100_000,
        "answered_within_threshold": 16_209,
        "abandoned_within_threshold": 1_257,
    } == {
        name: totals[name]
        for name in (
            "offered",
            "answered",
            "abandoned",
            "left_ivr",
            "wait_of_answered",
            "handled",
            "talk_time",
            "answered_within_threshold",
            "abandoned_within_threshold",
        )
    }
    assert 0 == played.end(signal.SIGINT), played.said
    assert [] == played.left_behind()
