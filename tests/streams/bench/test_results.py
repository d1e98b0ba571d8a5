"""What the history's columns cannot hold lies beside it, and curves are drawn from there."""

import csv

from streams.bench.picture import draw_curves
from streams.bench.results import Panel, recovery_panels, scale_panels, write_results
from streams.bench.scenarios import load_scenarios

ROW = {
    "date": "2026-11-23T09:00:00Z",
    "commit": "0123456789ab",
    "dirty": False,
    "events": 1_200_000,
    "events_per_s": 200_000.0,
    "cpu_us_per_event": 5.0,
    "peak_rss_mb": 512.0,
    "verified": True,
    "latencies": {},
    "details": {},
}
QUANTILES = {"p50_ms": 400.0, "p99_ms": 700.0, "p999_ms": 800.0, "max_ms": 900.0, "n": 600_000}


def written(scenario_id, directory, **row):
    write_results(load_scenarios()[scenario_id], {**ROW, "scenario": scenario_id, **row}, directory)


def lines(file):
    with file.open(newline="") as text:
        return [",".join(row) for row in csv.reader(text)]


def test_each_latency_is_a_row(tmp_path):
    """A run without any leaves no file."""
    written("reference-catch-up", tmp_path)
    assert [] == list(tmp_path.iterdir())

    written("whole-steady-10000", tmp_path, latencies={"team in Redis": QUANTILES})

    assert [
        "date,commit,dirty,scenario,what,p50_ms,p99_ms,p999_ms,max_ms,n",
        "2026-11-23T09:00:00Z,0123456789ab,no,whole-steady-10000,team in Redis,400,700,800,900,"
        "600000",
    ] == lines(tmp_path / "latencies.csv")


def test_memory_is_a_row_a_minute(tmp_path):
    """The verdict can be looked at again."""
    written("endurance", tmp_path, details={"rss_mb": [300.0, 301.5]})

    assert ["0,300", "1,301.5"] == [
        line.rpartition("endurance,")[2] for line in lines(tmp_path / "endurance.csv")[1:]
    ]


def test_points_of_a_curve_stand_in_the_order_of_their_size(tmp_path):
    """The newest of each counts, unless it was wrong; one point is no curve."""
    for scenario_id, cpu_us in (
        ("scale-windows-day", 8.0),
        ("scale-windows-15m", 7.0),
        ("scale-windows-1m", 6.0),
        ("scale-windows-1m", 5.0),
        ("scale-agents-1000", 5.0),
    ):
        written(scenario_id, tmp_path, cpu_us_per_event=cpu_us)
    written("scale-windows-day", tmp_path, cpu_us_per_event=1.0, verified=False)

    assert [
        Panel("window", ["1m", "15m", "day"], [5.0, 7.0, 8.0], [512.0, 512.0, 512.0])
    ] == scale_panels(tmp_path / "scale.csv")


def test_recoveries_stand_over_the_size_of_the_state_with_the_slowest_of_each_run(tmp_path):
    """Of several runs of a size the newest counts."""
    for scenario_id, state_mb, seconds in (
        ("recovery-250000", 500.0, [20.0, 19.0]),
        ("recovery-250000", 400.0, [12.0, 14.0]),
        ("recovery-50000", 10.0, [7.0, 6.5]),
    ):
        details = {"state_mb": state_mb, "seconds": seconds, "recovery_s": [1.0, 2.0]}
        written(scenario_id, tmp_path, details=details)

    assert [
        Panel("state, MB in the changelogs", ["10", "400"], [7.0, 14.0], [2.0, 2.0])
    ] == recovery_panels(tmp_path / "recovery.csv")


def test_the_same_numbers_draw_the_same_picture(tmp_path):
    """A picture changes in the repository only where its numbers have."""
    for number in ("1000", "10000"):
        written(f"scale-agents-{number}", tmp_path)
    draw_curves(tmp_path)
    first = (tmp_path / "scale.svg").read_bytes()
    draw_curves(tmp_path)

    assert first == (tmp_path / "scale.svg").read_bytes()
    assert b"10,000" in first
