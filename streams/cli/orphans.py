"""Ends processes whose parent was killed before it could end them itself.

Run as `python -m streams.cli.orphans`: reads a line for each process, its pid and the second it was
created, from a pipe that the parent holds open. The pipe breaks in whatever way the parent ends;
then those processes that still run are ended.
"""

import sys
from collections.abc import Iterable
from contextlib import suppress

import psutil

_STOP_S = 10.0


def line_of(pid: int) -> str:
    """Return what tells the process from a later one of the same pid."""
    return f"{pid} {psutil.Process(pid).create_time()}\n"


def end_those(lines: Iterable[str]) -> None:
    """End the processes of the lines that still run."""
    found = []
    for line in lines:
        pid, created = line.split()
        with suppress(psutil.NoSuchProcess):
            process = psutil.Process(int(pid))
            if process.create_time() == float(created):
                process.terminate()
                found.append(process)
    _, alive = psutil.wait_procs(found, timeout=_STOP_S)
    for process in alive:
        with suppress(psutil.NoSuchProcess):
            process.kill()


if __name__ == "__main__":
    end_those(sys.stdin.readlines())
