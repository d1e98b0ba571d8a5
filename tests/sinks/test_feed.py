"""What a reader has missed."""

from sinks.wallboard.feed import Feed


def test_a_reader_gets_what_changed_since_it_was_here():
    """Three changes of two parts: each reader gets the newest of what it has not seen."""
    feed = Feed()
    feed.update({"head": 1, "tile:0": 1})
    feed.update({"head": 1, "tile:0": 2})
    feed.update({"head": 3, "tile:0": 2})

    assert [{"head": "3", "tile:0": "2"}, {"head": "3", "tile:0": "2"}, {"head": "3"}, {}] == [
        feed.since(number) for number in range(4)
    ]


def test_nothing_new_is_no_change():
    """The same parts again do not count."""
    feed = Feed()

    assert [True, False] == [feed.update({"head": 1}), feed.update({"head": 1})]
    assert 1 == feed.last


def test_a_part_that_is_gone_is_told_once():
    """A queue that has left the board is null from then on, and new again when it returns."""
    feed = Feed()
    feed.update({"head": 1, "row:a": 1})
    feed.update({"head": 1})
    feed.update({"head": 1})

    assert {"row:a": "null"} == feed.since(1)
    assert feed.update({"head": 1, "row:a": 1})
    assert {"row:a": "1"} == feed.since(2)
