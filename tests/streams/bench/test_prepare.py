"""What a scenario varies reaches the worker as files of its own."""

import pytest

from schemas.catalogue import TOPICS_FILE, load_catalogue
from streams.bench.prepare import prepare, with_partitions
from streams.bench.scenarios import DEPLOY, Scenario, ScenarioError, load_scenarios


def test_a_scenario_without_anything_of_its_own_gets_the_shipped_files(tmp_path):
    """The oldest results were measured so."""
    assert {} == prepare(load_scenarios()["reference-catch-up"], tmp_path)


def test_all_topics_that_go_together_have_as_many_partitions(tmp_path):
    """State lies beside its input, and what is made of partials in partitions of their numbers."""
    with_partitions(TOPICS_FILE, 64, tmp_path / "topics.yaml")

    found = {t.name: t.partitions for t in load_catalogue(tmp_path / "topics.yaml").topics}

    shipped = {topic.name: topic.partitions for topic in load_catalogue(TOPICS_FILE).topics}
    alone = ("dead-letters", "late", "watermarks", "action-events")
    as_they_were = {f"andon.{name}.v1": shipped[f"andon.{name}.v1"] for name in alone}
    assert dict.fromkeys(shipped, 64) | as_they_were == found


def test_fewer_partitions_of_the_inputs_leave_those_of_partials(tmp_path):
    """There are four, and no scenario has fewer."""
    with_partitions(TOPICS_FILE, 2, tmp_path / "topics.yaml")

    catalogue = load_catalogue(tmp_path / "topics.yaml")

    assert [2, 2, 4, 4, 4] == [
        catalogue[name].partitions
        for name in (
            *("contact-centre.surveys.v1", "andon.surveys-changelog"),
            *("andon.partials", "andon.partials-changelog", "andon.kpis.v1"),
        )
    ]


def test_rules_of_the_benchmark_stand_beside_the_shipped_ones(tmp_path):
    """A worker has one directory of rules."""
    settings = prepare(load_scenarios()["whole-steady-1000"], tmp_path)

    expected = {f.name for name in ("rules", "bench/rules") for f in (DEPLOY / name).iterdir()}
    assert {"ANDON_RULES_DIR": str(tmp_path / "rules")} == settings
    assert expected == {file.name for file in (tmp_path / "rules").iterdir()}


def test_windows_take_the_place_of_the_registrys(tmp_path):
    """Nothing else in it changes."""
    settings = prepare(load_scenarios()["scale-windows-60m"], tmp_path)

    shipped = (DEPLOY / "bench/kpis/reference.yaml").read_text()
    assert {"ANDON_KPIS_DIR": str(tmp_path / "kpis")} == settings
    assert shipped.replace("[1m]", "[60m]") == (tmp_path / "kpis" / "reference.yaml").read_text()


def test_windows_that_a_registry_has_no_place_for_are_refused(tmp_path):
    """A curve over windows that are all the same would be a lie."""
    scenario = load_scenarios()["scale-windows-60m"]
    other = Scenario.model_validate({**scenario.model_dump(), "kpis": "kpis"})

    with pytest.raises(ScenarioError, match=r"scale-windows-60m\.windows: no `windows: \[1m\]`"):
        prepare(other, tmp_path)
