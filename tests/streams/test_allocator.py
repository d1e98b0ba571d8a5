"""What a process asks of its allocators: polars' own, and that of the C library."""

import ctypes
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


KEPT = """
import ctypes
from streams.cli.worker import _settle_memory

class Info(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in
        "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost".split()]

libc = ctypes.CDLL(None)
libc.mallinfo2.restype = Info
libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
{settle}
libc.free(libc.malloc(16 << 20))
before = libc.mallinfo2().hblkhd
libc.malloc(1 << 20)
print(libc.mallinfo2().hblkhd - before >= 1 << 20)
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="another C library")
@pytest.mark.parametrize(("settle", "own"), [("_settle_memory()", "True"), ("", "False")])
def test_a_large_array_has_pages_of_its_own_whatever_was_freed_before(settle, own):
    """By default glibc takes the largest that was freed for the limit from then on."""
    told = subprocess.run(
        [sys.executable, "-c", KEPT.format(settle=settle)],
        capture_output=True,
        text=True,
        check=True,
    )

    assert own == told.stdout.strip()
