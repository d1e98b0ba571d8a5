"""One key in so many is judged: the same to both sides, and whatever it is called."""

import duckdb
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from processors.keys import printable
from streams.verify.definitions import Scope
from streams.verify.recompute import recompute
from streams.verify.sample import Sample
from tests.oracle.support import Log, ledger_of
from tests.streams.verify.test_compare import NINE, REGISTRY

IDS = st.lists(st.text(), min_size=1, max_size=2)


def scope(scope_id, *key):
    """Return a scope of which only the name and the key columns matter."""
    return Scope(scope_id, key, 60_000, (), (), (), (), ())


@given(IDS, st.integers(2, 5), st.integers(0, 10**12))
@example(["a|b", "100 %,"], 2, 0)
@example([""], 5, 0)
@example(["a|"], 5, 0)
@example(["b|"], 5, 0)
@example(["c", "|"], 5, 0)
def test_both_sides_judge_the_same_keys(ids, one_in, start):
    """What a record's key tells of a key, SQL tells of the columns, and no window is left out."""
    sample = Sample(one_in)
    columns = ["agent_id", "question_id"][: len(ids)]
    named = ", ".join(f'${n} AS "key:{name}"' for n, name in enumerate(columns, start=1))
    with duckdb.connect() as sql:
        (expected,) = sql.execute(
            f"SELECT {sample.sql(scope('agent_item', *columns))} FROM (SELECT {named})", ids
        ).fetchone()

    for window in ("DAY:86400000", "TUMBLING:900000"):
        key = f"agent_item|{printable(ids)}|{window}|{start}"
        assert expected == sample.has(key.encode())


def test_of_many_keys_about_one_in_so_many_is_judged_and_of_no_key_all():
    """A scope without key columns has one key, and would be judged never or always."""
    queues = [f"queue|queue-{n}|TUMBLING:900000|0".encode() for n in range(10_000)]

    assert 900 < sum(map(Sample(10).has, queues)) < 1_100
    assert all(map(Sample(1).has, queues))
    assert Sample(10).has(b"overall||TUMBLING:900000|0")
    assert "TRUE" == Sample(10).sql(scope("overall"))


def test_what_is_expected_is_of_the_same_keys():
    """Of each of them everything, of others nothing."""
    log = Log()
    for n in range(40):
        log.add("interaction", 0, event_time=NINE + n, queue_id=f"q{n % 20}")
    sample = Sample(3)
    with ledger_of(log) as ledger:
        (made,) = recompute(ledger, REGISTRY, sample)
        found = ledger.sql.execute(f"SELECT k0, offered FROM {made.table} ORDER BY 1").fetchall()

    queues = [f"q{n}" for n in range(20)]
    judged = [q for q in queues if sample.has(f"queue|{q}|TUMBLING:900000|{NINE}".encode())]
    assert 0 < len(judged) < 20
    assert [(queue, 2) for queue in sorted(judged)] == found


def test_less_than_one_key_in_one_is_refused():
    with pytest.raises(ValueError, match="one_in: 0, expected at least 1"):
        Sample(0)
