"""Two workers are replaced one after the other under load, and readers hardly notice."""

import signal
import threading
from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient

from schemas.catalogue import KPIS, create_topics, load_catalogue
from streams.bench.latency import summarise
from streams.bench.load import Stretch
from streams.bench.scenarios import DEPLOY, load_scenarios
from streams.bench.seen import in_kafka, read_events, read_records, visible_ms
from streams.bench.send import send_paced
from streams.bench.stage import Stage
from streams.bench.steady import readers, watched
from streams.bench.watch import Receptions
from streams.verify import verify
from tests.integration.workers import PATIENCE_S, Workers, processed
from tests.waiting import wait_until

RATE = 1_000
EVENTS = 45_000

#: How much longer than usual it may take from an event's append to a KPI record with it.
GAP_MS = 5_000


@pytest.fixture
def chosen(clean_kafka, settings, tmp_path):
    rules = tmp_path / "no-rules"
    rules.mkdir()
    made = settings(kpis_dir=DEPLOY / "bench" / "kpis", rules_dir=rules)
    create_topics(AdminClient(made.kafka_client()), load_catalogue())
    return made


@pytest.fixture
def workers(chosen, tmp_path):
    made = Workers(chosen, tmp_path)
    made.env["ANDON_LOG_FORMAT"] = "json"
    yield made
    made.end()


@pytest.mark.timeout(600)
def test_a_rolling_restart_shows_no_gap_and_changes_no_number(chosen, workers, tmp_path):
    """No event waits more than 5 s longer for its KPI record, whoever is stopped meanwhile.

    A worker that is asked to end commits, leaves the group, and ends with 0.
    """
    stage = Stage(load_scenarios()["steady-1000"], chosen, None, print)  # type: ignore[arg-type]
    events = iter(list(stage.load(EVENTS)))
    old = [workers.start(), workers.start()]
    wait_until(lambda: at_work(tmp_path) == 2, "two workers")
    stretches = [Stretch(EVENTS, RATE)]
    load = threading.Thread(target=send_paced, args=(stage.client, events, stretches))
    with readers(stage) as read:
        load.start()
        for count, process in enumerate(old, 1):
            pass_on(chosen, count * EVENTS // 4)
            process.send_signal(signal.SIGTERM)
            assert process.wait(PATIENCE_S) == 0
            workers.start()
            wait_until(lambda ready=2 + count: at_work(tmp_path) == ready, "its successor is ready")
        load.join()
        wait_until(lambda: processed(chosen) >= EVENTS, "everything is processed")
        # What is folded by a worker's last flush is merged by whoever comes after it.
        wait_until(lambda: not seen(stage, read).unseen, "every event published", every_s=1)
        for process in workers.running[2:]:
            process.send_signal(signal.SIGTERM)
            assert process.wait(PATIENCE_S) == 0
    latency = seen(stage, read)

    assert workers.start("--exit-when-idle", "2").wait(PATIENCE_S) == 0
    report = verify(chosen)
    assert (True, EVENTS) == (report.complete, report.account()["applied"])
    assert 0 == latency.unseen
    assert latency.max_ms - latency.p50_ms < GAP_MS


def seen(stage, read):
    [scope] = watched(stage)
    events = read_events(stage.client, stage.definitions, [scope])
    records = read_records(stage.client, stage.definitions, [scope])
    received = in_kafka(records.frames[scope.id], so_far(read.got[KPIS]))
    return summarise(visible_ms(events, events.measured(0), scope.id, received, records.vectors))


def so_far(got):
    """Return what a reader that still reads has got: offsets are noted last."""
    n = len(got.offset)
    return Receptions(got.received_ms[:n], got.partition[:n], got.offset[:n])


def pass_on(settings, count):
    wait_until(lambda: processed(settings) >= count, f"{count} events processed")


def at_work(logs: Path) -> int:
    """Return how many workers have ever taken partitions over."""
    return sum("partitions_taken_over" in log.read_text() for log in logs.glob("worker-*.log"))
