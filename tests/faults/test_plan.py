"""What the harness does follows from its seed, and holds what it promises."""

from collections import Counter
from itertools import islice

import pytest

from tests.faults.load import Kind, Load
from tests.faults.plan import Fault, plan


@pytest.mark.parametrize("kills", [3, 50])
def test_a_plan_has_every_fault_and_enough_kills(kills):
    """A double kill counts twice; the others come once for sixteen kills, at least once."""
    steps = plan(1, 100_000, kills)
    found = Counter(step.fault for step in steps)

    assert set(Fault) == set(found)
    assert sum(1 + bool(s.again) for s in steps if s.fault is Fault.KILL) in (kills, kills + 1)
    assert {max(1, round(kills / 16))} == {found[f] for f in Fault if f is not Fault.KILL}


def test_a_plan_follows_from_its_seed():
    """In the order of events, and within the load."""
    steps = plan(7, 100_000, 10)

    assert steps == plan(7, 100_000, 10)
    assert steps != plan(8, 100_000, 10)
    assert steps == sorted(steps, key=lambda step: step.after_events)
    assert 5_000 <= steps[0].after_events < steps[-1].after_events <= 90_000


def test_no_worker_leaves_before_another_has_joined():
    """So there is always more than one, and never ever more."""
    for seed in range(20):
        found = [s.fault for s in plan(seed, 100_000, 50) if s.fault in (Fault.JOIN, Fault.LEAVE)]
        assert found == [Fault.JOIN, Fault.LEAVE] * (len(found) // 2)


def test_a_load_is_disturbed_as_it_says():
    """A tenth comes again, a fifth out of order, a hundredth too late, a thousandth is no event."""
    load = Load(1, 40_000)
    total = sum(1 for _ in load)
    shares = {kind: count / total for kind, count in load.counts.items()}

    assert abs(total - 40_000) < 400
    assert abs(shares[Kind.DUPLICATE] - 0.1) < 0.01
    assert abs(shares[Kind.OUT_OF_ORDER] - 0.2) < 0.02
    assert 0.005 < shares[Kind.EXPIRED] < 0.02
    assert 0.0005 < shares[Kind.POISON] < 0.002
    assert len(load.expected) == len(set(load.expected)) > 20


def test_a_load_follows_from_its_seed():
    """Record for record; another seed gives another."""
    first, again, other = (list(islice(Load(seed, 20_000), 2_000)) for seed in (1, 1, 2))

    assert first == again
    assert first != other
