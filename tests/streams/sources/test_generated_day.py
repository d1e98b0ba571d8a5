"""The generated day: repeatable, whole in its accounts, and with its problems where they belong."""

import subprocess
import sys
from collections import Counter, defaultdict
from datetime import date
from pathlib import Path

import pytest

from schemas.codec import Codec
from schemas.registry import FileRegistry
from streams.sources.centre import CRITICAL_QUESTION, HOUR_MS, QUESTIONS, Problems, problems
from streams.sources.events import SourceEvent
from streams.sources.generated_day import DEFAULT_SEED, generate_day, planted

SEEDS = (DEFAULT_SEED, 2)
MIDNIGHT_MS = 1_789_336_800_000  # 2026-09-14T00:00+02:00
ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module", params=SEEDS)
def seed(request) -> int:
    return request.param


@pytest.fixture(scope="module")
def day(seed) -> list[SourceEvent]:
    return generate_day(seed)


@pytest.fixture(scope="module")
def put(seed) -> Problems:
    return problems(seed)


@pytest.fixture(scope="module")
def interactions(day) -> list[dict]:
    return [dict(event.record) for event in day if event.contract == "interaction"]


@pytest.fixture(scope="module")
def answers(day) -> list[dict]:
    return [
        dict(e.record) for e in day if e.record.get("csat") is not None and e.record["version"] == 1
    ]


@pytest.fixture(scope="module")
def evaluations(day) -> list[dict]:
    return [dict(e.record) for e in day if e.contract == "evaluation" and e.record["version"] == 1]


def hour(record: dict) -> float:
    return (record["event_time"] - MIDNIGHT_MS) / HOUR_MS


def share(hits: int, total: int) -> float:
    return hits / total if total else 0.0


def item_shares(evaluations: list[dict]) -> dict[tuple[str, str], list[float]]:
    shares = defaultdict(list)
    for record in evaluations:
        for item in record["items"]:
            of_max = item["score"] / item["max_score"]
            shares[record["agent_id"], item["question_id"]].append(of_max)
    return shares


def test_a_seed_and_a_date_give_one_day():
    """The same seed and date give the same events; another seed or date gives others."""
    again = generate_day(DEFAULT_SEED, date(2026, 3, 2))

    assert generate_day(DEFAULT_SEED, date(2026, 3, 2)) == again
    assert generate_day(DEFAULT_SEED + 1, date(2026, 3, 2)) != again
    assert generate_day(DEFAULT_SEED, date(2026, 3, 3)) != again


def test_another_process_gives_the_same_day():
    """Nothing depends on the process: hash seeds change, the day does not."""
    code = (
        "import hashlib, streams.sources.generated_day as d;"
        "print(hashlib.sha256(repr(d.generate_day()).encode()).hexdigest())"
    )
    digests = {
        subprocess.run(
            [sys.executable, "-c", code],
            cwd=ROOT,
            env={"PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for hash_seed in ("1", "2")
    }

    assert 1 == len(digests)


def test_every_record_keeps_its_contract(day):
    """All events of the day are whole, checked records of their contracts."""
    codecs = {
        name: Codec(name, FileRegistry(), f"contact-centre.{name}s.v1")
        for name in ("interaction", "survey", "evaluation")
    }
    for contract, codec in codecs.items():
        values = [codec.encode(e.record) for e in day if e.contract == contract]

        assert [] == codec.columns(values, []).rejected


def test_every_event_is_marked_as_generated(day):
    """The source of every event ends in /generated, and every key begins with generated-."""
    assert {True} == {event.source.endswith("/generated") for event in day}
    assert {True} == {event.key.startswith("generated-") for event in day}


def test_events_come_in_the_order_of_their_time_with_unique_ids(day):
    """Times never go back, and no id is used twice in a topic, but for restatements."""
    times = [event.stated_ms for event in day]
    first = [event for event in day if event.record["version"] == 1]

    assert sorted(times) == times
    assert len(first) == len({(event.contract, event.event_id) for event in first})


def test_some_surveys_and_evaluations_are_stated_once_more(day, put):
    """With id, key and instants of the first, the next version, and later; one fails no more."""
    first = {(e.contract, e.event_id): e for e in day if e.record["version"] == 1}
    again = [event for event in day if event.record["version"] > 1]
    kinds = Counter((e.contract, e.record.get("status")) for e in again)
    mended = [
        e.record["agent_id"]
        for e in again
        if first[e.contract, e.event_id].record.get("auto_failed") and not e.record["auto_failed"]
    ]

    assert {("survey", None), ("evaluation", "SUBMITTED"), ("evaluation", "DELETED")} == set(kinds)
    assert len(again) >= 15
    assert [put.mistaken_agent] == mended
    for event in again:
        before = first[event.contract, event.event_id]
        assert (event.key, event.event_time_ms, 2) == (
            before.key, before.event_time_ms, event.record["version"],
        )  # fmt: skip
        assert event.record.get("interaction_time") == before.record.get("interaction_time")
        assert event.stated_ms - event.event_time_ms >= 600_000


def test_each_offered_step_ends_in_exactly_one_way(interactions):
    """Each leg that was offered is answered, abandoned or flows out, once; each answer ends."""
    ends = defaultdict(Counter)
    for record in interactions:
        ends[record["interaction_id"], record["leg"]][record["event_type"]] += 1
    for steps in ends.values():
        exits = steps["ANSWERED"] + steps["ABANDONED"] + steps["FLOWED_OUT"]

        assert (steps["OFFERED"], steps["ANSWERED"]) == (exits, steps["COMPLETED"])


def test_the_day_looks_like_one(interactions, answers):
    """Sixty agents in six teams, five queues, and everything that happens in a contact centre."""
    seen = {record["agent_id"]: record["team_id"] for record in interactions if record["agent_id"]}

    assert (60, 6, 5) == (
        len(seen),
        len(set(seen.values())),
        len({record["queue_id"] for record in interactions}),
    )
    assert {
        "OFFERED", "BLOCKED", "ANSWERED", "ABANDONED", "FLOWED_OUT", "MISSED", "TRANSFERRED",
        "COMPLETED", "LEFT_IVR",
    } == {record["event_type"] for record in interactions}  # fmt: skip
    assert {"INBOUND", "CALLBACK"} == {record["direction"] for record in interactions}
    assert {"VOICE", "VIDEO", "CHAT", "MESSAGING", "EMAIL", "SOCIAL"} == {
        record["channel"] for record in interactions
    }
    assert any(record.get("hold_ms") for record in interactions)
    lags = sorted(record["event_time"] - record["interaction_time"] for record in answers)
    assert lags[-1] > 6 * HOUR_MS


def test_customers_come_back_with_the_same_issue(interactions):
    """Some customers contact again about the same issue under a new interaction."""
    ids = defaultdict(set)
    for record in interactions:
        ids[record["customer_id"], record["issue_id"]].add(record["interaction_id"])

    assert sum(len(of_one) > 1 for of_one in ids.values()) > 50


def test_service_level_differs_by_queue(interactions):
    """Staffing and arrivals give each queue a service level of its own."""
    levels = {}
    for queue_id in {record["queue_id"] for record in interactions}:
        steps = [record for record in interactions if record["queue_id"] == queue_id]
        in_time = sum(
            record["event_type"] == "ANSWERED" and record["queue_wait_ms"] <= 20_000
            for record in steps
        )
        levels[queue_id] = share(in_time, sum(r["event_type"] == "OFFERED" for r in steps))

    assert max(levels.values()) - min(levels.values()) > 0.1
    assert 0.3 < min(levels.values()) < max(levels.values()) < 0.95


def test_the_planted_problems_are_listed_with_their_actions(seed, put):
    """The list names action, rule and subject of every problem, and no problem shares its place."""
    places = [
        put.slow_wrap_up_team,
        put.training_team,
        put.coaching_agent.split("-")[0],
        put.praised_agent.split("-")[0],
        put.failed_agents[0].split("-")[0],
    ]

    assert [
        ("coaching-item", {"agent_id": put.coaching_agent}),
        ("training-item", {"team_id": put.training_team}),
        ("knowledge-resolution", {"issue_id": put.unresolved_issue}),
        ("process-transfers", {"issue_id": put.passed_around_issue}),
        ("communication-after-contact-work", {"team_id": put.slow_wrap_up_team}),
        ("recognition-csat-quality", {"agent_id": put.praised_agent}),
        ("compliance-auto-fail", {"agent_id": put.failed_agents[0]}),
        ("compliance-auto-fail", {"agent_id": put.failed_agents[1]}),
    ] == [(problem.rule_id, problem.subject) for problem in planted(seed)]
    assert 5 == len(set(places))


def test_one_agent_is_low_on_one_question(put, evaluations):
    """The agent to coach has eight evaluations before 13:00, low on one question alone."""
    shares = item_shares([r for r in evaluations if hour(r) < 13])
    low = shares[put.coaching_agent, put.coaching_question]

    assert len(low) >= 8
    assert sum(low) / len(low) <= 0.2
    for question in set(QUESTIONS) - {put.coaching_question}:
        assert min(shares[put.coaching_agent, question]) >= 0.6


def test_a_team_is_low_on_one_question_within_one_batch(put, evaluations):
    """Four of a team have their first four evaluations, low on one question, within an hour."""
    for agent_id in put.training_agents:
        mine = sorted(
            (r for r in evaluations if r["agent_id"] == agent_id), key=lambda r: r["event_time"]
        )
        low = item_shares(mine)[agent_id, put.training_question]

        assert len(mine) >= 6
        assert 10 <= hour(mine[0]) <= hour(mine[3]) <= 11
        assert max(low) <= 0.2


def test_nobody_else_is_evaluated_low_or_often(put, evaluations):
    """Besides the planted ones an agent has at most three evaluations, none of them low."""
    special = {put.coaching_agent, put.praised_agent, *put.training_agents}
    counts = Counter(record["agent_id"] for record in evaluations)
    low = {
        (agent_id, question)
        for (agent_id, question), shares in item_shares(evaluations).items()
        if min(shares) < 0.6
    }

    assert max(count for agent_id, count in counts.items() if agent_id not in special) <= 3
    assert low == {
        (put.coaching_agent, put.coaching_question),
        *((agent_id, put.training_question) for agent_id in put.training_agents),
        *((agent_id, CRITICAL_QUESTION) for agent_id in put.failed_agents),
    }


def test_only_the_planted_evaluations_fail(put, evaluations):
    """One evaluation of each agent to fail fails; it scores 0."""
    failed = [record for record in evaluations if record["auto_failed"]]

    assert sorted(put.failed_agents) == sorted(record["agent_id"] for record in failed)
    assert {0.0} == {record["score_percent"] for record in failed}


def test_one_issue_stays_unresolved(put, answers):
    """One issue is resolved for a third of sixty customers or more, every other for most."""
    resolved = defaultdict(list)
    for record in answers:
        resolved[record["issue_id"]].append(record["resolved"])
    low = resolved.pop(put.unresolved_issue)

    assert len(low) >= 60
    assert share(sum(low), len(low)) < 0.36
    assert min(share(sum(r), len(r)) for r in resolved.values() if len(r) >= 30) > 0.65


def test_one_issue_is_passed_around(put, interactions):
    """From 12 to 16 half of the handled contacts of one issue are passed on; else few are."""

    def transfer_share(issue_id: str, first: int, last: int) -> tuple[int, float]:
        steps = Counter(
            record["event_type"]
            for record in interactions
            if record["issue_id"] == issue_id and first <= hour(record) < last
        )
        return steps["COMPLETED"], share(steps["TRANSFERRED"], steps["COMPLETED"])

    for first in (13, 14, 15):
        handled, transferred = transfer_share(put.passed_around_issue, first, first + 1)
        assert handled >= 50
        assert transferred >= 0.45
    for issue_id in {r["issue_id"] for r in interactions} - {put.passed_around_issue}:
        assert transfer_share(issue_id, 7, 22)[1] < 0.12


def test_one_team_is_slow_to_wrap_up(put, interactions):
    """From 12 to 16 one team wraps up for over 40 % of its handle time, every other below 25 %."""
    parts = defaultdict(lambda: [0, 0, 0])
    for record in interactions:
        if record["event_type"] == "COMPLETED":
            part = parts[record["team_id"], int(hour(record))]
            part[0] += 1
            part[1] += record["after_contact_work_ms"]
            part[2] += record["talk_ms"] + record["hold_ms"] + record["after_contact_work_ms"]
    slow = {(put.slow_wrap_up_team, hour_) for hour_ in (12, 13, 14, 15)}

    for key in slow:
        handled, wrap_up, handle_time = parts.pop(key)
        assert handled >= 40
        assert wrap_up / handle_time > 0.4
    for handled, wrap_up, handle_time in parts.values():
        assert handled < 10 or wrap_up / handle_time < 0.25


def test_one_agent_is_praised(put, answers, evaluations):
    """One agent has forty content answers and flawless evaluations; no other has thirty answers."""
    counts = Counter(record["agent_id"] for record in answers)
    praised = [record["csat"] for record in answers if record["agent_id"] == put.praised_agent]
    scores = [r["score_percent"] for r in evaluations if r["agent_id"] == put.praised_agent]
    del counts[put.praised_agent]

    assert len(praised) >= 40
    assert {4, 5} == set(praised)
    assert len(scores) >= 4
    assert {100.0} == set(scores)
    assert max(counts.values()) < 30
