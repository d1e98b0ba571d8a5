"""`andon bench` on a real broker: a worker is measured, and judged."""

import os

import pytest

from streams.bench.prepare import prepare
from streams.bench.run import plain, run
from streams.bench.scenarios import Scenario
from streams.bench.stage import Stage
from streams.cli.children import Children

TINY = {
    "title": "tiny",
    "kpis": "bench/kpis",
    "seed": 1,
    "events": 1_000,
}


def measured(settings, tmp_path, changes=None, **scenario):
    (tmp_path / "no-rules").mkdir()
    asked = Scenario.model_validate({**TINY, **scenario})
    chosen = settings(
        kpis_dir=asked.kpis_dir,
        rules_dir=prepare(asked, tmp_path).get("ANDON_RULES_DIR", tmp_path / "no-rules"),
        **(changes or {}),
    )
    chosen.state_dir.mkdir()
    names = (
        *("kafka_bootstrap_servers", "redis_url", "application_id", "kpis_dir", "rules_dir"),
        *("state_dir", "checkpoint_interval_s"),
    )
    environment = {f"ANDON_{name.upper()}": str(getattr(chosen, name)) for name in names}
    environment = {**os.environ, **environment, "ANDON_LOG_FORMAT": "json"}
    with Children(tmp_path / "logs", environment) as children:
        return run(Stage(asked, chosen, children, lambda _: None))


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


@pytest.mark.parametrize("workers", [1, 2])
def test_a_rebuild_is_measured_from_its_workers_to_their_last_partials(
    clean_kafka, settings, tmp_path, workers
):
    """What was published before does not count, and verify agrees with what is published now."""
    mix = {"interaction": 100}

    result = measured(settings, tmp_path, id="c", kind="rebuild", per_hundred=mix, workers=workers)

    assert ((), None, 1_000) == (result.problems, result.latency, result.events)
    assert 0 < result.seconds <= result.seconds_to_last_record
    assert result.kpi_records > 200


def test_a_whole_scenario_measures_to_redis_and_to_actions(
    clean_kafka, redis_url, settings, tmp_path
):
    """Everything that comes of an event is waited for, and nothing of it is missing."""
    steady = {"kind": "steady", "rate": 500, "per_second": 500, "warm_up_s": 1}
    mix = {"interaction": 90, "evaluation": 10}

    result = measured(
        settings,
        tmp_path,
        id="d",
        kpis="kpis",
        rules="rules",
        extra_rules="bench/rules",
        whole=True,
        per_hundred=mix,
        failed_in=10,
        events=6_000,
        **steady,
    )

    assert () == result.problems
    assert {
        *("queue", "team", "overall", "queue in Redis", "team in Redis", "overall in Redis"),
        *("immediate action", "window action"),
    } == result.latencies.keys()
    assert 5_400 == result.latencies["queue"].n


def test_a_burst_has_latencies_of_each_phase_and_a_time_to_drain(clean_kafka, settings, tmp_path):
    """Event time goes at the pace of each phase, and every event is seen."""
    rates = {"before": 200, "burst": 600, "after": 200}
    phases = [{"name": name, "rate": rate, "seconds": 2} for name, rate in rates.items()]

    result = measured(
        settings,
        tmp_path,
        id="e",
        kind="burst",
        per_hundred={"interaction": 100},
        events=2_000,
        phases=phases,
    )

    assert ((), 2_000) == (result.problems, result.events)
    assert {"queue": 2_000, "queue, before": 400, "queue, burst": 1_200, "queue, after": 400} == {
        name: latency.n for name, latency in result.latencies.items()
    }
    assert result.details["drain_s"] >= 0


def test_a_worker_is_killed_and_another_goes_on_with_its_state(clean_kafka, settings, tmp_path):
    """The account adds up over both, and fresh records come of every partition.

    The time of a takeover over all events that were there before would pass for a rate.
    """
    result = measured(
        settings,
        tmp_path,
        {"checkpoint_interval_s": 1},
        id="f",
        kind="recovery",
        per_hundred={"interaction": 100},
        rate=500,
        kills=1,
    )

    assert () == result.problems
    assert result.details["state_mb"] > 0
    assert 0 < result.details["recovery_s"][0] < result.details["seconds"][0]
    found = plain(result)
    assert [None] * 3 == [found[n] for n in ("events_per_s", "cpu_us_per_event", "cpu_share")]


def test_memory_is_looked_at_over_an_even_load(clean_kafka, settings, tmp_path):
    """A run of seconds has one sample, and no verdict."""
    result = measured(
        settings, tmp_path, id="g", kind="endurance", per_hundred={"interaction": 100}, rate=500
    )

    assert ((), 1, None) == (
        result.problems,
        len(result.details["rss_mb"]),
        result.details["flat"],
    )


def test_several_workers_share_a_topic_and_their_cpu_is_added_up(clean_kafka, settings, tmp_path):
    """Each takes its part, and together they have counted everything."""
    result = measured(
        settings, tmp_path, id="h", kind="at-once", per_hundred={"interaction": 100}, workers=2
    )

    assert ((), 1_000) == (result.problems, result.events)
