"""The crew: `andon worker` processes under a supervisor that starts again what has ended."""

import json
import re
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Final, Self

import psutil

from streams.cli.children import Child, Children

_LOOK_S: Final = 0.1
_REST_S: Final = 0.5
_REASON_LENGTH: Final = 120


@dataclass(slots=True)
class Member:
    """One worker process, and what was done to it: its end is then no surprise."""

    child: Child
    ended_by: str | None = None

    @property
    def alive(self) -> bool:
        """Whether it runs, or sleeps."""
        return self.child.process.poll() is None

    def signal(self, number: signal.Signals) -> None:
        """Send a signal, if there is anybody left to get it."""
        with suppress(ProcessLookupError):
            self.child.process.send_signal(number)

    def has_port(self, port: int) -> bool:
        """Tell whether a connection from this local port is its."""
        with suppress(psutil.Error):
            found = psutil.Process(self.child.process.pid).net_connections("tcp")
            return any(each.laddr and each.laddr.port == port for each in found)
        return False


class Crew:
    """So many workers at a time; a context, whose supervisor ends with it.

    `kills` counts the workers that were killed, `ends` says why the others have ended.
    """

    def __init__(self, children: Children, size: int) -> None:
        self.size = size
        self.kills = 0
        self.ends: Counter[str] = Counter()
        self.restarts = 0
        self._children = children
        self._numbered = 0
        self._members: list[Member] = []
        self._held = False
        self._lock = threading.RLock()
        self._over = threading.Event()
        self._supervisor = threading.Thread(target=self._supervise, name="supervisor", daemon=True)

    def __enter__(self) -> Self:
        self._supervisor.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._supervisor.join()
        for member in self._members:
            # Nobody who sleeps hears that it is to end.
            member.signal(signal.SIGCONT)

    # -- what is done to it ---------------------------------------------------------------------

    @property
    def alive(self) -> list[Member]:
        """The members that run."""
        with self._lock:
            return [member for member in self._members if member.alive and not member.ended_by]

    def kill(self, members: Iterable[Member]) -> None:
        """Kill members with SIGKILL."""
        with self._lock:
            for member in members:
                member.ended_by = "kill"
                member.signal(signal.SIGKILL)
                self.kills += 1

    def kill_any(self, rng: Random) -> None:
        """Kill one of those that run, as soon as there is one."""
        while not self.alive:
            time.sleep(_LOOK_S)
        self.kill([rng.choice(self.alive)])

    def kill_owner(self, port: int) -> bool:
        """Kill the member whose connection has this local port; tell whether there is one."""
        owner = next((member for member in self.alive if member.has_port(port)), None)
        if owner is not None:
            self.kill([owner])
        return owner is not None

    def hold(self) -> None:
        """Start nobody any more, until `go_on`."""
        with self._lock:
            self._held = True

    def go_on(self) -> None:
        """Start whoever is missing."""
        self._held = False

    def dismiss(self, rng: Random) -> Member:
        """Ask one member to end, and do with one less."""
        with self._lock:
            member = rng.choice(self.alive)
            member.ended_by = "request"
            self.size -= 1
        member.signal(signal.SIGTERM)
        return member

    def dismiss_all(self, timeout_s: float) -> None:
        """Ask all to end, in peace, and wait for it."""
        with self._lock:
            self.size = 0
            leaving = self.alive
            for member in leaving:
                member.ended_by = "request"
        for member in leaving:
            member.signal(signal.SIGTERM)
        deadline = time.monotonic() + timeout_s
        while self._members and time.monotonic() < deadline:
            time.sleep(_LOOK_S)

    # -- the supervisor -------------------------------------------------------------------------

    def _supervise(self) -> None:
        while not self._over.wait(_LOOK_S):
            with self._lock:
                ended = [member for member in self._members if not member.alive]
                for member in ended:
                    self._bury(member)
                missing = 0 if self._held else self.size - len(self.alive)
                for _ in range(missing):
                    self._start()
            if any(member.ended_by is None for member in ended):
                # What cannot start at all is not started twice a second.
                self._over.wait(_REST_S)

    def _start(self) -> None:
        self._numbered += 1
        child = self._children.start(f"worker-{self._numbered}", "worker")
        self._members.append(Member(child))

    def _bury(self, member: Member) -> None:
        self._members.remove(member)
        self._children.stop(member.child.name)
        code = member.child.process.returncode
        if member.ended_by == "kill" or (member.ended_by == "request" and code == 0):
            return
        self.restarts += 1
        self.ends[f"code {code}: {reason_in(member.child.log)}"] += 1


def reason_in(log: Path) -> str:
    """Return why a worker has ended, by its log: the last thing it found critical, or said."""
    lines = log.read_text(errors="replace").splitlines()
    for line in reversed(lines):
        with suppress(ValueError):
            told = json.loads(line)
            if told.get("level") == "critical":
                return _normal(f"{told['event']}: {told.get('error', '')}")
    plain = [line for line in lines if line.strip() and not line.startswith("{")]
    return _normal(plain[-1] if plain else "said nothing")


def _normal(text: str) -> str:
    """Return a message without what differs from case to case."""
    if code := re.search(r"^(\w+): .*?\bcode=(\w+)", text):
        return f"{code[1]}: {code[2]}"
    return re.sub(r"[0-9a-f]{12,}|\d+(\.\d+)?", "#", text)[:_REASON_LENGTH]
