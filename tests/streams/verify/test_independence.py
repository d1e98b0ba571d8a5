"""The judge repeats none of the pipeline's code, or it would repeat its faults."""

import ast
from pathlib import Path

import streams.verify

SHARED = ("schemas", "streams.settings", "streams.verify")


def test_the_judge_imports_contracts_and_settings_and_nothing_else_of_ours():
    """Definitions and the codec are shared; fold, merge and formulas are not."""
    found = set()
    for path in Path(streams.verify.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom):
                found.add(str(node.module))
            elif isinstance(node, ast.Import):
                found.update(alias.name for alias in node.names)
    ours = {name for name in found if name.split(".")[0] in ("streams", "processors", "sinks")}

    assert set() == {name for name in ours if not name.startswith(SHARED)}
