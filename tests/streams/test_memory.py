"""Memory goes back when it has become much, and not again and again."""

import sys

import pytest

from streams.memory import Trimmer, resident_bytes

MB = 1 << 20


def test_what_has_grown_by_a_quarter_is_given_back_once():
    """It counts from the least since then: what is in use is not asked for again and again."""
    readings = iter([400, 480, 499, 500, 450, 562, 563, 560, 300, 363, 375, 310])
    given_back = []
    trimmer = Trimmer(lambda: next(readings) * MB, lambda: bool(given_back.append(None)) or True)

    looks = [trimmer.look() for _ in range(8)]

    # 500 is a quarter more than 400 and leaves 450; so is 563, and leaves 560; then 300 is least.
    assert [False, False, True, False, True, False, False, True] == looks
    assert 3 == len(given_back)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells, and only glibc gives back")
def test_a_process_that_has_freed_much_becomes_smaller():
    """Kept pieces in between hold what is free where it lies, until it is asked back."""
    trimmer = Trimmer()
    pieces = [bytes([i % 256]) * 1_500 for i in range(200_000)]
    kept = pieces[::50]
    before = resident_bytes()
    del pieces

    assert trimmer.look()
    assert resident_bytes() < before - 150 * MB
    assert 4_000 == len(kept)
