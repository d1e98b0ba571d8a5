"""Whatever is killed, paused, cut or emptied, every number and every action comes out right."""

import pytest

from tests.faults.harness import Run, run
from tests.faults.plan import Fault

SEED = 7
EVENTS = 45_000

pytestmark = [pytest.mark.integration, pytest.mark.faults]


@pytest.mark.timeout(900)
def test_no_fault_changes_a_number(tmp_path):
    """The short form of `make faults`: each kind of fault at least once, and no difference.

    Verify agrees on every record and the account adds up; each planted problem has exactly one
    action, and nothing else any; each action is explained by the input; Redis holds the newest
    records of the topics.
    """
    report = run(Run(SEED, EVENTS, kills=3, pace=2_000), tmp_path, print)

    assert [] == report.differences
    assert {str(fault) for fault in Fault} == {each.fault for each in report.recoveries}
    assert report.kills >= 3
    assert sum(report.sent.values()) <= report.account["consumed"]
