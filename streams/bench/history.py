"""The history of results: a CSV file that only grows, and what a row says of the circumstances."""

import csv
import os
import platform
import re
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

from streams.bench.scenarios import DEPLOY

HISTORY_FILE: Final = DEPLOY / "bench" / "history.csv"

_CIRCUMSTANCES: Final = (
    *("date", "commit", "dirty", "machine", "calibration_ms", "versions", "settings"),
)
COLUMNS: Final = (
    *_CIRCUMSTANCES,
    *("scenario", "events", "events_per_s", "cpu_us_per_event", "p50_ms", "p99_ms", "p999_ms"),
    *("peak_rss_mb", "kpi_records", "verified"),
)
#: Of a run of an engine among its peers.
PEERS_COLUMNS: Final = (
    *_CIRCUMSTANCES,
    *("engine", "engine_versions", "round", "events", "events_per_s", "cpu_us_per_event"),
    *("peak_rss_mb", "ratio", "cpu_ratio", "right"),
)

_RESULTS: Final = tuple(f":!{HISTORY_FILE.parent}/*.{kind}" for kind in ("csv", "svg"))
_LIBRARIES: Final = ("andon", "faust-streaming", "aiokafka", "confluent-kafka", "polars", "numpy")
_CALIBRATION_STEPS: Final = 2_000_000


class HistoryError(Exception):
    """The history cannot be continued; the text says why."""

    exit_code = 2
    next_step = "name another file with --history, or give this one the columns it had"


@dataclass(frozen=True, slots=True)
class Circumstances:
    """What a result depends on besides the scenario.

    ``settings`` are those of the environment that differ from what is shipped.
    """

    commit: str
    dirty: bool
    machine: str
    versions: str
    settings: str


def circumstances(kafka_version: str, settings: Mapping[str, str]) -> Circumstances:
    """Return those of this checkout and machine; nothing in it names the machine."""
    return Circumstances(
        commit=_git("rev-parse", "--short=12", "HEAD") or "unknown",
        # Results themselves do not make the code another.
        dirty=bool(_git("status", "--porcelain", "--", ".", *_RESULTS)),
        machine=f"{os.cpu_count()} x {_processor()}",
        versions="; ".join(
            [
                f"python {platform.python_version()}",
                f"kafka {kafka_version}",
                *(f"{name} {_version(name)}" for name in _LIBRARIES),
            ]
        ),
        settings="; ".join(f"{name}={value}" for name, value in sorted(settings.items())),
    )


def calibration_ms() -> float:
    """Return the CPU time of a fixed piece of Python work: how fast the machine is just now."""
    began = time.process_time()
    total = 0
    for n in range(_CALIBRATION_STEPS):
        total += n & 7
    return (time.process_time() - began) * 1000


def append_rows(file: Path, columns: Sequence[str], rows: Sequence[Mapping[str, object]]) -> None:
    """Add of each row what the file has columns for; raise HistoryError where its own differ.

    A new file gets its header first; without rows nothing is made.
    """
    for row in rows:
        if missing := set(columns) - row.keys():
            raise ValueError(f"{file.name}: a row without {sorted(missing)}, expected {columns}")
    if not rows:
        return
    try:
        with file.open("a+", newline="") as lines:
            lines.seek(0)
            header = next(csv.reader(lines), None)
            if header not in (None, list(columns)):
                raise HistoryError(f"{file}: columns {header}, expected {list(columns)}")
            lines.seek(0, os.SEEK_END)
            writer = csv.DictWriter(lines, columns, lineterminator="\n")
            if header is None:
                writer.writeheader()
            writer.writerows({name: _text(row[name]) for name in columns} for row in rows)
    except OSError as problem:
        raise HistoryError(f"{file}: {problem.strerror}") from problem


def now_text() -> str:
    """Return the present instant, to the second, UTC."""
    return f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"


def _text(value: object) -> str:
    """Return a value as the file has it: nothing for None, three digits are enough of a number."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return str(value)


def _git(*arguments: str) -> str:
    try:
        done = subprocess.run(
            ["git", "-C", str(DEPLOY.parent), *arguments],
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return ""
    return done.stdout.strip()


def _processor() -> str:
    try:
        told = Path("/proc/cpuinfo").read_text()
    except OSError:
        told = ""
    found = re.search(r"^model name\s*:\s*(.+)$", told, re.MULTILINE)
    return found[1] if found else platform.processor() or platform.machine()


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "unknown"
