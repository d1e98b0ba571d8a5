"""The files that a scenario's worker is given where they are not the shipped ones as they are."""

import shutil
from pathlib import Path
from typing import Final

from ruamel.yaml import YAML

from schemas.catalogue import PARTIALS, RESULTS, TOPICS_FILE
from streams.bench.scenarios import Scenario, ScenarioError

_WINDOWS: Final = "windows: [1m]"


def prepare(scenario: Scenario, directory: Path) -> dict[str, str]:
    """Write the scenario's own files below the directory; return the settings that name them.

    Raises ScenarioError where a scenario asks for what its registry does not have.
    """
    found = {}
    if scenario.windows is not None:
        found["ANDON_KPIS_DIR"] = str(_with_windows(scenario, directory / "kpis"))
    if scenario.rules_dir is not None and scenario.extra_rules_dir is not None:
        rules = directory / "rules"
        for each in (scenario.rules_dir, scenario.extra_rules_dir):
            shutil.copytree(each, rules, dirs_exist_ok=True)
        found["ANDON_RULES_DIR"] = str(rules)
    if scenario.partitions is not None:
        file = directory / "topics.yaml"
        with_partitions(TOPICS_FILE, scenario.partitions, file)
        found["ANDON_TOPICS_FILE"] = str(file)
    return found


def _with_windows(scenario: Scenario, directory: Path) -> Path:
    directory.mkdir()
    replaced = 0
    for file in scenario.kpis_dir.glob("*.yaml"):
        text = file.read_text()
        replaced += text.count(_WINDOWS)
        changed = text.replace(_WINDOWS, f"windows: [{scenario.windows}]")
        (directory / file.name).write_text(changed)
    if not replaced:
        raise ScenarioError(f"{scenario.id}.windows: no `{_WINDOWS}` in {scenario.kpis}")
    return directory


def with_partitions(shipped: Path, partitions: int, file: Path) -> None:
    """Write a catalogue whose input topics have so many partitions, and partials as many or more.

    What is made of partials stays in step with them, changelogs with their topics.
    """
    yaml = YAML()
    catalogue = yaml.load(shipped)
    topics = {topic["name"]: topic for topic in catalogue["topics"]}
    for topic in topics.values():
        if topic["role"] == "input":
            topic["partitions"] = partitions
        elif topic["name"] in (PARTIALS, *RESULTS):
            topic["partitions"] = max(topic["partitions"], partitions)
    for topic in topics.values():
        if "changelog" in topic:
            topics[topic["changelog"]]["partitions"] = topic["partitions"]
    with file.open("w") as out:
        yaml.dump(catalogue, out)
