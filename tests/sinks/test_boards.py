"""Boards as data, and what is said about those that cannot be shown."""

from pathlib import Path

import pytest

from processors.kpis import load_registry
from schemas.contract import contract_schemas
from sinks.wallboard.boards import BoardError, Window, load_boards

DEPLOY = Path(__file__).parents[2] / "deploy"


def test_faults_are_all_told_with_file_and_line(tmp_path):
    """A misspelt field, a wrong window and a person's scope in one file, broken YAML in another."""
    (tmp_path / "a.yaml").write_text(
        "title: Board\ncolour: red\ntiles:\n  - {kpi: csat, window: 3x}\n"
        "  - kpi: csat\n    window: day\n    scope: agent_item\n"
    )
    (tmp_path / "b.yaml").write_text("title: [\n")

    with pytest.raises(BoardError) as error:
        load_boards(tmp_path)

    assert (
        "a.yaml:4: tiles.0.window: 3x: expected a duration such as 30s, 15m or 1h",
        "a.yaml:7: tiles.1.scope: agent_item: boards show queues, teams and the whole, expected no"
        " person",
        "a.yaml:2: colour: extra inputs are not permitted",
    ) == error.value.faults[:3]
    assert error.value.faults[3].startswith("b.yaml:2: ")


def test_a_directory_without_boards_is_told(tmp_path):
    """A mistyped directory does not give an empty wall."""
    with pytest.raises(BoardError, match=r"no \*\.yaml, expected at least one board"):
        load_boards(tmp_path)


@pytest.mark.parametrize(
    ("text", "name", "newest", "current"),
    [
        ("30m", "TUMBLING:1800000", 1_800_000, 1_800_000),
        ("day", "DAY:86400000", 86_400_000, 86_400_000),
        # [0, 5) [1, 6) ... [4, 9): with the newest at 4 min, the one that ends at 5 is full.
        ("5m/1m", "HOPPING:300000", 240_000, 0),
    ],
)
def test_the_window_to_show_is_the_fullest_that_still_takes_data(text, name, newest, current):
    """Given the newest window in which anything was counted."""
    window = Window.parse(text)

    assert name == window.name
    assert current == window.current_start_ms(newest)


def test_every_number_on_the_shipped_boards_is_defined():
    """Each KPI exists in the scope and window that a shipped board asks for it in."""
    registry = load_registry(DEPLOY / "kpis", contract_schemas())
    defined = {
        (scope.id, f"{window.kind}:{window.size_ms}", kpi.id)
        for scope in registry.scopes
        for window in scope.windows
        for kpi in scope.kpis
    }
    shown = set()
    for board in load_boards(DEPLOY / "boards").values():
        for tile in board.tiles:
            windows = [tile.window, tile.sparkline or board.sparkline]
            shown |= {(tile.scope, window.name, tile.kpi) for window in windows if window}
        if board.rows:
            rows = board.rows
            shown |= {(rows.scope, rows.window.name, column.kpi) for column in rows.columns}

    assert set() == shown - defined
