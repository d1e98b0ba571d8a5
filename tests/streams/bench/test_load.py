"""The load of a permanent scenario is the same for ever, and is what its contracts ask for."""

import hashlib
import json
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.catalogue import load_catalogue
from schemas.codec import Codec
from schemas.registry import FileRegistry
from streams.bench.load import FIRST_MS, USUAL, Stretch, Variant, parts, passed_ms
from streams.bench.scenarios import load_scenarios
from streams.bench.send import outgoing

MIX = {"interaction": 96, "survey": 3, "evaluation": 1}

# Results are compared over years. Where one of these changes, a new scenario is needed instead.
DIGESTS = {
    "reference-catch-up": "5d3b0c94bde014fe",
    "whole-catch-up": "3529b673dc0b9610",
    "steady-10000": "5d3b0c94bde014fe",
    "steady-1000": "5d3b0c94bde014fe",
    "whole-rebuild": "1931dc96eb0d9ce8",
    "whole-rebuild-2": "1931dc96eb0d9ce8",
    "whole-steady-10000": "7fe0bf605da98a72",
    "whole-steady-1000": "f006a00da920f14e",
    "burst-3x": "e486ef47bad1e9b1",
    "endurance": "e486ef47bad1e9b1",
    "scale-agents-1000": "2ce9d28a995bae36",
    "scale-agents-10000": "138b00d30eba7ff3",
    "scale-agents-100000": "cf557f64133975ab",
    "scale-windows-1m": "5d3b0c94bde014fe",
    "scale-windows-15m": "5d3b0c94bde014fe",
    "scale-windows-60m": "5d3b0c94bde014fe",
    "scale-windows-day": "5d3b0c94bde014fe",
    "scale-partitions-4": "5d3b0c94bde014fe",
    "scale-partitions-16": "5d3b0c94bde014fe",
    "scale-partitions-64": "5d3b0c94bde014fe",
    "scale-workers-1": "5d3b0c94bde014fe",
    "scale-workers-2": "5d3b0c94bde014fe",
    "scale-workers-4": "5d3b0c94bde014fe",
    "scale-day": "e203cc5f5106903f",
    "recovery-50000": "5dde0ddc0a6b870a",
    "recovery-250000": "5dde0ddc0a6b870a",
    "recovery-24000000": "e486ef47bad1e9b1",
    "recovery-36000000": "692d96dc2983b6bc",
}


def rows(seed, per_hundred, *bounds, per_second=1_000, variant=USUAL):
    """Return keys and records by contract of the pieces between bounds, one after the other."""
    found = {}
    for start, stop in pairwise(bounds):
        for part in parts(seed, per_hundred, start, stop, per_second, variant):
            records = zip(part.keys, part.columns.to_pylist(), strict=True)
            found.setdefault(part.contract, []).extend(records)
    return found


def digest(scenario):
    shape = {"per_second": scenario.per_second, "variant": scenario.variant}
    found = rows(scenario.seed, scenario.per_hundred, 0, 2_000, **shape)
    plain = {name: [[key.decode(), record] for key, record in made] for name, made in found.items()}
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:16]


def test_a_scenario_never_changes():
    """The first events of every scenario are those that its oldest results were measured on."""
    assert {name: digest(scenario) for name, scenario in load_scenarios().items()} == DIGESTS


@settings(max_examples=20, deadline=None)
@given(cut=st.integers(0, 300), seed=st.integers(0, 2**31))
def test_a_load_is_the_same_in_whatever_pieces_it_is_made(cut, seed):
    """An event depends on seed and number alone."""
    assert rows(seed, MIX, 0, 300) == rows(seed, MIX, 0, cut, 300)


def test_another_seed_gives_another_load():
    """Queues, agents and times differ; ids and event types do not."""
    one, other = (rows(seed, MIX, 0, 300)["interaction"] for seed in (5, 6))

    assert [key for key, _ in one] == [key for key, _ in other]
    assert [record["queue_id"] for _, record in one] != [record["queue_id"] for _, record in other]


def test_of_each_hundred_events_as_many_are_of_a_contract_as_asked():
    """The mix holds in every hundred, so a shorter run has the same one."""
    assert [96, 3, 1] == [len(made) for made in rows(5, MIX, 0, 100).values()]
    assert [288, 9, 3] == [len(made) for made in rows(5, MIX, 0, 300).values()]


@pytest.mark.parametrize("contract", MIX)
def test_every_event_keeps_its_contract(contract):
    """Nothing of the load is a dead letter: reader and writer agree on all of it."""
    topic = next(t.name for t in load_catalogue().inputs if t.contract == contract)
    codec = Codec(contract, FileRegistry(), topic)
    [part] = parts(5, {contract: 100}, 0, 3_000)

    decoded = codec.columns(codec.encode_columns(part.columns), [])

    assert ([], 3_000) == (decoded.rejected, len(decoded.frame))
    assert 3_000 == decoded.frame.get_column("event_id").n_unique()


def test_an_interaction_is_of_about_85_bytes():
    """The peers were measured with records of this size, before framing and compression."""
    sizes = [
        len(value) - 5 for _, _, value in outgoing(load_catalogue(), 5, {"interaction": 100}, 3_000)
    ]

    assert 80 <= sum(sizes) / len(sizes) <= 90


def test_all_events_of_an_interaction_name_the_same_queue_agent_and_issue():
    """It is offered, answered and completed in one place, under one Kafka key."""
    by_id = {}
    for key, record in rows(5, {"interaction": 100}, 0, 45_000)["interaction"]:
        assert key.decode() == record["interaction_id"]
        by_id.setdefault(record["interaction_id"], []).append(record)
    several = [records for records in by_id.values() if len(records) > 1]

    assert {("OFFERED", "ANSWERED")} == {tuple(r["event_type"] for r in each) for each in several}
    assert {1} == {len({(r["queue_id"], r["issue_id"]) for r in each}) for each in several}


def test_an_agent_is_always_of_one_team():
    """And nobody is named before the answer."""
    made = [record for _, record in rows(5, {"interaction": 100}, 0, 6_000)["interaction"]]
    handled = [record for record in made if record["event_type"] != "OFFERED"]

    assert 4_000 == len(handled)
    assert all(int(r["agent_id"][1:]) % 400 == int(r["team_id"][1:]) for r in handled)
    assert {None} == {r["agent_id"] for r in made if r["event_type"] == "OFFERED"}


def test_a_thousand_events_pass_in_a_second_of_event_time_within_the_disorder():
    """Windows of a minute hold 60,000 events, and none comes later than two seconds."""
    times = [
        record["event_time"] for _, record in rows(5, {"interaction": 100}, 0, 5_000)["interaction"]
    ]

    assert all(FIRST_MS + n - 500 < time <= FIRST_MS + n for n, time in enumerate(times))


def test_event_time_goes_on_from_stretch_to_stretch():
    """Three times as many events a second are three times as dense in event time, and no later."""
    burst = (Stretch(10, 5), Stretch(30, 15), Stretch(10, 5))

    found = passed_ms(np.array([0, 9, 10, 39, 40, 50, 55]), burst)

    assert [0, 1_800, 2_000, 3_933, 4_000, 6_000, 7_000] == found.tolist()


def test_one_evaluation_in_so_many_is_failed_by_a_critical_question():
    """And none, where nobody asked for it."""
    failed, usual = (
        [record["auto_failed"] for _, record in rows(5, MIX, 0, 1_000, variant=each)["evaluation"]]
        for each in (Variant(failed_in=5), USUAL)
    )

    assert [True, False, False, False, False] * 2 == failed
    assert not any(usual)


def test_a_load_has_as_many_agents_and_queues_as_asked():
    """Each of ten agents and three queues is drawn in three thousand events."""
    made = rows(5, {"interaction": 100}, 0, 3_000, variant=Variant(queues=3, agents=10))

    records = [record for _, record in made["interaction"]]
    assert {f"q{n}" for n in range(3)} == {record["queue_id"] for record in records}
    assert {None, *(f"a{n}" for n in range(10))} == {record["agent_id"] for record in records}


def test_events_of_several_contracts_go_out_in_the_order_of_their_numbers():
    """A survey does not wait for fifty thousand interactions, whatever the size of the pieces."""
    codecs = {t.name: Codec(t.contract, FileRegistry(), t.name) for t in load_catalogue().inputs}

    times = [
        codecs[topic].decode(value)["event_time"]
        for topic, _, value in outgoing(load_catalogue(), 5, MIX, 400, 1, chunk=150)
    ]

    # A second apart each, and half a second out of order at most.
    assert times == sorted(times)
