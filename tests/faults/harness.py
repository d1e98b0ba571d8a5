"""A run: servers, workers, load, nemesis, and the judgement at the end."""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from schemas.catalogue import load_catalogue
from streams.bench.freshness import Watch
from streams.cli.children import Children
from streams.settings import PREFIX, Settings
from tests.faults.crew import Crew
from tests.faults.judge import Judgement, judged
from tests.faults.link import Link
from tests.faults.load import Kind, Load
from tests.faults.nemesis import PATIENCE_S, Nemesis
from tests.faults.plan import Step, plan
from tests.faults.report import Recovery, Report
from tests.faults.sender import Sender
from tests.faults.servers import Servers
from tests.waiting import wait_until

_CREW: Final = 2
_TRICKLE: Final = 40.0
_QUIET_S: Final = 3
# Everything is worked off in the end at this pace at least.
_LEAST_EVENTS_PER_S: Final = 1_000


@dataclass(frozen=True, slots=True)
class Run:
    """What is to be run: everything in it follows from these."""

    seed: int
    events: int
    kills: int
    pace: float


def run(chosen: Run, directory: Path, tell: Callable[[str], None]) -> Report:
    """Run it below an empty directory and report; everything started is ended in any case.

    Raises TimeoutError where something does not recover, CommandError where something cannot start.
    """
    began_s = time.monotonic()

    def at_times(line: str) -> None:
        tell(f"{time.monotonic() - began_s:5.0f} s  {line}")

    return _run(chosen, directory, at_times, began_s)


def _run(chosen: Run, directory: Path, tell: Callable[[str], None], began_s: float) -> Report:
    load = Load(chosen.seed, chosen.events)
    catalogue = load_catalogue()
    servers = Servers(directory, catalogue, tell)
    with ExitStack() as stack:
        settings = stack.enter_context(servers.running())
        link = stack.enter_context(Link(servers.link_port, servers.broker_link_port))
        environment = _environment(settings, servers.link_port)
        children = stack.enter_context(Children(directory / "logs", environment))
        client = {**settings.kafka_client(), "log_level": 2}
        watch = stack.enter_context(Watch(client, settings.application_id, catalogue))
        crew = stack.enter_context(Crew(children, _CREW))
        sender = stack.enter_context(_sending(Sender(client, load, _TRICKLE)))
        children.start("deliver", "deliver")
        nemesis = Nemesis(chosen.seed, crew, link, servers, watch)
        steps = plan(chosen.seed, chosen.events, chosen.kills)
        recoveries = list(_strike(steps, nemesis, sender, watch, chosen.pace, tell))
        _send_the_rest(sender, watch)
        _finish(crew, children, servers, sender, tell)
        tell("judging")
        judgement = judged(settings, sender.sent, load.expected)
    return _report(chosen, load, recoveries, crew, judgement, time.monotonic() - began_s)


def _environment(settings: Settings, link_port: int) -> dict[str, str]:
    """Return the environment of the processes: the operator's, without any settings of Andon."""
    others = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    return {
        **others,
        "ANDON_KAFKA_BOOTSTRAP_SERVERS": f"127.0.0.1:{link_port}",
        "ANDON_REDIS_URL": str(settings.redis_url),
        "ANDON_STATE_DIR": str(settings.state_dir),
        "ANDON_APPLICATION_ID": settings.application_id,
        "ANDON_LOG_FORMAT": "json",
    }


@contextmanager
def _sending(sender: Sender) -> Iterator[Sender]:
    sender.start()
    try:
        yield sender
    finally:
        sender.stop()


def _strike(
    steps: Sequence[Step],
    nemesis: Nemesis,
    sender: Sender,
    watch: Watch,
    pace: float,
    tell: Callable[[str], None],
) -> Iterator[Recovery]:
    """Carry out each step when its number of events is processed; the load goes on meanwhile."""
    # What comes before the first step lies there when the workers start.
    sender.limit = steps[0].after_events
    for number, step in enumerate(steps):
        _await_processed(step.after_events, watch)
        sender.pace = pace
        sender.limit = steps[min(number + 1, len(steps) - 1)].after_events
        recovery = nemesis.strike(step)
        how = f" ({recovery.how})" if recovery.how else ""
        tell(
            f"{number + 1}/{len(steps)} after {watch.processed:,} events: "
            f"{recovery.fault}{how}, fresh again in {recovery.seconds:.1f} s"
        )
        yield recovery


def _await_processed(events: int, watch: Watch) -> None:
    what = f"{events} events processed"
    wait_until(lambda: watch.processed >= events, what, PATIENCE_S + events / _LEAST_EVENTS_PER_S)


def _send_the_rest(sender: Sender, watch: Watch) -> None:
    sender.pace, sender.limit = None, 1 << 62
    sender.join()
    if sender.failures:
        raise TimeoutError(f"{len(sender.failures)} not sent, the first: {sender.failures[0]}")
    _await_processed(sender.sent, watch)


def _finish(
    crew: Crew, children: Children, servers: Servers, sender: Sender, tell: Callable[[str], None]
) -> None:
    """Let all windows become final, and all records come to Redis."""
    tell(f"all {sender.sent:,} events are sent and processed; closing the windows")
    crew.dismiss_all(PATIENCE_S)
    children.start("last-worker", "worker", "--exit-when-idle", str(_QUIET_S))
    children.finish("last-worker", PATIENCE_S + sender.sent / _LEAST_EVENTS_PER_S)
    servers.await_delivery(PATIENCE_S)


def _report(
    chosen: Run,
    load: Load,
    recoveries: Sequence[Recovery],
    crew: Crew,
    judgement: Judgement,
    seconds: float,
) -> Report:
    return Report(
        seed=chosen.seed,
        sent={str(kind): load.counts[kind] for kind in Kind},
        recoveries=recoveries,
        kills=crew.kills,
        restarts=crew.restarts,
        ends=dict(crew.ends),
        account=judgement.account,
        kpi_records=judgement.kpi_records,
        actions=judgement.actions,
        differences=judgement.differences,
        seconds=round(seconds, 1),
    )
