"""What the registry refuses, and how it says so."""

import pytest

from processors.kpis import RegistryError, load_registry, parse_duration_ms, parse_window
from processors.kpis.arithmetic import parse_linear
from processors.kpis.definitions import WindowSpec
from schemas.contract import contract_schemas
from tests.processors.kpi_events import SHIPPED, shipped

BASE = """\
scopes:
  - {id: queue, key: [queue_id], sources: [interactions], pane: 10s, windows: [15m]}
measures:
  - {id: offered, source: interactions, value: "event_type = 'OFFERED'"}
  - {id: waits, source: interactions, aggregate: histogram, value: queue_wait_ms}
kpis:
  - {id: arrivals, title: Arrivals, unit: count, numerator: offered}
"""


def load(tmp_path, **files):
    for name, text in files.items():
        (tmp_path / f"{name}.yaml").write_text(text)
    return load_registry(tmp_path, contract_schemas())


def faults(tmp_path, **files):
    with pytest.raises(RegistryError) as caught:
        load(tmp_path, **files)
    return [f"{fault.file.name}:{fault.line}: {fault.reason}" for fault in caught.value.faults]


def test_all_faults_of_all_files_are_reported_together(tmp_path):
    """A load ends with every fault, each with file and line, not with the first one."""
    first = """\
zone: Europe/Berlni
parameters:
  - {id: limit_ms, by: queue, default: 20000}
scopes:
  - id: queue
    key: [queue_id]
    pane: 7s
    windows: [15m, 5m/2m, 1w]
measures:
  - id: a
    source: interactions
    value: "queue_wait > 3"
"""
    second = """\
zone: UTC
measures:
  - {id: a, source: interactions, value: "queue_wait_ms > 3"}
  - {id: b, source: calls, value: "queue_wait_ms > 3"}
samples:
  - {id: c, source: surveys, where: csat}
kpis:
  - {id: d, title: D, unit: percent, numerator: offerd}
"""

    assert [
        "first.yaml:1: zone: found Europe/Berlni, expected a name of the tz database; "
        "did you mean Europe/Berlin?",
        "first.yaml:3: parameters.limit_ms.by: found queue, which no source has",
        "first.yaml:7: scopes.queue.pane: found 7s, expected a divisor of 15m",
        "first.yaml:8: scopes.queue.windows: found '1w', expected a duration such as 500ms, 10s, "
        "15m, 1h or 7d",
        "first.yaml:8: scopes.queue.windows: found '5m/2m', expected a size that is a multiple of "
        "its hop",
        "first.yaml:8: scopes.queue.windows: found 15m, expected a multiple of the pane, 7s",
        "first.yaml:12: measures.a.value: found unknown column queue_wait; "
        "did you mean queue_wait_ms?",
        "second.yaml:1: zone: found UTC, but it is set before",
        "second.yaml:3: measures.a.id: defined before, at first.yaml:10",
        "second.yaml:4: measures.b.source: found calls, expected one of interactions, surveys, "
        "evaluations, evaluation_items",
        "second.yaml:6: samples.c.where: found a value of type Int64, expected a condition",
        "second.yaml:8: kpis.d.numerator: found unknown measure offerd",
    ] == faults(tmp_path, first=first, second=second)


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ("value: 'event_type > 3'", "value: found 'event_type > 3', whose types do not fit: "),
        ("value: 'SUM(talk_ms)'", "value: found function SUM, expected one of ABS, CAST, "),
        ("value: 'random()'", "value: found function random, expected one of "),
        ("value: 'talk_ms >'", "value: found 'talk_ms >', expected an SQL expression"),
        ("value: 'talk_ms AS t'", "value: found 'talk_ms AS t', expected an SQL expression"),
        ("value: 'talk_ms, hold_ms'", "value: found 'talk_ms, hold_ms', "),
        ("value: 'talk_ms > (SELECT 1)'", "value: found"),
        ("value: 'TRUE'", "value: found no column, expected one (event_id IS NOT NULL counts all)"),
        (
            "value: queue_id",
            "value: found a value of type String, expected a condition or a number",
        ),
        (
            "value: talk_ms / 3",
            "value: found a value of type Float64, expected a precision with it",
        ),
        ("value: talk_ms * 1.5", "value: found a value of type Decimal"),
        ("value: talk_ms, precision: 0.1", "value: found a precision on a value of type Int64"),
        ("value: talk_ms / 3, precision: 0.3", "precision: found 0.3, expected 1, 0.1, 0.01"),
        ("value: talk_ms / 3, aggregate: histogram", "value: found a value of type Float64"),
        ("value: talk_ms, count_time: priority", "count_time: found priority, expected an instant"),
        ("value: talk_ms, aggregate: max", "aggregate: found 'max', expected 'sum' or 'histogram'"),
        ("value: talk_ms, unit: seconds", "unit: unknown field"),
        ("aggregate: sum", "value: missing"),
    ],
)
def test_a_measure_that_cannot_be_computed_is_refused(tmp_path, entry, reason):
    """A measure is SQL over its source's columns: a condition or a number for each event."""
    own = f"measures:\n  - {{id: own, source: interactions, {entry}}}\n"
    found = faults(tmp_path, base=BASE, own=own)

    assert [True] == [line.startswith(f"own.yaml:2: measures.own.{reason}") for line in found], (
        found
    )


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ("numerator: offered * offered", "numerator: found two measures multiplied"),
        ("numerator: offered / 2", "numerator: found 'offered / 2' in 'offered / 2', expected "),
        ("numerator: 'offered +'", "numerator: found 'offered +', expected measures, "),
        ("numerator: offered * 1.5", "numerator: found '1.5' in 'offered * 1.5', expected "),
        ("numerator: arrivals", "numerator: found arrivals, which is a KPI, expected a measure"),
        ("numerator: own", "numerator: found own, which is a KPI, expected a measure"),
        ("numerator: waits", "numerator: found waits, a histogram, expected a sum"),
        ("quantile: 0.5, of: offered", "of: found offered, a sum, expected a histogram"),
        ("quantile: 0.5", "quantile: found one of quantile and of, expected both"),
        ("quantile: 1.5, of: waits", "quantile: found 1.5, expected less than 1"),
        ("numerator: offered, unit: minutes", "unit: found 'minutes', expected 'percent', "),
        ("numerator: offered, warning: 3", "direction: missing, expected higher or lower"),
        (
            "numerator: offered, direction: lower, warning: 5, critical: 3",
            "critical: found 3, expected one no better than warning, 5",
        ),
        ("numerator: offered, minimum_n: -1", "minimum_n: found -1, expected greater than "),
        ("numerator: offered, target: high", "target: found 'high', expected a valid number"),
        ("denominator: offered", "numerator: expected either a numerator or a quantile"),
        (
            "quantile: 0.5, of: waits, denominator: offered",
            "denominator: found with a quantile, which has none",
        ),
        ("numerator: offered, scopes: [shop]", "id: no scope of it has all of offered"),
        ("quantile: 0.5, of: waits", "id: no scope of it has all of waits"),
    ],
)
def test_a_kpi_that_cannot_be_computed_is_refused(tmp_path, entry, reason):
    """A KPI is whole-number arithmetic over sums, or a quantile of a histogram, with its unit.

    That it names measures only makes circles impossible.
    """
    unit = "" if "unit" in entry else "unit: count, "
    own = f"kpis:\n  - {{id: own, title: Own, {unit}{entry}}}\n"
    found = faults(tmp_path, base=BASE, own=own)

    assert f"own.yaml:2: kpis.own.{reason}" == found[0][: len(f"own.yaml:2: kpis.own.{reason}")]


def test_what_refers_to_a_broken_measure_is_not_at_fault(tmp_path):
    """One mistake is one fault, however many KPIs stand on it."""
    own = """\
measures:
  - {id: own, source: interactions, value: nonsense}
kpis:
  - {id: first, title: First, unit: percent, numerator: own, denominator: offered}
  - {id: second, title: Second, unit: count, numerator: own}
  - {id: third, title: Third, unit: count, numerator: owm}
"""

    assert [
        "own.yaml:2: measures.own.value: found unknown column nonsense",
        "own.yaml:6: kpis.third.numerator: found unknown measure owm; did you mean own?",
    ] == faults(tmp_path, base=BASE, own=own)


def test_measures_of_different_precision_do_not_add_up(tmp_path):
    """Millionths of points and whole events are not of one kind, nor is a score an n."""
    own = """\
measures:
  - {id: score, source: evaluations, value: score_percent, precision: 0.000001}
  - {id: forms, source: evaluations, value: event_id IS NOT NULL}
scopes:
  - {id: overall, key: [], pane: 10s, windows: []}
kpis:
  - {id: mixed, title: Mixed, unit: score, numerator: score - forms, denominator: forms}
  - {id: resting, title: Resting, unit: score, numerator: forms, denominator: score}
"""

    assert [
        "own.yaml:7: kpis.mixed.numerator: found measures of different precision in "
        "'score - forms'",
        "own.yaml:8: kpis.resting.n: found a sum of doubles, expected a count of events",
    ] == faults(tmp_path, base=BASE, own=own)


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ("key: [queue_id], sources: [calls]", "sources: found calls, expected one of "),
        ("key: [question_id], sources: [surveys]", "key: found question_id, which is no text "),
        ("key: [csat_score]", "key: found csat_score, which no source has together"),
        ("key: [leg]", "key: found leg, which is no text column of interactions"),
        ("key: [queue_id], attributes: [site_id]", "attributes: found site_id, which is no text "),
        ("key: [queue_id, queue_id]", "key: found a column twice"),
        ("key: [queue_id], windows: [15m, 900s]", "windows: found 900s twice"),
        ("key: [queue_id], publish_every: often", "publish_every: found 'often', expected "),
    ],
)
def test_a_scope_that_cannot_be_counted_is_refused(tmp_path, entry, reason):
    """Key and attributes are text columns of every source of the scope."""
    windows = "" if "windows" in entry else ", windows: [15m]"
    own = f"scopes:\n  - {{id: own, pane: 10s, {entry}{windows}}}\n"
    found = faults(tmp_path, base=BASE, own=own)

    assert f"own.yaml:2: scopes.own.{reason}" == found[0][: len(f"own.yaml:2: scopes.own.{reason}")]


def test_a_parameter_has_one_type_and_a_name_of_its_own(tmp_path):
    """A parameter must not hide a column, nor change its type from queue to queue."""
    own = """\
parameters:
  - {id: talk_ms, by: queue_id, default: 3}
  - {id: limit_ms, by: queue_id, default: 3, values: {billing: soon}}
"""

    assert [
        "own.yaml:2: parameters.talk_ms.id: found the name of a column",
        "own.yaml:3: parameters.limit_ms.values: billing: found 'soon', expected int, "
        "as the default",
    ] == faults(tmp_path, base=BASE, own=own)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("kpis: [", "own.yaml:1: not YAML: "),
        ("- 1", "own.yaml:1: found no mapping, expected zone, parameters, scopes, "),
        ("kips: []", "own.yaml:1: found section kips, expected zone, parameters, "),
        ("kpis: 3", "own.yaml:1: kpis: found no list, expected one"),
        ("kpis:\n  - 3", "own.yaml:1: kpis: found 3, expected an entry"),
        ("zone: UTC\nzone: UTC", "own.yaml:2: not YAML: "),
    ],
)
def test_a_file_of_another_shape_is_refused(tmp_path, text, fault):
    """What is not YAML, or not a mapping of known sections, is named with its line."""
    assert fault == faults(tmp_path, base=BASE, own=text)[0][: len(fault)]


def test_an_empty_directory_is_refused(tmp_path):
    """A wrong path must not start a worker that counts nothing."""
    with pytest.raises(RegistryError, match=r"found no file, expected at least one \*\.yaml"):
        load_registry(tmp_path / "nowhere", contract_schemas())


def test_the_fingerprint_follows_what_is_defined(tmp_path):
    """A comment changes no fingerprint, a title one, a measure both."""
    registry = load(tmp_path, base=BASE)
    commented = load(tmp_path, base="# why\n" + BASE)
    titled = load(tmp_path, base=BASE.replace("Arrivals", "Contacts"))
    counted = load(tmp_path, base=BASE.replace("'OFFERED'", "'BLOCKED'"))

    assert registry.fingerprint == commented.fingerprint
    assert registry.state_fingerprint == titled.state_fingerprint
    assert 3 == len({r.fingerprint for r in (registry, titled, counted)})
    assert registry.state_fingerprint != counted.state_fingerprint


def test_a_survey_counts_at_the_time_of_its_interaction_unless_told_otherwise():
    """Every measure names one instant; where that is null, event_time stands in."""
    times = {(m.source, m.count_time) for m in shipped().measures.values()}

    assert times == {
        ("interactions", "event_time"),
        ("surveys", "interaction_time"),
        ("evaluations", "event_time"),
        ("evaluation_items", "event_time"),
    }
    assert ("interaction_time",) == shipped().sources["surveys"].count_times


def test_a_scope_has_every_measure_of_its_sources_and_the_kpis_they_suffice_for():
    """Order is that of the files: saved sums are laid out by it."""
    registry = shipped()
    item_scope = registry.scope("agent_item")

    assert ("evaluation_items",) == item_scope.sources
    assert ("items_scored", "item_score", "item_max_score") == item_scope.sums
    assert ["qa_item_score"] == [kpi.id for kpi in item_scope.kpis]
    assert ("evaluation_items",) == item_scope.kpis[0].sources


def test_every_file_of_the_shipped_registry_is_read():
    """The shipped registry is several files that make one."""
    assert ["evaluations", "interactions", "scopes", "surveys"] == sorted(
        path.stem for path in SHIPPED.glob("*.yaml")
    )
    assert "Europe/Berlin" == shipped().zone


def test_arithmetic_is_whole_numbers_over_measures():
    """Brackets, signs and factors come out as one coefficient per measure."""
    form = parse_linear("2 * (a - b) - -3 + b * 4 - (5 - 1)")

    assert ((("a", 2), ("b", 2)), -1) == (form.terms, form.constant)


@pytest.mark.parametrize("text", ["", "0s", "1.5m", "-1m", "10", "1 m", "m"])
def test_a_duration_is_a_whole_number_and_a_unit(text):
    """Nothing is guessed: no unit, no fraction and no zero."""
    with pytest.raises(ValueError, match="expected a duration such as"):
        parse_duration_ms(text)


def test_windows_are_tumbling_hopping_or_days():
    """One text for each kind."""
    assert [
        WindowSpec("TUMBLING", 900_000, 900_000),
        WindowSpec("HOPPING", 300_000, 60_000),
        WindowSpec("DAY", 86_400_000, 86_400_000),
    ] == [parse_window(text) for text in ("15m", "5m/1m", "day")]
