"""`andon rebuild`: state and KPI records once more, from the input topics."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from typing import Annotated

import psutil
import typer

from streams.cli import CommandError
from streams.cli.children import Child, Children, Interrupted, interruptible
from streams.cli.common import require_kafka, say
from streams.definitions import load_definitions
from streams.rebuild import CannotRebuild, Progress, Rebuild
from streams.settings import Settings, load_settings

_LOOK_EVERY_S = 1.0
_TELL_EVERY_S = 5.0
_STALLED_S = 120.0
_LEAVE_S = 5.0


def rebuild(
    workers: Annotated[int, typer.Option(min=1, help="So many worker processes share it.")] = 1,
) -> None:
    """Recompute state and KPI records from the input topics, then end; stop the workers before.

    What is published stays readable until newer versions replace it; actions that are out are not
    published again. Interrupted, it goes on where it was: run it again. Workers that are started
    afterwards, or instead, go on in the new epoch by themselves.

    Example: andon rebuild --workers 2
    """
    settings = load_settings()
    definitions = load_definitions(settings)
    require_kafka(settings)
    chosen = Rebuild(settings.kafka_client(), settings.application_id, definitions)
    _require_alone(chosen, settings)
    begun = chosen.begin()
    say(f"rebuild epoch {begun.epoch}: {'goes on' if begun.goes_on else 'begins'}")
    try:
        with interruptible():
            watched = _run(settings, chosen, workers)
    except Interrupted as interrupted:
        say("stopped: run `andon rebuild` again, and it goes on where it was")
        raise typer.Exit(interrupted.exit_code) from None
    chosen.end(begun.epoch)
    say(
        f"rebuild epoch {begun.epoch}: done, {watched.line()}; most memory of a worker"
        f" {watched.peak_bytes / 2**20:,.0f} MiB; start the workers again, they go on in this epoch"
    )


def _require_alone(chosen: Rebuild, settings: Settings) -> None:
    """Return once the group has no members; one that was killed is a member for a moment yet."""
    deadline = time.monotonic() + settings.session_timeout_ms / 1000 + _LEAVE_S
    while (members := chosen.members()) > 0:
        if time.monotonic() > deadline:
            raise CannotRebuild(
                f"group {chosen.group}: found {members} running workers, expected none",
                "stop them all, begin again, and start them when it is done",
            )
        time.sleep(_LOOK_EVERY_S)


@dataclass(slots=True)
class _Watched:
    """A rebuild while it runs: how far it is, how fast, and what memory it takes."""

    progress: Progress
    children: list[Child]
    peak_bytes: int = 0
    _began: float = field(default_factory=time.monotonic)
    _first: int | None = None
    _looked: float = 0.0
    _told: float = 0.0
    _done: bool = False

    def is_done(self) -> bool:
        """Look, at most once a second, and say every five seconds how far it is."""
        now = time.monotonic()
        if now - self._looked < _LOOK_EVERY_S:
            return self._done
        self._looked = now
        self._done = self.progress.look()
        if self._first is None:
            self._first, self._began = self.progress.done, now
        for child in self.children:
            self.peak_bytes = max(self.peak_bytes, _memory(child))
        if now - self._told >= _TELL_EVERY_S:
            self._told = now
            say(self.line())
        return self._done

    def line(self) -> str:
        """Return records done of all, and how many a second."""
        done, total = self.progress.done, self.progress.total
        seconds = max(time.monotonic() - self._began, 1e-3)
        pace = (done - (self._first or 0)) / seconds
        share = f" ({done / total:.0%})" if total else ""
        return f"{done:,} of {total:,} records{share}, {pace:,.0f} a second"


def _memory(child: Child) -> int:
    try:
        return int(psutil.Process(child.process.pid).memory_info().rss)
    except psutil.NoSuchProcess:
        return 0


def _run(settings: Settings, chosen: Rebuild, workers: int) -> _Watched:
    # Several workers on one machine cannot share a port.
    environment = {**os.environ, "ANDON_METRICS_PORT": "0"}
    with Children(settings.state_dir / "rebuild", environment) as children:
        started = [children.start(f"worker-{n}", "worker") for n in range(workers)]
        watched = _Watched(Progress(chosen), started)
        children.wait_until(watched.is_done, "rebuild", _STALLED_S, lambda: watched.progress.done)
        children.stop()
        for child in started:
            if child.process.returncode:
                raise CommandError(
                    f"{child.name}: ended with code {child.process.returncode}",
                    f"read {child.log}, then run `andon rebuild` again",
                )
    return watched
