"""The product beside peers on a real broker: one topic, and sums that are compared."""

import os

from streams.bench.peer_setup import PEERS, made_ready
from streams.bench.peers import run_round
from streams.bench.ratios import OURS, compared
from streams.bench.scenarios import DEPLOY, load_scenarios
from streams.bench.sums import Expected
from streams.cli.children import Children

EVENTS = 1_000
PREFIX = 300


def test_peers_come_to_the_sums_of_the_load(clean_kafka, kafka_admin, settings, tmp_path):
    """One does the whole load, one a prefix; both send every sum, and no topic stays behind."""
    (tmp_path / "rules").mkdir()
    chosen = settings(kpis_dir=DEPLOY / "bench" / "kpis", rules_dir=tmp_path / "rules")
    chosen.state_dir.mkdir()
    names = ("kafka_bootstrap_servers", "application_id", "kpis_dir", "rules_dir", "state_dir")
    environment = {f"ANDON_{name.upper()}": str(getattr(chosen, name)) for name in names}
    scenario = load_scenarios()["reference-catch-up"].sized(EVENTS, quick=False)
    sized = [
        PEERS["loop"].sized(EVENTS, quick=False),
        PEERS["faust"].sized(PREFIX, quick=False),
    ]
    ready = [made_ready(peer, tmp_path, lambda _: None) for peer in sized]
    expected = Expected(scenario)

    with Children(
        tmp_path / "logs", {**os.environ, **environment, "ANDON_LOG_FORMAT": "json"}
    ) as children:
        done = run_round(1, ready, expected, chosen, children, lambda _: None)

    assert [] == [problem for run in done.runs for problem in run.problems]
    assert ["faust", OURS, "loop"] == [run.engine for run in done.runs]
    faust, ours, loop = done.runs
    assert (PREFIX, EVENTS, EVENTS) == (faust.events, ours.events, loop.events)
    assert (PREFIX, EVENTS) == (faust.totals["overall"][0], loop.totals["overall"][0])
    assert faust.versions.startswith("faust-streaming 0.")
    for each in compared(done.runs)[1:]:
        assert each.ratio.median > 0
        assert each.cpu_ratio.median > 0
    assert [] == [name for name in kafka_admin.list_topics(timeout=30).topics if "peer-" in name]
