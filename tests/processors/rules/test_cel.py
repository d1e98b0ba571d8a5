"""Conditions: compiled and type-checked at load, and true exactly where CEL says so."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from processors.rules.cel import Condition, ConditionError, Vocabulary
from processors.rules.figures import Figures
from tests.processors.rules.timeline import registry

KPIS = registry().scope("agent").kpis
VOCABULARY = Vocabulary(KPIS)
AT = {kpi.id: i for i, kpi in enumerate(KPIS)}


def figures(**kpis: tuple[list[float], list[int]]) -> Figures:
    rows = len(next(iter(kpis.values()))[0])
    values = np.full((rows, len(AT)), np.nan)
    n = np.zeros((rows, len(AT)), np.int64)
    for kpi, (numbers, counts) in kpis.items():
        values[:, AT[kpi]] = numbers
        n[:, AT[kpi]] = counts
    return Figures(KPIS, values, n)


def simple(condition: Condition) -> tuple[list[tuple[str, str, float]], ...]:
    return tuple(
        [(c.variable.name, c.comparator, c.threshold) for c in comparisons]
        for comparisons in (condition.comparisons, condition.required)
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("quality < 60", "1:9: found no matching overload for '_<_' applied to '(double, int)'; "),
        ("qualty < 60.0", "1:1: unknown name qualty; did you mean quality?"),
        ("reviews_upper < 1.0", "1:1: unknown name reviews_upper; did you mean "),
        ("quality <", "1:10: Syntax error: "),
        ("quality < 1.0 ||\n qality > 2.0", "2:2: unknown name qality; did you mean quality?"),
        ("quality + 1.0", "found a value of type double, expected a condition"),
        ("1.0 < 2.0", "found no KPI, expected a condition over at least one"),
    ],
)
def test_a_condition_that_is_none_is_refused_with_its_place(text, message):
    """Line and column of the expression, what was found, and a hint."""
    with pytest.raises(ConditionError) as error:
        VOCABULARY.compile(text)

    assert message in str(error.value)


def test_a_whole_number_is_refused_with_the_way_to_write_it():
    """CEL does not turn integers into doubles."""
    with pytest.raises(ConditionError, match=r"numbers are doubles, write 60\.0 for 60"):
        VOCABULARY.compile("quality < 60")


def test_every_number_is_a_double_and_a_kpi_has_its_bounds_and_target():
    """So is n; bounds are of percent KPIs, the target of those that have one."""
    condition = VOCABULARY.compile(
        "quality < quality_target && quality_n > 5.0 && quality_upper < 70.0"
        " && csat_lower > 10.0 && reviews >= 5.0"
    )

    assert [True, False] == condition.mask(
        figures(quality=([40, 40], [20, 5]), csat=([50, 50], [40, 40]), reviews=([20, 5], [20, 5]))
    ).tolist()


@pytest.mark.parametrize(
    ("text", "comparisons", "required"),
    [
        ("quality < 60.0", [("quality", "<", 60.0)], [("quality", "<", 60.0)]),
        ("60.0 > quality", [("quality", "<", 60.0)], [("quality", "<", 60.0)]),
        (
            "quality > quality_target * 1.5",
            [("quality", ">", 120.0)],
            [("quality", ">", 120.0)],
        ),
        (
            "(quality < 60.0 && csat_n >= 5.0)",
            [("quality", "<", 60.0), ("csat_n", ">=", 5.0)],
            [("quality", "<", 60.0), ("csat_n", ">=", 5.0)],
        ),
        ("quality < 60.0 || csat < -5.0", [("quality", "<", 60.0), ("csat", "<", -5.0)], []),
        (
            "csat < 50.0 && (quality < 60.0 || reviews > 3.0)",
            [("csat", "<", 50.0), ("quality", "<", 60.0), ("reviews", ">", 3.0)],
            [("csat", "<", 50.0)],
        ),
        ("!(quality < 60.0)", [], []),
        ("quality < csat - 10.0", [], []),
        ("quality > 5.0 ? csat < 5.0 : csat > 5.0", [], []),
    ],
)
def test_simple_comparisons_are_found(text, comparisons, required):
    """All of them for evidence; those that must be true to pass most keys over without CEL."""
    assert (comparisons, required) == simple(VOCABULARY.compile(text))


@pytest.mark.parametrize(
    ("text", "kpis", "needed"),
    [
        ("quality < 60.0 && csat_n > 5.0", ["quality", "csat"], ["quality"]),
        ("csat_lower > 5.0 && quality_target > 1.0", ["csat", "quality"], ["csat"]),
    ],
)
def test_a_condition_needs_the_values_it_names(text, kpis, needed):
    """A KPI that it names by n or target alone may be null."""
    condition = VOCABULARY.compile(text)

    assert [AT[k] for k in kpis] == list(condition.kpis)
    assert [AT[k] for k in needed] == list(condition.needed)


def test_a_condition_that_fails_at_a_key_is_not_true_there():
    """Converting a huge double to an integer is an error in CEL; other keys are not touched."""
    condition = VOCABULARY.compile("int(reviews) > 5")

    assert [False, True] == condition.mask(figures(reviews=([1e300, 9], [1, 1]))).tolist()


TERMS = st.sampled_from(
    [
        "quality < 60.0",
        "quality_upper < 60.0",
        "csat != 50.0",
        "50.0 <= csat",
        "csat_n > quality_n",
        "!(reviews > 2.0)",
        "quality < quality_target",
        "(quality > 50.0 ? csat > 50.0 : csat < 50.0)",
    ]
)
CONDITIONS = st.recursive(
    TERMS,
    lambda inner: st.builds("({} {} {})".format, inner, st.sampled_from(["&&", "||"]), inner),
    max_leaves=5,
)
NUMBERS = st.sampled_from([float("nan"), 0.0, 49.9, 50.0, 60.0, 79.9, 100.0])
ROWS = st.lists(st.tuples(NUMBERS, NUMBERS, NUMBERS, st.integers(0, 9)), min_size=1, max_size=8)


@given(text=CONDITIONS, rows=ROWS)
@settings(max_examples=60, deadline=None)
def test_passing_keys_over_changes_no_result(text, rows):
    """A mask over all keys is what CEL alone says of each."""
    condition = VOCABULARY.compile(text[1:-1] if text.startswith("((") else text)
    quality, csat, reviews, n = (list(column) for column in zip(*rows, strict=True))
    found = figures(quality=(quality, n), csat=(csat, n[::-1]), reviews=(reviews, n))

    expected = [condition.holds(found, row) for row in range(len(rows))]

    assert expected == condition.mask(found).tolist()
