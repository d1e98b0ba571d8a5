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


@pytest.mark.parametrize(
    ("found", "instead", "message"),
    [
        ("rate: 5", "", "rate: None, expected one with steady"),
        ("kind: steady", "kind: catch-up", "rate: 5, expected one with steady"),
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
