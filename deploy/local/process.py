"""A server process that outlives the command which started it, found again by its record."""

import contextlib
import json
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from deploy.local.errors import StackError

_STOP_TIMEOUT_S = 20.0


@dataclass(frozen=True, slots=True)
class Server:
    """A server of this stack: its name and the directory that is its alone.

    The directory stands in the server's command line. By that a recorded pid is known to be ours:
    after a crash or a reboot the number may belong to anybody.
    """

    name: str
    directory: Path

    @property
    def log(self) -> Path:
        """The file that takes both output streams of the server."""
        return self.directory / "server.log"

    @property
    def _record(self) -> Path:
        return self.directory / "process.json"

    def start(self, command: Sequence[str | Path], port: int) -> psutil.Popen:
        """Start the command, detached from our terminal and signals, and record pid and port."""
        arguments = [str(part) for part in command]
        with self.log.open("ab") as log:
            process = psutil.Popen(
                arguments,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.directory,
                start_new_session=True,
            )
        self._write({"pid": process.pid, "port": port})
        return process

    def _write(self, record: dict[str, int]) -> None:
        # Replaced in one step: a reader, or a crash, never meets half a record.
        draft = self._record.with_suffix(".draft")
        draft.write_text(json.dumps(record))
        draft.replace(self._record)

    def _read(self) -> dict[str, int]:
        try:
            record = json.loads(self._record.read_text())
            return {"pid": int(record["pid"]), "port": int(record["port"])}
        except (OSError, ValueError, KeyError, TypeError):
            return {}

    @property
    def last_port(self) -> int | None:
        """The port of the last start, whether or not it still runs."""
        return self._read().get("port")

    def running(self) -> psutil.Process | None:
        """Return the recorded process if it lives and is ours."""
        pid = self._read().get("pid")
        if pid is None:
            return None
        try:
            process = psutil.Process(pid)
            ours = any(str(self.directory) in part for part in process.cmdline())
            return process if ours and process.status() != psutil.STATUS_ZOMBIE else None
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            return None

    def stop(self) -> bool:
        """Stop the recorded process, kill it if it does not listen; False if none was running."""
        process = self.running()
        if process is None:
            return False
        with contextlib.suppress(psutil.NoSuchProcess):
            process.terminate()
            if not _ended(process):
                process.kill()
                _ended(process)
        return True

    def tail(self, lines: int = 15) -> str:
        """Return the last lines of the log, indented for a message."""
        try:
            text = self.log.read_text(errors="replace")
        except OSError:
            return ""
        return "".join(f"\n  {line}" for line in text.splitlines()[-lines:])


def _ended(process: psutil.Process) -> bool:
    """Wait for the end of the process; False if it does not come in time.

    A zombie has ended: the first process of a container may be slow to bury it, or never do so.
    """
    deadline = time.monotonic() + _STOP_TIMEOUT_S
    while time.monotonic() < deadline:
        with contextlib.suppress(psutil.TimeoutExpired):
            process.wait(0.02)
            return True
        if process.status() == psutil.STATUS_ZOMBIE:
            return True
    return False


def wait_until_ready(
    server: Server, process: psutil.Popen, ready: Callable[[], bool], timeout_s: float
) -> None:
    """Return when `ready()` is true.

    Raises StackError with the end of the log if the process ends first, or the time does.
    """
    deadline = time.monotonic() + timeout_s
    while not ready():
        if process.poll() is not None:
            raise StackError(
                f"{server.name}: ended at its start with code {process.returncode}{server.tail()}",
                f"read {server.log}",
            )
        if time.monotonic() > deadline:
            raise StackError(
                f"{server.name}: no answer within {timeout_s:g} s{server.tail()}",
                f"read {server.log}; a slow machine may need a second `andon stack up`",
            )
        time.sleep(0.05)


def free_port(preferred: int | None = None) -> int:
    """Return a port nobody listens on now: the preferred one if that is free."""
    for port in (preferred or 0, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise StackError(
        "no free port on 127.0.0.1", "stop something, or raise the limit of open ports"
    )
