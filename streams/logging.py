"""Logs: a constant event name and key-values; JSON for machines, coloured lines for a terminal.

Faust, aiokafka and every other user of the standard library's logging come out in the same form.
A line names what it is about (topic, partition, offset, key) and never carries a payload, a name
or a transcript.
"""

import logging
import os
import socket
import sys
import time
from collections.abc import Callable, MutableMapping
from typing import Any, Literal, TextIO

import structlog
from structlog.typing import EventDict, Processor

from streams.settings import Settings

# The same event about the same thing is written this often; what was left out is counted.
_REPEAT_INTERVAL_S = 10.0
_REPEATS_KEPT = 5
_IDENTITY = ("logger", "event", "topic", "partition", "reason")
_REMEMBERED = 1_000

# At INFO these tell of every heartbeat and every fetched partition.
_TALKATIVE = ("aiokafka", "mode", "aiohttp.access", "asyncio")


def configure_logging(
    log_format: Literal["auto", "json", "console"] = "auto",
    level: str = "INFO",
    stream: TextIO | None = None,
) -> None:
    """Send every log line of this process to `stream` (standard error unless given).

    `auto` is console on a terminal and JSON elsewhere. Standard output stays free for data.
    """
    stream = stream or sys.stderr
    console = log_format == "console" or (log_format == "auto" and stream.isatty())
    shared = _shared_processors()
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelName(level)),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared, processors=_rendering(console, stream)
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level))


def _shared_processors() -> list[Processor]:
    return [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        LimitRepeats(time.monotonic),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]


def _rendering(console: bool, stream: TextIO) -> list[Processor]:
    cleaned: Processor = structlog.stdlib.ProcessorFormatter.remove_processors_meta
    if console:
        return [cleaned, structlog.dev.ConsoleRenderer(colors=stream.isatty())]
    return [
        cleaned,
        structlog.processors.format_exc_info,
        structlog.processors.EventRenamer("event"),
        structlog.processors.JSONRenderer(default=str, ensure_ascii=False),
    ]


class LimitRepeats:
    """Lets through a few of the same line per interval; the next one says how many it hid.

    The same line is the same event about the same topic, partition and reason. Errors always pass.
    """

    def __init__(self, now_s: Callable[[], float]) -> None:
        self._now_s = now_s
        self._seen: dict[tuple[Any, ...], tuple[float, int]] = {}

    def __call__(self, _: Any, method: str, event: EventDict) -> MutableMapping[str, Any]:
        """Return the line, or raise DropEvent."""
        if method in ("error", "critical", "exception", "debug"):
            return event
        line = tuple(str(event.get(name)) for name in _IDENTITY)
        now_s = self._now_s()
        since_s, count = self._seen.get(line, (now_s, 0))
        if now_s - since_s >= _REPEAT_INTERVAL_S:
            if count > _REPEATS_KEPT:
                event["repeats_not_shown"] = count - _REPEATS_KEPT
            since_s, count = now_s, 0
        if line not in self._seen and len(self._seen) >= _REMEMBERED:
            self._seen.clear()
        self._seen[line] = (since_s, count + 1)
        if count >= _REPEATS_KEPT:
            raise structlog.DropEvent
        return event


def log_start(process: str, settings: Settings, **more: object) -> None:
    """Write the first line of a process: what runs, where, and with which settings.

    Binds `process`, `host` and `pid` to every later line; secrets are stars.
    """
    from streams.metrics import METRICS

    structlog.contextvars.bind_contextvars(
        process=process, host=socket.gethostname(), pid=os.getpid()
    )
    structlog.get_logger(f"andon.{process}").info(
        "process_started", version=METRICS.version, settings=settings.public(), **more
    )
