"""The metrics of a worker."""

import pytest
from prometheus_client.parser import text_string_to_metric_families

from streams.metrics import Metrics

TOPIC = "contact-centre.interactions.v1"
_ORDER = {"topic": "0", "partition": "1"}
COUNTS = {"consumed": 10, "applied": 5, "duplicates": 2, "expired": 1, "dead_lettered": 2}


def read(metrics: Metrics, *names: str) -> dict[tuple[str, ...], float]:
    """Return samples by name and label values, topic and partition first."""

    def labels(values: dict[str, str]) -> list[str]:
        return [values[name] for name in sorted(values, key=lambda n: _ORDER.get(n, n))]

    return {
        (sample.name, *labels(sample.labels)): sample.value
        for family in text_string_to_metric_families(metrics.text().decode())
        for sample in family.samples
        if sample.name in names or any(sample.name.startswith(f"{name}_") for name in names)
    }


def test_an_account_is_set_not_counted() -> None:
    """Telling a committed account twice changes nothing: after a replay the numbers stand."""
    metrics = Metrics()
    metrics.account(TOPIC, 3, COUNTS)
    metrics.account(TOPIC, 3, COUNTS)

    assert {
        ("andon_events_consumed_total", TOPIC, "3"): 10,
        ("andon_events_applied_total", TOPIC, "3"): 5,
        ("andon_events_duplicates_total", TOPIC, "3"): 2,
        ("andon_events_expired_total", TOPIC, "3"): 1,
        ("andon_events_dead_lettered_total", TOPIC, "3", "EARLIER"): 2,
    } == read(metrics, "andon_events")


def test_dead_letters_by_reason_add_up_to_the_account() -> None:
    """What a worker has not seen itself is told as EARLIER."""
    metrics = Metrics()
    metrics.dead_letters(TOPIC, 0, "CONTRACT", 1)
    metrics.dead_letters(TOPIC, 0, "UNDECODABLE", 2)
    metrics.dead_letters(TOPIC, 0, "CONTRACT", 1)
    metrics.account(TOPIC, 0, COUNTS | {"dead_lettered": 7})

    name = "andon_events_dead_lettered_total"
    assert {
        (name, TOPIC, "0", "CONTRACT"): 2,
        (name, TOPIC, "0", "UNDECODABLE"): 2,
        (name, TOPIC, "0", "EARLIER"): 3,
    } == read(metrics, name)


def test_an_account_with_a_hole_is_refused() -> None:
    """A count that is left out would look like zero events."""
    with pytest.raises(KeyError, match="expired"):
        Metrics().account(TOPIC, 0, {"consumed": 1, "applied": 1, "duplicates": 0})


def test_a_partition_that_moved_is_told_of_no_more() -> None:
    """Two workers telling of one partition would count its events twice."""
    metrics = Metrics()
    metrics.account(TOPIC, 0, COUNTS)
    metrics.dead_letters(TOPIC, 0, "CONTRACT", 1)
    metrics.lag(TOPIC, 0, 7)
    metrics.watermark(TOPIC, 0, 1_000)
    metrics.state_bytes(TOPIC, 0, 4_096)
    metrics.rows_too_late(TOPIC, 0, 3)
    metrics.forget(TOPIC, 0)
    metrics.forget(TOPIC, 0)

    assert [] == [labels for labels in read(metrics, "andon") if TOPIC in labels]


def test_what_came_too_late_for_its_window_is_told() -> None:
    """Those events are in the account of their partition as applied: nobody else misses them."""
    metrics = Metrics()
    metrics.rows_too_late("andon.partials", 2, 3)
    metrics.rows_too_late("andon.partials", 2, 7)
    name = "andon_rows_too_late_total"

    assert {(name, "andon.partials", "2"): 7} == read(metrics, name)


def test_who_is_far_behind_says_so_until_it_has_caught_up() -> None:
    """Meanwhile the age of KPI records says nothing about faults."""
    metrics = Metrics()
    told = []
    for is_far_behind in (False, True, False):
        metrics.far_behind(is_far_behind)
        told.append(read(metrics, "andon_far_behind"))

    name = ("andon_far_behind",)
    assert [{name: 0}, {name: 1}, {name: 0}] == told


def test_the_last_checkpoint_is_told_once_there_is_one() -> None:
    """Before it, zero would pass for one of 1970."""
    metrics = Metrics(now_s=lambda: 1_700_000_000.0)
    name = "andon_last_checkpoint_timestamp_seconds"
    before = read(metrics, name)
    metrics.checkpoint(TOPIC, 0)
    told = read(metrics, name)
    metrics.forget(TOPIC, 0)

    assert [{}, {(name, TOPIC, "0"): 1_700_000_000.0}, {}] == [before, told, read(metrics, name)]


def test_the_age_of_a_watermark_grows_between_scrapes() -> None:
    """A silent source is seen without any further event."""
    now_s = [100.0]
    metrics = Metrics(lambda: now_s[0])
    metrics.watermark(TOPIC, 0, 40_000)
    name = "andon_watermark_age_seconds"

    assert {(name, TOPIC, "0"): 60} == read(metrics, name)
    now_s[0] = 130.0
    assert {(name, TOPIC, "0"): 90} == read(metrics, name)


def test_one_observation_stands_for_many_events() -> None:
    """A flush's latency counts once for each of its events; bounds are upper and inclusive."""
    metrics = Metrics()
    metrics.kpi_latency(0.5, 100)
    metrics.kpi_latency(0.6, 900)
    metrics.kpi_latency(-0.2)
    name = "andon_event_to_kpi_seconds"
    found = read(metrics, name)

    assert 1 == found[(f"{name}_bucket", "0.1")]
    assert 101 == found[(f"{name}_bucket", "0.5")]
    assert 1001 == found[(f"{name}_bucket", "0.75")]
    assert 1001 == found[(f"{name}_bucket", "+Inf")]
    assert 1001 == found[(f"{name}_count",)]
    assert 590 == pytest.approx(found[(f"{name}_sum",)])


def test_flushes_publications_and_build() -> None:
    """What a worker does besides its partitions."""
    metrics = Metrics(lambda: 77.0)
    metrics.flush(0.02, 1_500)
    metrics.recovery(3.0)
    metrics.kpi_records(12)
    metrics.kpi_records(3)
    metrics.actions("COACHING", 1)
    metrics.actions("COACHING", 2)
    metrics.build(kpis="abc")

    found = read(metrics, "andon")
    assert 1 == found[("andon_flush_seconds_bucket", "0.025")]
    assert 0 == found[("andon_flush_seconds_bucket", "0.01")]
    assert 1_500 == found[("andon_flush_events_sum",)]
    assert 1 == found[("andon_recovery_seconds_count",)]
    assert 15 == found[("andon_kpi_records_total",)]
    assert 3 == found[("andon_actions_total", "COACHING")]
    assert 77 == found[("andon_last_flush_timestamp_seconds",)]
    build = [labels for labels in found if labels[0] == "andon_build_info"]
    assert [1] == [found[labels] for labels in build]
    assert "abc" in build[0]


def test_before_the_first_flush_there_is_no_time_of_it() -> None:
    """An alert on its age must not fire for a worker that has just begun."""
    assert {} == read(Metrics(), "andon_last_flush_timestamp_seconds")


def test_every_metric_says_what_it_is() -> None:
    """No family of ours is without a sentence, and units are base units."""
    families = [
        family
        for family in text_string_to_metric_families(Metrics().text().decode())
        if family.name.startswith("andon_")
    ]

    assert [] == [family.name for family in families if not family.documentation.endswith(".")]
    assert [] == [family.name for family in families if family.name.endswith(("_ms", "_kb"))]
