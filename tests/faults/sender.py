"""The load on its way: at a pace, in a thread of its own, whatever happens meanwhile."""

import threading
import time
from collections.abc import Mapping
from typing import Any, Final

from streams.cli.outbox import Outbox
from tests.faults.load import Load

_AT_ONCE: Final = 20


class Sender(threading.Thread):
    """Sends the load to the broker itself, each partition in order.

    Up to `limit` records it goes at `pace` a second (None: as fast as the broker takes them),
    beyond at `trickle`: then something always comes, and nothing runs away from a long recovery.
    """

    def __init__(self, client: Mapping[str, Any], load: Load, trickle: float) -> None:
        super().__init__(name="sender", daemon=True)
        self.limit = 0
        self.pace: float | None = None
        self.sent = 0
        self.failures: list[str] = []
        self._client = client
        self._load = load
        self._trickle = trickle
        self._over = threading.Event()

    def stop(self) -> None:
        """Send nothing more."""
        self._over.set()
        self.join()

    def run(self) -> None:
        """Send everything, or until `stop`."""
        with Outbox(self._client) as outbox:
            due_s = time.monotonic()
            for record in self._load:
                outbox.put(record.topic, record.key, record.value, ())
                self.sent += 1
                if self.sent % _AT_ONCE == 0:
                    due_s = self._rest(due_s)
                if self._over.is_set():
                    break
        self.failures = outbox.failures

    def _rest(self, due_s: float) -> float:
        """Wait until the next records are due; return when that is."""
        pace = self.pace if self.sent < self.limit else self._trickle
        now_s = time.monotonic()
        if pace is None:
            return now_s
        # Time lost while the buffer was full is not made up for.
        due_s = max(due_s, now_s - 1.0) + _AT_ONCE / pace
        self._over.wait(max(0.0, due_s - now_s))
        return due_s
