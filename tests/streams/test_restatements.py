"""A higher version of an event takes back what the one before it led to, by way of real records."""

from collections import Counter
from collections.abc import Sequence
from typing import Any
from uuid import UUID

import pytest
from faust.types import TP
from hypothesis import given
from hypothesis import strategies as st

from processors.actions import decision_id
from processors.fold import WEIGHT
from schemas.catalogue import ACTIONS
from schemas.headers import VALUE_SCHEMA_ID, prefix
from streams.columnar import Batch
from streams.flush import Engine, Flush
from streams.fold import FoldStage, KeptUnreadable
from streams.published import Published
from streams.records import Fetched, Records
from streams.state import Saved, read_saved
from tests.builders import EVALUATIONS, NOON_MS, record, small_definitions
from tests.laws import cut, law
from tests.timeline import Event, decide, immediate_decisions

SOURCE = TP(EVALUATIONS, 0)
PLAN = small_definitions().inputs[EVALUATIONS]
CODEC = small_definitions().codec(EVALUATIONS)


def _engine(saved: Saved) -> Engine:
    engine = Engine(small_definitions(), "writer", 0)
    engine.folds[SOURCE] = FoldStage.recovered(0, PLAN, small_definitions(), saved, 0)
    return engine


def _batch(start: int, events: Sequence[Event], *, in_headers: bool = False) -> Batch:
    records = []
    for offset, event in enumerate(events, start):
        value, headers = CODEC.encode(event), []
        if in_headers:
            headers = [(VALUE_SCHEMA_ID, b"\0" + value[1:5])]
            value = value[5:]
        records.append(Fetched(offset, NOON_MS * 2, None, value, headers))
    return Batch(SOURCE, start, start + len(records), Records.of(records), 1, 0)


def _actions(flush: Flush) -> list[dict[str, Any]]:
    codec = small_definitions().codec(ACTIONS)
    return [codec.decode(r.value) for r in flush.outputs if r.topic == ACTIONS]


def _said(actions: Sequence[dict[str, Any]]) -> list[tuple[str, str]]:
    """Return whom and which evaluation each action is about, and whether it is opened."""
    return [
        (
            f"{a['subject']['key'][0]['value']} {a['evidence'][0]['evaluation_ids'][0]}",
            a["status"],
        )
        for a in actions
    ]


def _evaluation(version: int, name: str = "v1", **fields: Any) -> Event:
    return record(EVALUATIONS, name, NOON_MS, version=version, evaluation_id=name, **fields)


#: Few evaluations in many versions.
_stated = st.lists(
    st.builds(
        _evaluation,
        st.integers(1, 5),
        st.sampled_from(["v1", "v2"]),
        agent_id=st.sampled_from(["A1", "A1", "A2"]),
        auto_failed=st.booleans(),
    ),
    min_size=1,
    max_size=12,
)


@law(60)
@given(_stated, st.lists(st.integers(0, 12), max_size=6), st.data())
def test_single_events_open_an_action_once_and_withdraw_it_once(events, places, data):
    """Whatever the order of versions, the cuts, and the restarts from a checkpoint between them."""
    engine, changelog = _engine(Saved()), {}
    actions: list[dict[str, Any]] = []
    for piece in cut(events, places):
        stage = engine.folds[SOURCE]
        in_headers = data.draw(st.booleans())
        batch = _batch(stage.position, piece, in_headers=in_headers)
        actions += _actions(engine.flush([batch], 0))
        if data.draw(st.booleans()):
            changelog |= stage.blocks.save(stage.state, 0)
            kept = [(key, value) for key, value in changelog.items() if value is not None]
            engine = _engine(read_saved(kept, 0))
    applied, _ = decide(events, PLAN.lateness)

    assert immediate_decisions(applied) == Counter(_said(actions))
    opened: set[str] = set()
    for action in actions:
        assert (action["action_id"] in opened) == (action["status"] == "WITHDRAWN")
        opened.add(action["action_id"])


@pytest.mark.parametrize("in_headers", [False, True])
def test_a_restatement_stands_beside_what_it_takes_back(in_headers):
    """The version before it weighs -1, those before that nothing: they were taken back already.

    What is kept can be read by itself, also where a header named its schema.
    """
    stage = _engine(Saved()).folds[SOURCE]
    ten = _evaluation(1, score_percent=10.0)
    first = stage.take([_batch(0, [ten], in_headers=in_headers)])
    second = stage.take([_batch(1, [_evaluation(n, score_percent=n * 10.0) for n in (3, 2)])])
    third = stage.take([_batch(3, [_evaluation(4, score_percent=40.0)])])
    found = [
        t.applied.select("score_percent", WEIGHT, "_offset").rows() for t in (first, second, third)
    ]

    assert [
        [(10.0, 1, 0)],
        [(30.0, 1, 1), (10.0, -1, 1)],
        [(40.0, 1, 3), (10.0, 0, 3), (30.0, -1, 3)],
    ] == found
    account = stage.state.account
    assert (4, 3, 1) == (account.consumed, account.applied, account.duplicates)


def test_a_kept_version_that_cannot_be_read_stops_the_worker():
    """Taking back something else than what was added would be wrong for ever."""
    stage = _engine(Saved()).folds[SOURCE]
    stage.take([_batch(0, [_evaluation(1)])])
    (bucket,) = stage.state.versions.buckets.values()
    bucket.open[0] = prefix(CODEC.schema_id) + b"?"

    with pytest.raises(KeptUnreadable, match=r"evaluations.v1: found .* rebuild"):
        stage.take([_batch(1, [_evaluation(2)])])


def test_a_rebuild_publishes_a_withdrawal_that_is_not_out_though_its_action_is():
    """The two share the id of the action; what is out is told apart by more than that."""
    engine = _engine(Saved())
    failed, mended = _evaluation(1, auto_failed=True), _evaluation(2, auto_failed=False)
    (opened,) = _actions(engine.flush([_batch(0, [failed])], 0))
    again = _engine(Saved())
    again.published = Published(ids={UUID(decision_id(opened)).bytes})
    (withdrawn,) = _actions(again.flush([_batch(0, [failed, mended])], 0))

    assert (opened["action_id"], "WITHDRAWN") == (withdrawn["action_id"], withdrawn["status"])
