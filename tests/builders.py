"""A small centre for the tests of the core: two queues, three agents, minutes instead of hours.

Windows of one minute, five-minute hopping windows, and the day in Berlin; two partitions to every
topic that matters; graces of seconds. Rules look at it every ten or twenty seconds.
"""

import atexit
import re
import shutil
from collections.abc import Mapping
from dataclasses import fields
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import polars as pl

from schemas.codec import Codec
from schemas.contract import load_contract
from streams.definitions import Definitions, load_definitions
from streams.settings import Settings

INTERACTIONS = "contact-centre.interactions.v1"
SURVEYS = "contact-centre.surveys.v1"
EVALUATIONS = "contact-centre.evaluations.v1"
CONTRACTS = {INTERACTIONS: "interaction", SURVEYS: "survey", EVALUATIONS: "evaluation"}

#: 1 March 2026, 12:00 UTC.
NOON_MS = 1_772_366_400_000

KPIS = """
zone: Europe/Berlin
scopes:
  - id: queue
    key: [queue_id]
    sources: [interactions, surveys]
    histograms: true
    pane: 10s
    windows: [1m, 5m/1m, day]
    publish_every: 500ms
  - id: agent
    key: [agent_id]
    attributes: [team_id]
    sources: [interactions, evaluations]
    pane: 10s
    windows: [1m]
    publish_every: 5s
measures:
  - {id: offered, source: interactions, value: "event_type = 'OFFERED'"}
  - {id: answered, source: interactions, value: "event_type = 'ANSWERED'"}
  - id: wait
    source: interactions
    value: "CASE WHEN event_type = 'ANSWERED' THEN queue_wait_ms END"
  - id: wait_histogram
    source: interactions
    aggregate: histogram
    value: "CASE WHEN event_type = 'ANSWERED' THEN queue_wait_ms END"
  - {id: responses, source: surveys, value: "csat IS NOT NULL"}
  - {id: points, source: surveys, value: csat}
  - {id: reviews, source: evaluations, value: "status = 'SUBMITTED'"}
  - {id: score, source: evaluations, value: score_percent, precision: 0.000001}
samples:
  - {id: answers, source: interactions, where: "event_type = 'ANSWERED'", keep: 2}
  - {id: low_reviews, source: evaluations, where: "score_percent < 50", keep: 2}
kpis:
  - {id: load, title: Load, unit: count, numerator: offered, denominator: answered, n: offered}
  - {id: wait_mean, title: Mean wait, unit: seconds, numerator: wait, denominator: answered}
  - {id: wait_p50, title: Median wait, unit: seconds, quantile: 0.5, of: wait_histogram}
  - {id: csat_mean, title: CSAT, unit: score, numerator: points, denominator: responses}
  - {id: quality, title: Quality, unit: percent, scale: 1, numerator: score, denominator: reviews}
"""

LEAST_KPIS = """
zone: Europe/Berlin
scopes:
  - {id: queue, key: [queue_id], sources: [interactions], pane: 10s, windows: [1m]}
measures:
  - {id: offered, source: interactions, value: "event_type = 'OFFERED'"}
  - {id: answered, source: interactions, value: "event_type = 'ANSWERED'"}
  - id: wait
    source: interactions
    value: "CASE WHEN event_type = 'ANSWERED' THEN queue_wait_ms END"
kpis:
  - {id: wait_mean, title: Mean wait, unit: seconds, numerator: wait, denominator: answered}
"""

RULES = {
    "slow-queue": """
id: slow-queue
title: Queue {queue_id} is slow
action_type: PROCESS_REVIEW
severity: WARNING
recipient: {role: OPERATIONS}
scope: queue
window: 1m
every: 10s
when: wait_mean > 30.0
minimum_n: 2
sustain: 10s
cooldown: 30s
samples: {wait_mean: answers}
reason: "{wait_mean} in {queue_id}"
""",
    "slow-agent": """
id: slow-agent
title: Agent {agent_id} is slow
action_type: COACHING
severity: WARNING
recipient: {role: TEAM_LEAD}
scope: agent
window: 1m
every: 20s
when: wait_mean > 40.0
minimum_n: 1
reason: "{wait_mean} of {agent_id}"
""",
    "weak-agent": """
id: weak-agent
title: Agent {agent_id} scores low
action_type: TRAINING
severity: WARNING
recipient: {role: TEAM_LEAD}
scope: agent
window: 2m
every: 10s
when: quality < 50.0
minimum_n: 1
samples: {quality: low_reviews}
reason: "{quality} of {agent_id}"
""",
    "auto-fail": """
id: auto-fail
title: Coaching for {agent_id}
action_type: COACHING
severity: CRITICAL
recipient: {role: TEAM_LEAD}
immediate: true
source: evaluations
where: auto_failed
subject: [agent_id]
kpi: quality
reason: "{evaluation_id} was failed"
""",
}

_PARTITIONS = 2
_TIMES = {
    "interactions": "disorder: 2s\n    grace: 20s\n    reach: 0s",
    "surveys": "disorder: 2s\n    grace: 30s\n    reach: 1m",
    "evaluations": "disorder: 2s\n    grace: 40s\n    reach: 0s",
}

_USUAL: Mapping[str, Mapping[str, Any]] = {
    INTERACTIONS: {
        "event_type": "OFFERED",
        "interaction_id": "i",
        "queue_id": "billing",
        "handler": "HUMAN",
        "channel": "VOICE",
        "direction": "INBOUND",
    },
    SURVEYS: {"event_type": "ANSWERED", "survey_id": "s", "interaction_id": "i", "csat": 4},
    EVALUATIONS: {
        "evaluation_id": "v",
        "interaction_id": "i",
        "agent_id": "A1",
        "evaluator_id": "E1",
        "evaluator_kind": "HUMAN",
        "purpose": "REGULAR",
        "form_id": "F1",
        "form_version": 1,
        "status": "SUBMITTED",
        "score_percent": 80.0,
        "auto_failed": False,
        "items": [],
    },
}


def record(topic: str, event_id: str, event_time: int, **fields: Any) -> dict[str, Any]:
    """Return a whole record of an input topic; what is not given is as usual."""
    usual = {"event_id": event_id, "version": 1, "event_time": event_time, **_USUAL[topic]}
    return usual | fields


def frame(topic: str, *records: Mapping[str, Any]) -> pl.DataFrame:
    """Return the decoded frame of records."""
    columns = load_contract(CONTRACTS[topic]).columns
    return pl.DataFrame(list(records), schema=columns, strict=False)


def _topics() -> str:
    text = (Path(__file__).parents[1] / "schemas" / "topics.yaml").read_text()
    text = re.sub(r"partitions: [48]\b", f"partitions: {_PARTITIONS}", text)
    for name, times in _TIMES.items():
        found = re.compile(
            rf"(changelog: andon\.{name}-changelog\n    )disorder: .*\n.*\n.*reach: \w+"
        )
        text, count = found.subn(rf"\1{times}", text)
        assert count == 1, name
    return text.replace("    reaches: {offered_time: 4h}\n", "")


class _Definitions(Definitions):
    """Definitions that make each codec once: histories start many workers."""

    def codec(self, topic: str) -> Codec:
        if topic not in _CODECS:
            _CODECS[topic] = super().codec(topic)
        return _CODECS[topic]


_CODECS: dict[str, Codec] = {}


@cache
def small_definitions() -> Definitions:
    """Load the definitions of the small centre, once."""
    return _load(KPIS, RULES)


@cache
def least_definitions() -> Definitions:
    """Load the least that has all there is to go wrong: one scope, one window, one rule.

    What a flush costs is mostly the number of scopes, windows and measures: thousands of histories
    can be played with these.
    """
    return _load(LEAST_KPIS, {"slow-queue": RULES["slow-queue"].replace("samples", "# samples")})


def _load(kpis: str, rules: Mapping[str, str]) -> Definitions:
    directory = Path(mkdtemp(prefix="andon-small-"))
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    (directory / "kpis").mkdir()
    (directory / "rules").mkdir()
    (directory / "kpis" / "all.yaml").write_text(kpis)
    for name, rule in rules.items():
        (directory / "rules" / f"{name}.yaml").write_text(rule)
    (directory / "topics.yaml").write_text(_topics())
    settings = Settings(
        kpis_dir=directory / "kpis",
        rules_dir=directory / "rules",
        topics_file=directory / "topics.yaml",
        state_dir=directory,
    )
    loaded = load_definitions(settings)
    return _Definitions(**{f.name: getattr(loaded, f.name) for f in fields(loaded)})
