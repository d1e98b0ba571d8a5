"""Memory goes back when it has become much, and not again and again."""

from streams.memory import Trimmer, resident_bytes

MB = 1 << 20


def test_what_has_grown_by_a_quarter_is_given_back_once():
    """It counts from the least since then: what is in use is not asked for again and again."""
    readings = iter([400, 480, 499, 500, 450, 562, 563, 560, 300, 363, 375, 310])
    given_back = []
    trimmer = Trimmer(lambda: next(readings) * MB, lambda: given_back.append(None))

    looks = [trimmer.look() for _ in range(8)]

    # 500 is a quarter more than 400 and leaves 450; so is 563, and leaves 560; then 300 is least.
    assert [False, False, True, False, True, False, False, True] == looks
    assert 3 == len(given_back)


def test_a_process_that_has_freed_much_becomes_smaller():
    """Kept pieces in between hold what is free where it lies, until it is asked back.

    Where the system does not tell how much is in use, nothing is asked for.
    """
    trimmer = Trimmer()
    pieces = [bytes([i % 256]) * 1_500 for i in range(200_000)]
    kept = pieces[::50]
    before = resident_bytes()
    del pieces

    trimmed, tells = trimmer.look(), before > 0

    assert trimmed == tells
    assert (before - resident_bytes() > 150 * MB) == tells
    assert 4_000 == len(kept)
