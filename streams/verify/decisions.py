"""The actions: each id opened and withdrawn once, and one action for each episode."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from streams.verify.report import Difference, Findings

_FIRST = 20


@dataclass(frozen=True, slots=True)
class ActionFindings:
    """How many actions and episodes there are, and what is wrong with them."""

    actions: int
    episodes: int
    findings: Findings


def compare_actions(records: Iterable[Mapping[str, Any]]) -> ActionFindings:
    """Judge the decoded records of the action topic.

    An episode is rule, rule version, subject and start. Rules without episodes in time, which
    answer single events, may meet twice in one instant: the ids they quote tell those apart.
    A withdrawal repeats the id of its action and is no action of its own.
    """
    published: Counter[str] = Counter()
    withdrawn: Counter[str] = Counter()
    episodes: dict[Hashable, set[str]] = defaultdict(set)
    about: dict[str, Mapping[str, Any]] = {}
    for record in records:
        action_id = str(record["action_id"])
        about[action_id] = record
        published[action_id] += record["status"] == "OPEN"
        withdrawn[action_id] += record["status"] == "WITHDRAWN"
        episodes[_episode(record)].add(action_id)
    differences = [
        *_repeated("action", published, about),
        *_repeated("withdrawal of", withdrawn, about),
        *_several(episodes, about),
    ]
    findings = Findings(len(differences), 0, tuple(differences[:_FIRST]))
    return ActionFindings(len(published), len(episodes), findings)


def _episode(record: Mapping[str, Any]) -> Hashable:
    subject = record["subject"]
    quoted: tuple[Any, ...] = ()
    if record["episode_start"] == record["event_time"]:
        quoted = tuple(
            (*each["interaction_ids"], *each["evaluation_ids"]) for each in record["evidence"]
        )
    return (
        record["rule_id"],
        record["rule_version"],
        repr(subject),
        record["episode_start"],
        quoted,
    )


def _repeated(
    what: str, published: Mapping[str, int], about: Mapping[str, Mapping[str, Any]]
) -> Iterator[Difference]:
    for action_id, times in published.items():
        if times > 1:
            yield _difference(about[action_id], f"{what} {action_id}", f"{times} times", "once")


def _several(
    episodes: Mapping[Hashable, set[str]], about: Mapping[str, Mapping[str, Any]]
) -> Iterator[Difference]:
    for ids in episodes.values():
        if len(ids) > 1:
            first = about[min(ids)]
            what = f"episode {first['rule_id']}@{first['episode_start']}"
            yield _difference(first, what, ", ".join(sorted(ids)), "one action")


def _difference(record: Mapping[str, Any], what: str, found: str, expected: str) -> Difference:
    subject = record["subject"]
    key = subject["key"]
    if not isinstance(key, str):
        key = ",".join(str(part["value"]) for part in key)
    return Difference(subject["scope"], key, "", what, found, expected)
