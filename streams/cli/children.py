"""Processes that a command starts and must not leave behind, whatever ends it."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, Final, Self

import psutil

from streams.cli import CommandError
from streams.cli.orphans import line_of

_STOP_S: Final = 30.0
_POLL_S: Final = 0.25
_LOG_LINES: Final = 12
_MOST_RESTARTS: Final = 5
_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupted(BaseException):
    """Somebody wants the command to end; `exit_code` is the shell's for the signal."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.exit_code = 128 + number


@dataclass(slots=True)
class Interruption:
    """Whether a signal to end was heard."""

    number: int | None = None

    def hear(self, number: int, _frame: FrameType | None) -> None:
        """Raise `Interrupted` for the first signal; later ones find the clean-up under way."""
        if self.number is None:
            self.number = number
            raise Interrupted(number)

    def check(self) -> None:
        """Raise `Interrupted` if somebody on the way has swallowed it."""
        if self.number is not None:
            raise Interrupted(self.number)


@contextmanager
def interruptible() -> Iterator[Interruption]:
    """Turn the first signal to end into `Interrupted`, whatever libraries make of it."""
    interruption = Interruption()
    before = {number: signal.signal(number, interruption.hear) for number in _SIGNALS}
    try:
        yield interruption
    except Exception:
        # DuckDB, for one, tells of an interrupted query instead.
        interruption.check()
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@dataclass(slots=True)
class Child:
    """One process: its command, its log, and whether it is started again when it ends."""

    name: str
    command: list[str]
    log: Path
    restarts: bool
    process: subprocess.Popen[bytes]
    restarted: int = field(default=0)


class Children:
    """`andon` commands as child processes, each with its log in `directory`.

    They have sessions of their own: Ctrl-C reaches this command alone, which then ends them in
    order when the context ends. Should this command be killed, a watcher ends them.
    """

    def __init__(
        self,
        directory: Path,
        environment: Mapping[str, str],
        check: Callable[[], None] = lambda: None,
    ) -> None:
        self._directory = directory
        self._environment = dict(environment)
        self._check = check
        self._children: dict[str, Child] = {}
        directory.mkdir(parents=True, exist_ok=True)

    def __enter__(self) -> Self:
        self._watcher = subprocess.Popen(
            [sys.executable, "-m", "streams.cli.orphans"],
            stdin=subprocess.PIPE,
            text=True,
            bufsize=1,
            start_new_session=True,
        )
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._watcher.communicate()

    def start(self, name: str, *arguments: str, restarts: bool = False) -> Child:
        """Start `andon` with these arguments under a name of its own."""
        command = [sys.executable, "-m", "streams.cli", *arguments]
        return self._opened(name, command, restarts, self._environment)

    def launch(self, name: str, command: list[str], environment: Mapping[str, str]) -> Child:
        """Start any program under a name of its own, in an environment of its own."""
        return self._opened(name, command, False, environment)

    def _opened(
        self, name: str, command: list[str], restarts: bool, environment: Mapping[str, str]
    ) -> Child:
        log = self._directory / f"{name}.log"
        child = Child(name, command, log, restarts, self._open(command, log, environment))
        self._children[name] = child
        return child

    def _open(
        self, command: list[str], log: Path, environment: Mapping[str, str]
    ) -> subprocess.Popen[bytes]:
        with log.open("ab") as out:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                env=dict(environment),
                start_new_session=True,
            )
        assert self._watcher.stdin is not None
        with suppress(psutil.NoSuchProcess):
            self._watcher.stdin.write(line_of(process.pid))
        return process

    @property
    def restarted(self) -> int:
        """How often a child had to be started again."""
        return sum(child.restarted for child in self._children.values())

    def tend(self) -> None:
        """Start again what has ended and may be; raise CommandError for any other that has.

        `check` is called as well, and may raise to end the work.
        """
        self._check()
        for child in self._children.values():
            if child.process.poll() is None:
                continue
            if not child.restarts or child.restarted >= _MOST_RESTARTS:
                raise self._failure(child)
            child.restarted += 1
            child.process = self._open(child.command, child.log, self._environment)

    def wait_until(
        self,
        ready: Callable[[], bool],
        what: str,
        timeout_s: float,
        progress: Callable[[], object] = lambda: None,
    ) -> None:
        """Return when `ready()` is true, tending the children meanwhile.

        Raises CommandError when a child ends, or nothing that `progress()` tells has changed for
        `timeout_s`.
        """
        deadline, reached = time.monotonic() + timeout_s, progress()
        while not ready():
            self.tend()
            now = progress()
            if now != reached:
                deadline, reached = time.monotonic() + timeout_s, now
            if time.monotonic() > deadline:
                raise CommandError(
                    f"{what}: nothing has moved for {timeout_s:g} s",
                    f"read the logs in {self._directory}",
                )
            time.sleep(_POLL_S)

    def finish(self, name: str, timeout_s: float) -> None:
        """Wait for a child that ends by itself; raise CommandError if it fails or does not end."""
        self.finish_all([name], timeout_s)

    def finish_all(self, names: Sequence[str], timeout_s: float) -> None:
        """Wait for children that end by themselves, in any order; raise CommandError as above."""
        children = [self._children.pop(name) for name in names]
        deadline = time.monotonic() + timeout_s
        try:
            while running := [child for child in children if child.process.poll() is None]:
                if time.monotonic() > deadline:
                    slow = running[0]
                    raise CommandError(
                        f"{slow.name}: still running after {timeout_s:g} s", f"read {slow.log}"
                    )
                self.tend()
                time.sleep(_POLL_S)
        finally:
            for child in children:
                _end(child.process)
        for child in children:
            if child.process.returncode:
                raise self._failure(child)

    def named(self, name: str) -> Child:
        """Return the child of that name; raises KeyError."""
        return self._children[name]

    def kill(self, name: str) -> None:
        """End a child as a crash would, and forget it."""
        child = self._children.pop(name)
        child.process.kill()
        child.process.wait()

    def stop(self, *names: str) -> None:
        """Ask the named children, or all of them, to end, and see that they do."""
        chosen = [self._children.pop(name) for name in names or tuple(self._children)]
        for child in chosen:
            with suppress(ProcessLookupError):
                child.process.terminate()
        for child in chosen:
            _end(child.process)

    def _failure(self, child: Child) -> CommandError:
        with suppress(OSError):
            lines = child.log.read_text(errors="replace").splitlines()[-_LOG_LINES:]
            tail = "".join(f"\n  {line}" for line in lines)
            return CommandError(
                f"{child.name}: ended with code {child.process.returncode}{tail}",
                f"read {child.log}",
            )
        return CommandError(
            f"{child.name}: ended with code {child.process.returncode}", "start it by hand"
        )


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.terminate()
    try:
        process.wait(_STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def end_descendants() -> list[str]:
    """End every process below this one and return their names.

    What was started in the instant of an interruption is known to nobody but the system.
    """
    left = psutil.Process().children(recursive=True)
    names = []
    for process in left:
        with suppress(psutil.NoSuchProcess):
            names.append(process.name())
            process.terminate()
    _, alive = psutil.wait_procs(left, timeout=10)
    for process in alive:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(alive, timeout=10)
    return names


def end_leftovers(directory: Path) -> None:
    """End processes of ours that name this directory as their state directory.

    They are left of a command that was killed before it could stop them.
    """
    for process in psutil.process_iter():
        with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            if process.pid != os.getpid() and _belongs_to(process, directory):
                process.terminate()
                process.wait(_STOP_S)


def _belongs_to(process: Any, directory: Path) -> bool:
    command: list[str] = process.cmdline()
    return "streams.cli" in command and process.environ().get("ANDON_STATE_DIR") == str(directory)
