"""Child processes: started again where that is wanted, and never left behind."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from streams.cli import CommandError
from streams.cli.children import Children, Interrupted, interruptible

ROOT = Path(__file__).parents[3]


class Scripts(Children):
    """Children that run Python code instead of commands."""

    def _open(self, command, log, environment):
        code = command[-1]
        return super()._open([sys.executable, "-c", code], log, environment)


@pytest.fixture
def children(tmp_path):
    with Scripts(tmp_path / "logs", os.environ) as scripts:
        yield scripts


def test_a_child_that_ends_is_started_again(children):
    """A child that may be started again is, and that is counted."""
    child = children.start("once", "pass", restarts=True)
    first = child.process.pid
    child.process.wait(20)
    children.tend()

    assert child.process.pid != first
    assert 1 == children.restarted


def test_a_child_that_keeps_ending_is_given_up(children):
    """After five starts again the failure is told with the end of the log."""
    child = children.start("broken", "print('no broker'); raise SystemExit(3)", restarts=True)
    for _ in range(5):
        child.process.wait(20)
        children.tend()
    child.process.wait(20)
    with pytest.raises(CommandError, match="broken: ended with code 3") as failure:
        children.tend()

    assert 5 == child.restarted
    assert "no broker" in str(failure.value)


def test_a_child_that_must_not_end_is_missed_at_once(children):
    """Without leave to be started again, its end is a failure."""
    children.start("single", "raise SystemExit(1)").process.wait(20)

    with pytest.raises(CommandError, match="single: ended with code 1"):
        children.tend()


def test_children_that_do_their_work_together_may_end_in_any_order(children):
    """None of them is missed while another is at work; one that fails is told."""
    children.start("slow", "import time; time.sleep(0.5)")
    children.start("quick", "pass").process.wait(20)
    children.finish_all(["slow", "quick"], 20)

    children.start("good", "pass")
    children.start("bad", "raise SystemExit(4)")
    with pytest.raises(CommandError, match="bad: ended with code 4"):
        children.finish_all(["good", "bad"], 20)


def test_a_child_that_was_killed_is_not_missed(children):
    """Who kills it has wanted that."""
    child = children.start("victim", "import time; time.sleep(60)")
    assert child is children.named("victim")
    children.kill("victim")
    children.tend()

    assert -signal.SIGKILL == child.process.returncode


def test_a_child_that_does_its_work_is_waited_for(children):
    """A child that ends well is done; one that fails is told."""
    children.start("good", "pass")
    children.finish("good", 20)
    children.start("bad", "raise SystemExit(4)")

    with pytest.raises(CommandError, match="bad: ended with code 4"):
        children.finish("bad", 20)


def test_stopping_ends_every_child(children):
    """After a stop none of them runs."""
    started = [children.start(str(n), "import time; time.sleep(600)") for n in range(3)]
    children.stop()

    assert [] == [child.name for child in started if psutil.pid_exists(child.process.pid)]


def test_waiting_gives_up_when_nothing_moves(children):
    """As long as something moves there is patience; then there is none."""
    moves = iter(range(5))
    with pytest.raises(CommandError, match=r"worker: nothing has moved for 0\.3 s"):
        children.wait_until(lambda: False, "worker", 0.3, lambda: next(moves, 5))

    assert 5 == next(moves, 5)


def test_only_the_first_signal_interrupts():
    """The first signal interrupts; the second one lets the clean-up go on."""
    cleaned = []

    def work() -> None:
        with interruptible():
            try:
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(10)
            finally:
                os.kill(os.getpid(), signal.SIGINT)
                cleaned.append(True)

    with pytest.raises(Interrupted) as interrupted:
        work()

    assert ([True], 143) == (cleaned, interrupted.value.exit_code)


def test_an_interruption_that_a_library_turns_into_its_own_error_is_one_all_the_same():
    """Where a library tells of an interrupted query, the command still ends as interrupted."""

    def query() -> None:
        with interruptible():
            try:
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(10)
            except BaseException:  # noqa: BLE001 - as a library does
                raise RuntimeError("query interrupted") from None

    with pytest.raises(Interrupted):
        query()


def test_an_interruption_that_a_library_swallows_is_found_when_children_are_tended(tmp_path):
    """The next look at the children ends the work, whoever has eaten the first exception."""

    def work() -> None:
        with (
            interruptible() as interruption,
            Scripts(tmp_path, os.environ, interruption.check) as children,
        ):
            with contextlib.suppress(BaseException):
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(10)
            children.tend()

    with pytest.raises(Interrupted):
        work()


ORPHANS = """
import subprocess, sys, time
from streams.cli.children import end_descendants
code = "import subprocess, time; subprocess.Popen(['sleep', '600']); print(1, flush=True);"
code += "time.sleep(600)"
child = subprocess.Popen(
    [sys.executable, "-c", code], stdout=subprocess.PIPE, start_new_session=True
)
child.stdout.readline()
print(len(end_descendants()), len(end_descendants()))
"""


def test_whatever_was_started_is_ended():
    """Processes nobody has a name for are ended too, those below them included."""
    done = subprocess.run(
        [sys.executable, "-c", ORPHANS],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert ("2 0\n", "") == (done.stdout, done.stderr)


KILLED = """
import os, pathlib, signal, sys
from streams.cli.children import Children
with Children(pathlib.Path(sys.argv[1]), os.environ) as children:
    sleepers = [children.launch(str(n), ["sleep", "600"], os.environ) for n in range(2)]
    print(*(each.process.pid for each in sleepers), flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_children_of_a_killed_command_are_ended(tmp_path):
    """Where nothing can be cleaned up any more, the watcher ends what was started."""
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    # The watcher holds the pipes of its parent, so that the run above ends after it has.
    left = [pid for pid in map(int, done.stdout.split()) if psutil.pid_exists(pid)]

    assert (-9, []) == (done.returncode, [p for p in left if not is_zombie(p)])


def is_zombie(pid: int) -> bool:
    return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
