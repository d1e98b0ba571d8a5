"""The history only grows, and every row says what it was measured with."""

import pytest

from streams.bench.history import (
    COLUMNS,
    HISTORY_FILE,
    PEERS_COLUMNS,
    HistoryError,
    append_rows,
    circumstances,
)

ROW = {
    "date": "2026-11-23T09:00:00Z",
    "commit": "0123456789ab",
    "dirty": False,
    "machine": "2 x Some CPU",
    "calibration_ms": 61.23456,
    "versions": "python 3.11.7; kafka 4.3.1",
    "settings": "",
    "scenario": "reference-catch-up",
    "events": 1_200_000,
    "events_per_s": 123_456.7,
    "cpu_us_per_event": 6.54321,
    "p50_ms": None,
    "p99_ms": None,
    "p999_ms": None,
    "peak_rss_mb": 412.34,
    "kpi_records": 98_765,
    "verified": True,
}
LINE = (
    "2026-11-23T09:00:00Z,0123456789ab,no,2 x Some CPU,61.23,python 3.11.7; kafka 4.3.1,,"
    "reference-catch-up,1200000,123457,6.543,,,,412.3,98765,yes"
)


def test_a_new_file_gets_its_header_and_later_rows_follow(tmp_path):
    """Nothing that was written is touched again."""
    file = tmp_path / "history.csv"

    append_rows(file, COLUMNS, [ROW])
    append_rows(file, COLUMNS, [{**ROW, "p50_ms": 312.0, "verified": False}])

    second = LINE.replace(",,,,412.3", ",312,,,412.3").replace("yes", "no")
    assert [",".join(COLUMNS), LINE, second] == file.read_text().splitlines()


def test_a_file_with_other_columns_is_refused_and_stays(tmp_path):
    """Rows of another meaning under an old header would be read wrongly for years."""
    file = tmp_path / "history.csv"
    file.write_text("date,events\n")

    with pytest.raises(HistoryError, match=r"columns \['date', 'events'\], expected \['date'"):
        append_rows(file, COLUMNS, [ROW])

    assert "date,events\n" == file.read_text()


def test_a_row_has_every_column(tmp_path):
    """A column without a value is said to have none; what has no column is left out."""
    file = tmp_path / "history.csv"
    with pytest.raises(ValueError, match=r"history.csv: a row without \['verified'\], expected"):
        append_rows(file, COLUMNS, [{k: v for k, v in ROW.items() if k != "verified"}])
    assert not file.exists()

    append_rows(file, COLUMNS, [{**ROW, "problems": []}])
    assert LINE == file.read_text().splitlines()[-1]


@pytest.mark.parametrize(
    ("file", "columns"),
    [(HISTORY_FILE, COLUMNS), (HISTORY_FILE.with_name("peers.csv"), PEERS_COLUMNS)],
)
def test_a_shipped_history_has_these_columns(file, columns):
    """The next run can continue it."""
    assert ",".join(columns) == file.read_text().splitlines()[0]


def test_circumstances_name_versions_and_what_was_tried_but_not_the_machine():
    """The history is published with the code."""
    found = circumstances("4.3.1", {"flush_max_events": "5", "fetch_max_records": "7"})

    assert "fetch_max_records=7; flush_max_events=5" == found.settings
    assert "kafka 4.3.1; andon " in found.versions
    assert found.machine[0].isdigit()
