"""What the process asks of polars' allocator."""

import os
import subprocess
import sys

import pytest

ASK = "import streams, polars, os; print(os.environ['_RJEM_MALLOC_CONF'].split(',')[-1])"


@pytest.mark.parametrize(
    ("chosen", "last"),
    [({}, "dirty_decay_ms:10000"), ({"_RJEM_MALLOC_CONF": "abort:true"}, "abort:true")],
)
def test_memory_is_kept_from_flush_to_flush_unless_the_operator_says_otherwise(chosen, last):
    """Of two settings of one name polars' allocator takes the last; that is what it is given."""
    own = {name: value for name, value in os.environ.items() if name != "_RJEM_MALLOC_CONF"}
    told = subprocess.run(
        [sys.executable, "-c", ASK], env=own | chosen, capture_output=True, text=True, check=True
    )

    assert last == told.stdout.strip()
