"""What the judge keeps of the KPI topic: of each record its highest version."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streams.verify import published
from streams.verify.intake import Raw
from streams.verify.published import Published
from tests.oracle.support import ledger_of
from tests.streams.verify.test_compare import KPI_CODEC, quiet_log, record

QUEUES = ("sales", "service", "claims")


@settings(max_examples=30, deadline=None)
@given(st.lists(st.lists(st.tuples(st.sampled_from(QUEUES), st.integers(1, 5)))))
def test_the_highest_version_stays_and_of_equal_ones_the_last(batches):
    """Whatever comes in one piece, and however often all is gone through in between."""
    expected = {}
    with ledger_of(quiet_log()) as ledger, pytest.MonkeyPatch.context() as patch:
        patch.setattr(published, "_COMPACT_AFTER", 2)
        kept = Published(ledger, KPI_CODEC)
        position = 0
        for batch in batches:
            raws = []
            for queue, version in batch:
                value = KPI_CODEC.encode(record(queue, version=version))
                raws.append(Raw(0, position, 0, queue.encode(), value, None))
                expected[queue] = max(expected.get(queue, (0, 0)), (version, position))
                position += 1
            kept.add(raws)
        kept.compact()
        found = ledger.sql.execute('SELECT record_key, "version", "position" FROM found').fetchall()

    assert sorted((queue, *newest) for queue, newest in expected.items()) == sorted(found)
