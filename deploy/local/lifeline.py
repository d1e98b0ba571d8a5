"""Ends a stack when the process that wanted it has ended, in whatever way.

Run as `python -m deploy.local.lifeline DIRECTORY...`: reads its standard input, which is a pipe
that the other process holds open and never writes to. The pipe breaks even when that process was
killed; then the servers recorded in the directories are stopped.
"""

import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from deploy.local.process import Server


@contextmanager
def lifeline(servers: Iterable[Server]) -> Iterator[None]:
    """Bind the servers to this process: they are stopped when the context ends, or the process."""
    directories = [str(server.directory) for server in servers]
    watcher = subprocess.Popen(
        [sys.executable, "-m", "deploy.local.lifeline", *directories],
        stdin=subprocess.PIPE,
        # Signals for our terminal or process group must not reach it: it is there to outlive us.
        start_new_session=True,
    )
    try:
        yield
    finally:
        watcher.communicate()


def main() -> None:
    """Wait for the end of the standard input, then stop the servers."""
    sys.stdin.buffer.read()
    for directory in sys.argv[1:]:
        path = Path(directory)
        Server(path.name, path).stop()


if __name__ == "__main__":
    main()
