"""How figures of several rounds become ratios."""

import pytest

from streams.bench.ratios import OURS, EngineRun, Figures, Spread, compared, ratios


def run(engine, number, events_per_s=None, cpu_us=1.0, *, problems=()):
    figures = events_per_s and Figures(1.0, events_per_s, cpu_us, 0.5, 100.0)
    return EngineRun(engine, number, 1_000, 70.0, "1.0", figures, problems)


def test_a_ratio_is_ours_to_theirs_in_one_round():
    """The machine is not as fast in every round: figures of different rounds are not compared."""
    runs = [
        *(run(OURS, 1, 200.0, 5.0), run("slow", 1, 50.0, 20.0)),
        *(run(OURS, 2, 100.0, 10.0), run("slow", 2, 20.0, 20.0)),
        *(run(OURS, 3, 160.0, 5.0), run("slow", 3, 20.0, 50.0)),
    ]

    ours, slow = compared(runs)

    assert Spread(100.0, 160.0, 200.0) == ours.events_per_s
    assert (None, None) == (ours.ratio, ours.cpu_ratio)
    assert Spread(20.0, 20.0, 50.0) == slow.events_per_s
    assert Spread(4.0, 5.0, 8.0) == slow.ratio
    assert (0.1, 0.25, 0.5) == pytest.approx(
        (slow.cpu_ratio.min, slow.cpu_ratio.median, slow.cpu_ratio.max)
    )


def test_the_product_comes_first_and_then_the_fastest():
    """Whatever the order in which they ran."""
    runs = [run("slow", 1, 1.0), run("fast", 1, 300.0), run("dead", 1), run(OURS, 1, 200.0)]

    assert [OURS, "fast", "slow", "dead"] == [each.engine for each in compared(runs)]


def test_one_wrong_round_makes_an_engine_wrong():
    """Its figures stay to be seen, marked."""
    (found,) = compared(
        [run("one", 1, 5.0, problems=("queue: 1 sums differ",)), run("one", 2, 7.0)]
    )

    assert (False, ("queue: 1 sums differ",)) == (found.right, found.problems)
    assert Spread(5.0, 6.0, 7.0) == found.events_per_s


def test_without_figures_there_is_no_ratio():
    """An engine that died before its end, or a product that did."""
    assert (None, None) == ratios(run("dead", 1), run(OURS, 1, 2.0))
    assert (None, None) == ratios(run("fast", 1, 2.0), run(OURS, 1))
    assert (None, None) == ratios(run("fast", 1, 2.0), None)
    assert (2.0, None) == ratios(run("short", 1, 1.0, 0.0), run(OURS, 1, 2.0))
