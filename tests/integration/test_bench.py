"""`andon bench` on a real broker: a worker is measured, and judged."""

import os

from streams.bench.run import plain, run
from streams.bench.scenarios import DEPLOY, Scenario
from streams.cli.children import Children

TINY = {
    "title": "tiny",
    "kpis": "bench/kpis",
    "seed": 1,
    "events": 1_000,
}


def measured(settings, tmp_path, **scenario):
    (tmp_path / "rules").mkdir()
    chosen = settings(kpis_dir=DEPLOY / "bench" / "kpis", rules_dir=tmp_path / "rules")
    chosen.state_dir.mkdir()
    names = ("kafka_bootstrap_servers", "application_id", "kpis_dir", "rules_dir", "state_dir")
    environment = {f"ANDON_{name.upper()}": str(getattr(chosen, name)) for name in names}
    environment = {**os.environ, **environment, "ANDON_LOG_FORMAT": "json"}
    with Children(tmp_path / "logs", environment) as children:
        return run(Scenario.model_validate({**TINY, **scenario}), chosen, children, lambda _: None)


def test_a_full_topic_is_worked_off_and_judged(clean_kafka, settings, tmp_path):
    """Every event counts, and verify agrees with what was published; no latency is claimed."""
    mix = {"interaction": 96, "survey": 3, "evaluation": 1}

    result = measured(settings, tmp_path, id="a", kind="catch-up", per_hundred=mix)

    assert ((), None, 1_000) == (result.problems, result.latency, result.events)
    assert 0 < result.seconds <= result.seconds_to_last_record
    # Overall, and at least every queue that an event names.
    assert result.kpi_records > 200
    assert result.peak_rss_mb > 0


def test_a_steady_load_has_latencies_of_the_measured_events_alone(clean_kafka, settings, tmp_path):
    """The warm-up counts in the account, not in the figures; every measured event was seen."""
    steady = {"kind": "steady", "per_hundred": {"interaction": 100}, "rate": 500, "warm_up_s": 1}

    result = measured(settings, tmp_path, id="b", **steady)
    figures = plain(result)

    assert (True, 1_000, 0) == (figures["verified"], result.events, result.latency.unseen)
    assert 0 < figures["p50_ms"] <= figures["p99_ms"] <= figures["p999_ms"] <= figures["max_ms"]


def test_a_rebuild_is_measured_from_its_worker_to_its_last_partials(
    clean_kafka, settings, tmp_path
):
    """What was published before does not count, and verify agrees with what is published now."""
    mix = {"interaction": 100}

    result = measured(settings, tmp_path, id="c", kind="rebuild", per_hundred=mix)

    assert ((), None, 1_000) == (result.problems, result.latency, result.events)
    assert 0 < result.seconds <= result.seconds_to_last_record
    assert result.kpi_records > 200
