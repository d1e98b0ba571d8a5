"""What `andon bench` hands to the worker, and what it refuses."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from streams.bench.peer_setup import GROUPS
from streams.bench.scenarios import load_scenarios
from streams.cli import app
from streams.cli.bench import bench_environment, tuned_settings, what_is_asked
from streams.cli.bench_peers import chosen_peers


def test_a_run_knows_nothing_of_the_operators_brokers():
    """Millions of generated events on a live topic would be the end of its KPIs."""
    scenario = load_scenarios()["reference-catch-up"]
    environment = {
        "HOME": "/home/me",
        "ANDON_CACHE_DIR": "/cache",
        "ANDON_CONFIG": "/etc/andon.yaml",
        "ANDON_KAFKA_BOOTSTRAP_SERVERS": "live:9092",
        "ANDON_FLUSH_INTERVAL_MS": "100",
    }

    assert bench_environment(environment, scenario, Path("/state")) == {
        "HOME": "/home/me",
        "ANDON_CACHE_DIR": "/cache",
        "ANDON_FLUSH_INTERVAL_MS": "100",
        "ANDON_STATE_DIR": "/state",
        "ANDON_KPIS_DIR": str(scenario.kpis_dir),
        "ANDON_RULES_DIR": "/state/no-rules",
        "ANDON_LOG_FORMAT": "json",
        "PYTHONUNBUFFERED": "1",
    }
    assert {"flush_interval_ms": "100"} == tuned_settings(environment)


def test_an_unknown_scenario_is_wrong_use():
    """The answer names those that there are."""
    done = CliRunner().invoke(app, ["bench", "reference"])

    assert 2 == done.exit_code
    assert "scenario: reference, expected one of reference-catch-up, " in done.output


def test_peers_are_chosen_by_group_or_name():
    """Each once, in the order in which they are named."""
    chosen = [peer.id for peer in chosen_peers("flink,java, loop")]

    assert ["flink", "kafka-streams", "loop"] == chosen
    assert [] == chosen_peers("none")


def test_an_unknown_peer_is_wrong_use():
    """The answer names those that there are."""
    done = CliRunner().invoke(app, ["bench", "--peers", "spark"])

    assert 2 == done.exit_code
    assert "peers: spark, expected some of python, java, all, none, faust, " in done.output


PYTHON = GROUPS["python"]
REFERENCE = "reference-catch-up"
STANDARD = [each.id for each in load_scenarios().values() if each.suite == "standard"]
RECOVERY = [each.id for each in load_scenarios().values() if each.suite == "recovery"]


@pytest.mark.parametrize(
    ("ids", "suite", "peers", "scenarios", "others"),
    [
        ([], None, None, STANDARD[1:], PYTHON),
        ([], None, "none", STANDARD, []),
        ([], None, "loop", [], ["loop"]),
        ([], "standard", None, STANDARD, []),
        ([], "standard", "loop", STANDARD[1:], ["loop"]),
        ([], "recovery", None, RECOVERY, []),
        (["burst-3x"], "recovery", None, ["burst-3x"], []),
        (["steady-1000", REFERENCE], None, None, ["steady-1000", REFERENCE], []),
        (["steady-1000", REFERENCE], None, "loop", ["steady-1000"], ["loop"]),
    ],
)
def test_who_names_nothing_gets_the_standard_and_others_what_they_name(
    ids, suite, peers, scenarios, others
):
    """The reference job runs once: by itself, or beside peers."""
    assert REFERENCE == STANDARD[0]

    chosen, beside = what_is_asked(ids, suite, peers)

    assert (scenarios, others) == ([each.id for each in chosen], [each.id for each in beside])
