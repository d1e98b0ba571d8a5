"""The product beside peers on a real broker: one topic, and sums that are compared."""

import os
import sys
from dataclasses import replace

from streams.bench.peer_setup import PEERS, Ready, made_ready
from streams.bench.peers import run_round
from streams.bench.ratios import OURS, compared
from streams.bench.scenarios import DEPLOY, load_scenarios
from streams.bench.stage import Stage
from streams.bench.sums import Expected
from streams.cli.children import Children

EVENTS = 1_000
PREFIX = 300

IDLER = """
import json, time
for mark in ("first", "last"):
    print(json.dumps({"mark": mark, "at_s": time.time()}), flush=True)
    time.sleep(0.2)
"""


def scripted(tmp_path, name, text):
    """Return a peer that does what a text says."""
    script = tmp_path / f"{name}.py"
    script.write_text(text)
    return Ready(replace(PEERS["loop"], id=name, events=EVENTS), [sys.executable, str(script)])


def test_peers_come_to_the_sums_of_the_load(clean_kafka, kafka_admin, settings, tmp_path):
    """One does the whole load, one a prefix; one that idles and one that dies are told from them.

    No topic stays behind.
    """
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
    ready += [scripted(tmp_path, "idler", IDLER), scripted(tmp_path, "mortal", "exit(3)")]
    expected = Expected(scenario)

    with Children(
        tmp_path / "logs", {**os.environ, **environment, "ANDON_LOG_FORMAT": "json"}
    ) as children:
        stage = Stage(scenario, chosen, children, lambda _: None)
        done = run_round(1, ready, expected, stage)

    assert ["faust", OURS, "loop", "idler", "mortal"] == [run.engine for run in done.runs]
    faust, ours, loop, idler, mortal = done.runs
    assert ((), (), ()) == (faust.problems, ours.problems, loop.problems)
    assert "overall: 2 sums differ, first all at " in idler.problems[0]
    assert ("peer-mortal-1: ended with code 3", None) == (mortal.problems[0], mortal.figures)
    assert (PREFIX, EVENTS, EVENTS) == (faust.events, ours.events, loop.events)
    assert (PREFIX, EVENTS) == (faust.totals["overall"][0], loop.totals["overall"][0])
    assert faust.versions.startswith("faust-streaming 0.")
    found = {each.engine: each for each in compared(done.runs)}
    assert [True, True, False, False] == [
        found[each].right for each in ("faust", "loop", "idler", "mortal")
    ]
    assert found["faust"].ratio.median > 0 < found["loop"].ratio.median
    assert [] == [name for name in kafka_admin.list_topics(timeout=30).topics if "peer-" in name]
