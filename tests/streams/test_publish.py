"""KPI records as they go out."""

from dataclasses import replace
from typing import Any

from processors.merge import Merge
from schemas.catalogue import KPIS
from streams.publish import KpiRecords, Publication
from tests.builders import INTERACTIONS, NOON_MS, SURVEYS, record, small_definitions
from tests.timeline import SOURCES, Event, Folding, Source

FIRST = (INTERACTIONS, 0)


def _published(taken: dict[Source, list[Event]], passed_ms: int | None = None) -> dict[str, Any]:
    """Return the decoded records of scope queue by Kafka key, after a flush and an advance."""
    definitions = small_definitions()
    folding, merge = Folding(definitions), Merge(definitions.merge)
    flushes: list[Any] = [(taken, {s: None for s in SOURCES if s not in taken})]
    if passed_ms is not None:
        flushes.append(({}, {FIRST: NOON_MS + passed_ms}))
    for flush in flushes:
        for block in folding.flush(*flush):
            merge.apply(block)
            merge.settle()
    codec = definitions.codec(KPIS)
    maker = KpiRecords(definitions.registry, definitions.registry.scope("queue"), codec)
    found = [Publication(1, (2 << 48) | 7, 9, changed) for changed in merge.changed("queue")]
    records = maker.records(found, NOON_MS)
    assert {(KPIS, 1)} == {(r.topic, r.partition) for r in records}
    decoded = [codec.decode(r.value or b"") for r in records]
    # Laid out by copying, they are what the writer of single records writes.
    assert [codec.encode(each) for each in decoded] == [r.value for r in records]
    return {(r.key or b"").decode(): d for r, d in zip(records, decoded, strict=True)}


def _answer(queue: str, wait_ms: int) -> Event:
    fields = {"event_type": "ANSWERED", "queue_wait_ms": wait_ms, "queue_id": queue}
    return record(INTERACTIONS, f"{queue}{wait_ms}", NOON_MS + 1_000, **fields)


def test_a_record_says_its_key_window_version_watermark_and_measures():
    """Everything a reader needs to judge the numbers is in the record itself."""
    found = _published({FIRST: [_answer("a,b|c", 30_000)]})[
        f"queue|a%2Cb%7Cc|TUMBLING:60000|{NOON_MS}"
    ]

    assert [{"name": "queue_id", "value": "a,b|c"}] == found["key"]
    assert {
        "kind": "TUMBLING",
        "size_ms": 60_000,
        "start_time": NOON_MS,
        "end_time": NOON_MS + 60_000,
        "zone": "Europe/Berlin",
    } == found["window"]
    assert ((2 << 48) | 7, 9, NOON_MS - 1_000) == (
        found["version"],
        found["as_of_id"],
        found["watermark"],
    )
    assert {"offered": 0, "answered": 1, "wait": 30_000, "responses": 0, "points": 0} == {
        measure["name"]: measure["value"] for measure in found["measures"]
    }


def test_no_data_is_null_with_n_of_zero():
    """A queue without surveys has no satisfaction, which is not a satisfaction of zero."""
    (found,) = [
        value
        for key, value in _published({FIRST: [_answer("billing", 30_000)]}).items()
        if "TUMBLING" in key
    ]
    kpis = {kpi["kpi_id"]: (kpi["value"], kpi["n"]) for kpi in found["kpis"]}

    assert (None, 0) == kpis["csat_mean"]
    assert (30.0, 1) == kpis["wait_mean"]
    assert (0.0, 0) == kpis["load"]


def test_rows_of_several_keys_do_not_mix():
    """Each record has the sums and the histogram of its own key."""
    found = _published({FIRST: [_answer("a", 10_000), _answer("b", 90_000)]})
    waits = {
        key.split("|")[1]: {kpi["kpi_id"]: kpi["value"] for kpi in value["kpis"]}
        for key, value in found.items()
        if "TUMBLING" in key
    }

    assert {"a": 10.0, "b": 90.0} == {key: kpis["wait_mean"] for key, kpis in waits.items()}
    for key, seconds in (("a", 10.0), ("b", 90.0)):
        assert abs(waits[key]["wait_p50"] - seconds) <= 0.01 * seconds


def test_a_record_is_as_final_as_its_least_final_kpi():
    """Waits are final before satisfaction is: they say so where they differ from the record."""
    survey = record(SURVEYS, "s", NOON_MS + 1_000, queue_id="billing")
    taken = {FIRST: [_answer("billing", 30_000)], (SURVEYS, 0): [survey]}
    (found,) = [v for k, v in _published(taken, 80_000).items() if "TUMBLING" in k]

    assert found["status"] == "PROVISIONAL"
    assert {"load": "FINAL", "wait_mean": "FINAL", "wait_p50": "FINAL", "csat_mean": None} == {
        kpi["kpi_id"]: kpi["status"] for kpi in found["kpis"]
    }


def test_what_changed_after_it_was_final_is_revised():
    """A record and its KPIs are revised only where they had been final."""
    definitions = small_definitions()
    folding, merge = Folding(definitions), Merge(definitions.merge)
    taken = {FIRST: [_answer("a", 10_000), _answer("b", 90_000)]}
    for block in folding.flush(taken, {s: None for s in SOURCES if s not in taken}):
        merge.apply(block)
    (changed,) = [each for each in merge.changed("queue") if each.window.kind == "TUMBLING"]
    scope, codec = definitions.registry.scope("queue"), definitions.codec(KPIS)
    changed.segment.revise(changed.segment.codes[[changed.keys.index("b")]])

    def found(final: set[str]) -> dict[str, tuple[str, dict[str, str | None]]]:
        publication = Publication(1, 7, 9, replace(changed, final=frozenset(final)))
        maker = KpiRecords(definitions.registry, scope, codec)
        records = [codec.decode(r.value or b"") for r in maker.records([publication], NOON_MS)]
        return {
            record["key"][0]["value"]: (
                record["status"],
                {kpi["kpi_id"]: kpi["status"] for kpi in record["kpis"]},
            )
            for record in records
        }

    ids = [kpi.id for kpi in scope.kpis]
    same = dict.fromkeys(ids)
    waits = {kpi.id for kpi in scope.kpis if kpi.sources == ("interactions",)}
    assert waits
    assert {"a": ("PROVISIONAL", same), "b": ("PROVISIONAL", same)} == found(set())
    assert {
        "a": ("PROVISIONAL", same | dict.fromkeys(waits, "FINAL")),
        "b": ("PROVISIONAL", same | dict.fromkeys(waits, "REVISED")),
    } == found({"interactions"})
    assert {"a": ("FINAL", same), "b": ("REVISED", same)} == found(set(scope.sources))
