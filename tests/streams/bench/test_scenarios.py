"""Scenarios are data; a faulty one is told at once."""

import pytest

from streams.bench.scenarios import ScenarioError, load_scenarios

STEADY = """
- id: steady-5
  title: five a second
  kind: steady
  kpis: bench/kpis
  per_hundred: {interaction: 100}
  seed: 1
  rate: 5
  warm_up_s: 2
  events: 300
"""


def scenarios(tmp_path, text):
    file = tmp_path / "scenarios.yaml"
    file.write_text(text)
    return load_scenarios(file)


def test_the_shipped_scenarios_name_directories_that_are_there():
    """Every registry and every directory of rules is shipped too."""
    for scenario in load_scenarios().values():
        assert scenario.kpis_dir.is_dir()
        assert scenario.rules_dir is None or scenario.rules_dir.is_dir()


def test_a_scenario_can_be_made_smaller_and_stays_itself(tmp_path):
    """`--quick` takes a tenth, `--events` what it says; the warm-up lasts as long."""
    scenario = scenarios(tmp_path, STEADY)["steady-5"]

    assert [300, 30, 7, 7] == [
        scenario.sized(None, quick=False).events,
        scenario.sized(None, quick=True).events,
        scenario.sized(7, quick=False).events,
        scenario.sized(7, quick=True).events,
    ]
    assert 10 == scenario.sized(7, quick=True).warm_up_events


BURST = """
- id: burst-5
  title: five a second, then fifteen
  kind: burst
  suite: long
  kpis: bench/kpis
  per_hundred: {interaction: 100}
  seed: 1
  phases:
    - {name: before, rate: 5, seconds: 20}
    - {name: burst, rate: 15, seconds: 100}
    - {name: after, rate: 5, seconds: 30}
"""


def test_a_smaller_burst_has_the_same_rates_for_a_shorter_time(tmp_path):
    """A tenth of the events would be no burst at a tenth of the rate."""
    burst = scenarios(tmp_path, BURST)["burst-5"]
    quick = burst.sized(None, quick=True)

    assert (1_750, 175) == (burst.events, quick.events)
    assert [("before", 5, 2), ("burst", 15, 10), ("after", 5, 3)] == [
        (phase.name, phase.rate, phase.seconds) for phase in quick.phases
    ]
    assert [(10, 5), (150, 15), (15, 5)] == [
        (stretch.events, stretch.per_second) for stretch in quick.variant.stretches
    ]


def test_a_scenario_at_a_rate_can_last_as_long_as_asked(tmp_path):
    """An hour and a half at five a second are 27,000 events."""
    assert 27_000 == scenarios(tmp_path, STEADY)["steady-5"].lasting(1.5).events


def test_what_takes_long_is_not_run_unasked():
    """The standard scenarios are those of `make bench`; each other is of a suite with a name."""
    standard = [each.id for each in load_scenarios().values() if each.suite == "standard"]

    assert [
        *("reference-catch-up", "whole-catch-up", "steady-10000", "steady-1000", "whole-rebuild"),
        *("whole-rebuild-2", "whole-steady-10000", "whole-steady-1000"),
    ] == standard


@pytest.mark.parametrize(
    ("found", "instead", "message"),
    [
        ("rate: 5", "", "rate: None, expected one with steady"),
        ("kind: steady", "kind: catch-up", "rate: 5, expected one with steady"),
        ("kind: steady", "kind: burst", "rate: 5, expected one with steady"),
        (
            "  rate: 5",
            "  phases: [{name: a, rate: 1, seconds: 1}]\n  rate: 5",
            "phases: 1, expected",
        ),
        ("interaction: 100", "interaction: 99", "per_hundred: 99, expected 100"),
        ("interaction: 100", "call: 100", r"per_hundred: \['call'\], expected"),
        ("seed: 1", "", "seed"),
    ],
)
def test_a_faulty_scenario_is_refused(tmp_path, found, instead, message):
    """Nothing is measured that means something else than its id."""
    with pytest.raises(ScenarioError, match=message):
        scenarios(tmp_path, STEADY.replace(found, instead))


def test_an_id_stands_for_one_scenario(tmp_path):
    """Two of the same name could not be told apart in the history."""
    with pytest.raises(ScenarioError, match="an id occurs twice"):
        scenarios(tmp_path, STEADY * 2)
