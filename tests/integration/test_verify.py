"""`andon verify`, `andon kpis` and `andon actions` against a real broker."""

import json
import time
from pathlib import Path

import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from typer.testing import CliRunner

import schemas
from schemas.catalogue import ACTIONS, INTERACTIONS, KPIS, WATERMARKS, create_topics, load_catalogue
from schemas.client import offset_ranges
from schemas.codec import Codec
from schemas.registry import FileRegistry
from streams.cli import app
from streams.verify import verify
from tests.oracle.support import DEFAULTS
from tests.streams.verify.test_compare import NINE, QUARTER_MS, record

REGISTRY = """
scopes:
  - {id: queue, key: [queue_id], pane: 10s, windows: [15m], sources: [interactions]}
measures:
  - {id: offered, source: interactions, value: "event_type = 'OFFERED'"}
  - {id: answered, source: interactions, value: "event_type = 'ANSWERED'"}
kpis:
  - {id: answer_rate, title: Answer rate, unit: percent, numerator: answered, denominator: offered}
"""

HOUR_MS = 3_600_000
UNSETTLED = (KafkaError.NOT_LEADER_FOR_PARTITION, KafkaError.UNKNOWN_TOPIC_OR_PART)


@pytest.fixture
def judged(clean_kafka, settings, tmp_path, monkeypatch):
    """Settings of a Kafka with our topics, where two offers and an answer were processed."""
    (tmp_path / "kpis").mkdir()
    (tmp_path / "kpis" / "kpis.yaml").write_text(REGISTRY)
    chosen = settings(kpis_dir=tmp_path / "kpis")
    catalogue = load_catalogue()
    create_topics(AdminClient(chosen.kafka_client()), catalogue)
    for topic in catalogue:
        wait_for_leaders(chosen, topic.name)
    for name in ("kafka_bootstrap_servers", "application_id", "kpis_dir", "state_dir"):
        monkeypatch.setenv(f"ANDON_{name.upper()}", str(getattr(chosen, name)))
    events = [("OFFERED", {}), ("OFFERED", {}), ("ANSWERED", {"queue_wait_ms": 1})]
    for i, (kind, more) in enumerate(events):
        event = {"event_id": f"e{i}", "event_time": NINE + i, "event_type": kind, **more}
        send(chosen, INTERACTIONS, "interaction", 0, {**DEFAULTS["interaction"], **event})
    commit(chosen)
    end = {
        "topic": INTERACTIONS,
        "partition": 0,
        "position": 3,
        "watermark": NINE + 2 * HOUR_MS,
        "reason": "END",
    }
    send(chosen, WATERMARKS, "watermark-advance", 0, end)
    return chosen


def wait_for_leaders(settings, topic):
    """Return once every partition of a new topic answers: its leaders are told of it last."""
    deadline = time.monotonic() + 30
    while True:
        try:
            offset_ranges(settings.kafka_client(), topic)
        except KafkaException as problem:
            if problem.args[0].code() not in UNSETTLED or time.monotonic() > deadline:
                raise
        else:
            return
        time.sleep(0.05)


def send(settings, topic, contract, partition, value, key=b"k"):
    producer = Producer(settings.kafka_client())
    payload = Codec(contract, FileRegistry(), topic).encode(value)
    producer.produce(topic, payload, key=key, partition=partition)
    assert not producer.flush(30)


def commit(settings):
    """Commit the ends of the interactions, as a worker that has processed them all."""
    ends = offset_ranges(settings.kafka_client(), INTERACTIONS)
    group = {"group.id": settings.application_id, "enable.auto.commit": False}
    consumer = Consumer({**settings.kafka_client(), **group})
    offsets = [TopicPartition(INTERACTIONS, p, end) for p, (_, end) in ends.items()]
    consumer.commit(offsets=offsets, asynchronous=False)
    consumer.close()


def publish(settings, whole):
    key = f"queue|sales|TUMBLING:{QUARTER_MS}|{whole['window']['start_time']}"
    send(settings, KPIS, "kpi-record", 0, whole, key.encode())


def test_what_was_published_rightly_is_confirmed(judged):
    """The command ends with 0 and names what it compared."""
    publish(judged, record())

    report = verify(judged)
    result = CliRunner().invoke(app, ["verify", "--format", "json"])

    assert (True, True) == (report.ok, report.complete), report
    assert (1, 1, 1) == (report.records, report.final_records, report.final_kpis)
    assert {
        "consumed": 3,
        "applied": 3,
        "duplicates": 0,
        "expired": 0,
        "dead_lettered": 0,
    } == report.account()
    assert (0, True) == (result.exit_code, json.loads(result.stdout)["ok"])


def test_a_wrong_sum_is_found_and_ends_with_one(judged):
    """The first differences name scope, key, window, measure and both values."""
    publish(judged, record(answered=2))

    result = CliRunner().invoke(app, ["verify", "--format", "json"])

    found = json.loads(result.stdout)["differences"][0]
    assert 1 == result.exit_code
    assert {
        "scope": "queue",
        "key": "sales",
        "window": f"TUMBLING:{QUARTER_MS}:{NINE}",
        "what": "measures.answered",
        "found": "2.0",
        "expected": "1.0",
        "final": True,
    } == found


def test_input_that_was_not_processed_is_told_and_not_judged(judged):
    """The committed positions are the end; what lies after them is lag."""
    publish(judged, record())
    event = {"event_id": "new", "event_time": NINE + 5}
    send(judged, INTERACTIONS, "interaction", 0, {**DEFAULTS["interaction"], **event})

    report = verify(judged)

    assert report.ok
    assert [(INTERACTIONS, 0, 1)] == [
        (lag.topic, lag.partition, lag.records) for lag in report.lags
    ]


def test_the_newest_version_of_each_record_is_printed_in_the_contracts_form(judged):
    """One record a line; the choice is by scope, key and window."""
    publish(judged, record(version=2))
    publish(judged, record(offered=7, version=1))
    arguments = ["kpis", "--scope", "queue", "--key", "sales", "--window", "15m"]

    lines = CliRunner().invoke(app, [*arguments, "--format", "json"]).stdout.splitlines()
    others = CliRunner().invoke(app, ["kpis", "--window", "30m", "--format", "json"])
    table = CliRunner().invoke(app, ["kpis", "--kpi", "answer_rate"])

    assert [record(version=2)] == [json.loads(line) for line in lines]
    assert "" == others.stdout
    assert "50.0 %" in table.stdout


def test_a_window_that_cannot_be_is_wrong_use(judged):
    """Exit code 2, and how a window is written."""
    result = CliRunner().invoke(app, ["kpis", "--window", "soon"])

    assert 2 == result.exit_code
    assert "15m, 5m/1m or day" in result.output


def test_actions_are_printed_once_each(judged):
    """An action that was withdrawn is one line."""
    example = Path(schemas.__file__).parent / "examples" / "action" / "coaching.json"
    action = Codec("action", FileRegistry(), ACTIONS).record(json.loads(example.read_text()))
    for status in ("OPEN", "WITHDRAWN"):
        send(judged, ACTIONS, "action", 0, action | {"status": status})

    result = CliRunner().invoke(app, ["actions", "--format", "json"])

    (line,) = result.stdout.splitlines()
    assert "WITHDRAWN" == json.loads(line)["status"]
