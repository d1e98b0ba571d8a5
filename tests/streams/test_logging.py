"""The form of the logs."""

import io
import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from streams.logging import LimitRepeats, configure_logging, log_start
from streams.settings import Settings


@pytest.fixture
def lines() -> Iterator[io.StringIO]:
    """Where the log lines of a test go; the process' own logging is put back afterwards."""
    root = logging.getLogger()
    before = root.handlers[:], root.level
    levels = {name: logging.getLogger(name).level for name in ("aiokafka", "mode", "asyncio")}
    # A command that another test ran in this process may have bound who it is.
    structlog.contextvars.clear_contextvars()
    yield io.StringIO()
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()
    root.handlers[:], root.level = before[0], before[1]
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)


def read(lines: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in lines.getvalue().splitlines()]


def test_a_line_is_one_json_object(lines: io.StringIO) -> None:
    """An event name, its key-values, the level, the logger and the time in UTC."""
    configure_logging("json", "INFO", lines)
    structlog.get_logger("andon.worker").warning(
        "gap", topic="andon.partials", partition=3, offset=17
    )

    (line,) = read(lines)
    assert str(line.pop("timestamp")).endswith("Z")
    assert {
        "event": "gap",
        "topic": "andon.partials",
        "partition": 3,
        "offset": 17,
        "level": "warning",
        "logger": "andon.worker",
    } == line


def test_other_libraries_lines_have_the_same_form(lines: io.StringIO) -> None:
    """Faust and the rest log through the standard library; their lines are JSON too."""
    configure_logging("json", "INFO", lines)
    logging.getLogger("faust.app").warning("[^Worker]: %s", "joined")

    (line,) = read(lines)
    del line["timestamp"]
    assert {"event": "[^Worker]: joined", "level": "warning", "logger": "faust.app"} == line


def test_an_exception_is_in_its_line(lines: io.StringIO) -> None:
    """A traceback does not spill over the following lines."""
    configure_logging("json", "INFO", lines)
    try:
        raise ValueError("contract.field: found, expected")
    except ValueError:
        structlog.get_logger("andon").exception("stage_failed")

    (line,) = read(lines)
    assert "ValueError: contract.field: found, expected" in str(line["exception"])


def test_the_level_holds_for_all(lines: io.StringIO) -> None:
    """Below the level nothing is written, ours or others'."""
    configure_logging("json", "WARNING", lines)
    structlog.get_logger("andon").info("quiet")
    logging.getLogger("faust").info("quiet")
    logging.getLogger("aiokafka").info("quiet")

    assert [] == read(lines)


def test_lines_for_people_off_a_terminal_have_no_colours(lines: io.StringIO) -> None:
    """`console` into a file stays readable."""
    configure_logging("console", "INFO", lines)
    structlog.get_logger("andon").info("ready", partitions=8)

    assert "ready" in lines.getvalue()
    assert "partitions=8" in lines.getvalue()
    assert "\x1b" not in lines.getvalue()


def test_the_first_line_tells_settings_and_no_secret(lines: io.StringIO) -> None:
    """An operator sees what a process runs with; passwords are stars."""
    configure_logging("json", "INFO", lines)
    settings = Settings(kafka_sasl_password="hush", redis_url="redis://andon:hush@cache:6379/0")
    log_start("worker", settings, partitions=4)

    (line,) = read(lines)
    assert ("process_started", "worker", 4) == (line["event"], line["process"], line["partitions"])
    assert isinstance(line["settings"], dict)
    assert "redis://andon:***@cache:6379/0" == line["settings"]["redis_url"]
    assert "hush" not in lines.getvalue()


def test_a_repeated_line_is_shown_some_times_and_then_counted() -> None:
    """Ten thousand late events a second must not be ten thousand lines a second."""
    now_s = [0.0]
    limit = LimitRepeats(lambda: now_s[0])

    def shown(method: str = "info", **event: object) -> dict[str, object] | None:
        try:
            return dict(limit(None, method, {"event": "expired", **event}))
        except structlog.DropEvent:
            return None

    assert 5 == sum(shown() is not None for _ in range(20))
    assert {"event": "expired", "topic": "another"} == shown(topic="another")
    assert {"event": "expired"} == shown("error")
    now_s[0] = 11.0
    assert {"event": "expired", "repeats_not_shown": 15} == shown()
    assert {"event": "expired"} == shown()
