"""What saved state rests on, and what is refused of it."""

from dataclasses import replace
from pathlib import Path

import pytest

from streams.basis import EDITIONS, Basis, Versioned, misfits
from streams.definitions import Definitions, load_definitions
from streams.settings import Settings
from tests.builders import KPIS, RULES

ANEW = "rebuild"
VERSIONS = {"kpis.load": Versioned(1, "one"), "rules.slow": Versioned(2, "two")}
SAVED = Basis("sums", 4, "id", ("first", "second"), VERSIONS)


def _faults(**changed: object) -> list[str]:
    return list(misfits(SAVED, replace(SAVED, **{"editions": ("second",), **changed}), ANEW))


def test_what_it_rests_on_comes_back_as_it_was():
    """It is one record of the changelog."""
    assert SAVED == Basis.load(SAVED.dump())


def test_the_same_is_gone_on_from():
    """Also where the broker tells no topic ids, then or now."""
    assert [] == _faults()
    assert [] == _faults(topic_id="")
    assert SAVED.followed_by(replace(SAVED, editions=("second",))) == SAVED


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        pytest.param(
            {"definitions": "others"},
            "found state by definitions sums, expected others: a measure, scope, parameter or "
            "topic time has changed; undo that, or rebuild",
            id="sums mean something else",
        ),
        pytest.param(
            {"partitions": 6},
            "found state of a topic of 4 partitions, expected 6: rebuild",
            id="the partitions have changed",
        ),
        pytest.param(
            {"topic_id": "another"},
            "found state of the topic with id id, expected another: the topic was deleted and "
            "made anew; rebuild",
            id="the topic was made anew",
        ),
        pytest.param(
            {"editions": ("first",)},
            "found state by newer definitions second, expected our own first, which they "
            "replaced: give this worker the files of the others; to go back on purpose, raise the "
            "version of each KPI and rule that you take back",
            id="our definitions were replaced",
        ),
        pytest.param(
            {"editions": ("third",), "versions": {"kpis.load": Versioned(1, "changed")}},
            "kpis.load: found version 1 of another content than version 1, which this state was "
            "made by; expected above 1: raise its version, or undo the change",
            id="a formula changed under the same version",
        ),
        pytest.param(
            {"editions": ("third",), "versions": {"rules.slow": Versioned(1, "changed")}},
            "rules.slow: found version 1 of another content than version 2, which this state was "
            "made by; expected above 2: raise its version, or undo the change",
            id="a rule of a lower version",
        ),
    ],
)
def test_what_cannot_be_gone_on_from_is_told_with_what_to_do(changed, expected):
    """Each fault says what was found, what was expected, and the way out."""
    assert [expected] == _faults(**changed)


def test_a_risen_version_is_gone_on_with_and_the_one_before_is_not_again():
    """So workers can be replaced one by one: what new ones have had, old ones do not take back."""
    risen = {"kpis.load": Versioned(2, "changed"), "kpis.new": Versioned(1, "new")}
    ours = Basis("sums", 4, "id", ("third",), risen)
    after = SAVED.followed_by(ours)

    assert [] == list(misfits(SAVED, ours, ANEW))
    assert ("first", "second", "third") == after.editions
    assert VERSIONS | risen == after.versions
    (fault,) = misfits(after, replace(SAVED, editions=("second",)), ANEW)
    assert "give this worker the files of the others" in fault


def test_what_was_taken_out_does_not_come_back_as_something_else_under_its_version():
    """The versions of all definitions stay known."""
    without = SAVED.followed_by(Basis("sums", 4, "id", ("third",), {}))
    again = Basis("sums", 4, "id", ("fourth",), {"rules.slow": Versioned(2, "changed")})

    assert ["rules.slow"] == [fault.split(":")[0] for fault in misfits(without, again, ANEW)]


def test_the_record_does_not_grow_with_every_change():
    """The oldest editions are forgotten."""
    basis = SAVED
    for number in range(100):
        basis = basis.followed_by(replace(SAVED, editions=(f"edition {number}",)))

    assert EDITIONS == len(basis.editions)
    assert "edition 99" == basis.editions[-1]


# -- what counts as a change ----------------------------------------------------------------------


def _loaded(tmp_path: Path, kpis: str = KPIS, rule: str = RULES["slow-queue"]) -> Definitions:
    for name, text in (("kpis/all.yaml", kpis), ("rules/slow-queue.yaml", rule)):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    return load_definitions(Settings(kpis_dir=tmp_path / "kpis", rules_dir=tmp_path / "rules"))


LOAD = "id: load, title: Load, unit: count, numerator: offered"
CHANGES = {
    "a formula": (KPIS.replace(LOAD, LOAD.replace("offered", "answered")), None, ["kpis.load"]),
    "a unit": (KPIS.replace(LOAD, LOAD.replace("count", "percent")), None, ["kpis.load"]),
    "a title": (KPIS.replace("title: Load", "title: Burden"), None, []),
    "a target": (KPIS.replace("title: Load", "title: Load, target: 2, direction: lower"), None, []),
    "one more KPI": (
        KPIS.replace(
            "kpis:\n", "kpis:\n  - {id: calls, title: C, unit: count, numerator: offered}\n"
        ),
        None,
        ["kpis.calls"],
    ),
    "a rule": (KPIS, RULES["slow-queue"].replace("30.0", "20.0"), ["rules.slow-queue"]),
}


@pytest.mark.parametrize(("kpis", "rule", "expected"), CHANGES.values(), ids=CHANGES.keys())
def test_only_what_changes_a_value_or_a_decision_needs_a_risen_version(
    tmp_path, kpis, rule, expected
):
    """Titles and targets do not; yet every change makes another edition."""
    before = _loaded(tmp_path)
    after = _loaded(tmp_path, kpis, rule or RULES["slow-queue"])

    assert before.edition != after.edition
    assert before.fingerprint == after.fingerprint
    assert expected == [
        name for name, known in after.versions.items() if before.versions.get(name) != known
    ]


def test_a_measure_changes_what_sums_mean(tmp_path):
    """No version helps there: what was added up so far is something else."""
    before = _loaded(tmp_path)
    after = _loaded(tmp_path, KPIS.replace("event_type = 'OFFERED'", "event_type = 'ANSWERED'"))

    assert before.fingerprint != after.fingerprint
