"""The catalogue of topics: what `topics.yaml` says, and making a broker agree with it."""

import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, cast, get_args

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient, ConfigResource, NewTopic, ResourceType
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from schemas.contract import contract_names
from schemas.errors import CatalogueError

INTERACTIONS = "contact-centre.interactions.v1"
SURVEYS = "contact-centre.surveys.v1"
EVALUATIONS = "contact-centre.evaluations.v1"
PARTIALS = "andon.partials"
KPIS = "andon.kpis.v1"
ACTIONS = "andon.actions.v1"
SUPPRESSIONS = "andon.suppressions.v1"
ACTION_EVENTS = "andon.action-events.v1"
AS_OF = "andon.as-of.v1"
WATERMARKS = "andon.watermarks.v1"
DEAD_LETTERS = "andon.dead-letters.v1"
LATE = "andon.late.v1"

#: What a merge writes lies in its own partition of each of these.
RESULTS = (KPIS, ACTIONS, SUPPRESSIONS, AS_OF)

TOPICS_FILE = Path(__file__).parent / "topics.yaml"

Role = Literal["input", "internal", "output"]

COMPATIBILITIES = (
    "NONE", "BACKWARD", "BACKWARD_TRANSITIVE", "FORWARD", "FORWARD_TRANSITIVE",
    "FULL", "FULL_TRANSITIVE",
)  # fmt: skip

_UNITS_MS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_SPANS = ("disorder", "grace", "reach")
_KEYS = frozenset(
    (
        *("name", "contract", "role", "key", "partitions"),
        *("compatibility", "changelog", "restatable", "config", "reaches", *_SPANS),
    )
)
_TIMEOUT_S = 30.0
_POLL_S = 0.02


@dataclass(frozen=True, slots=True)
class Topic:
    """One topic; `config` is the broker's, spans are 0 for topics that are no input.

    `restatable` says that a higher version of an event replaces the one before it; `reaches` has
    the reach of count times, by name, that differ from the topic's own.
    """

    name: str
    contract: str | None
    role: Role
    key: str
    partitions: int
    config: Mapping[str, str]
    compatibility: str | None
    changelog: str | None
    disorder_ms: int
    grace_ms: int
    reach_ms: int
    reaches: Mapping[str, int] = field(default_factory=dict)
    restatable: bool = False

    def reach_of_ms(self, count_time: str) -> int:
        """Return how far before event_time this count time may lie, in ms."""
        return self.reaches.get(count_time, self.reach_ms)


@dataclass(frozen=True, slots=True)
class Catalogue:
    """All topics, in the order of the file."""

    topics: tuple[Topic, ...]
    _by_name: Mapping[str, Topic] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_by_name", {topic.name: topic for topic in self.topics})

    def __getitem__(self, name: str) -> Topic:
        return self._by_name[name]

    def __contains__(self, name: object) -> bool:
        return name in self._by_name

    def __iter__(self) -> Iterator[Topic]:
        return iter(self.topics)

    @property
    def inputs(self) -> tuple[Topic, ...]:
        """The topics that others write."""
        return tuple(topic for topic in self.topics if topic.role == "input")


def parse_span_ms(text: str) -> int:
    """Return a span such as `500ms`, `2s`, `15m`, `1h` or `3d` in ms; raise ValueError.

    >>> parse_span_ms("15m")
    900000
    """
    digits = text.rstrip("abcdefghijklmnopqrstuvwxyz")
    unit = text[len(digits) :]
    if not digits.isdecimal() or unit not in _UNITS_MS:
        raise ValueError(f"{text!r}, expected a whole number and one of {', '.join(_UNITS_MS)}")
    return int(digits) * _UNITS_MS[unit]


def load_catalogue(path: Path | None = None) -> Catalogue:
    """Read the catalogue from `path`, or the shipped one; raise CatalogueError with all faults."""
    path = path or TOPICS_FILE
    try:
        document = YAML(typ="safe").load(path)
    except (OSError, YAMLError) as problem:
        raise CatalogueError(f"{path}: {problem}") from problem
    if not isinstance(document, dict) or not isinstance(document.get("topics"), list):
        raise CatalogueError(f"{path}: no list of topics, expected `topics:` with one entry each")
    faults: list[str] = []
    defaults = document.get("defaults", {})
    topics = [_topic(entry, defaults, faults) for entry in document["topics"]]
    known = [topic for topic in topics if topic is not None]
    faults += _faults_between(known)
    if faults:
        raise CatalogueError("\n".join(f"{path}: {fault}" for fault in faults))
    return Catalogue(tuple(known))


def _topic(entry: Any, defaults: Mapping[str, Any], faults: list[str]) -> Topic | None:
    name = entry.get("name") if isinstance(entry, dict) else None
    if not isinstance(name, str) or not name:
        faults.append(f"topics: {entry!r}, expected a topic with a name")
        return None
    found = list(_faults_of(name, entry))
    if found:
        faults += found
        return None
    contract = entry.get("contract")
    return Topic(
        name=name,
        contract=contract,
        role=cast(Role, entry["role"]),
        key=entry.get("key", ""),
        partitions=entry["partitions"],
        config=_config(defaults.get("config", {}) | entry.get("config", {})),
        compatibility=entry.get("compatibility", defaults.get("compatibility"))
        if contract
        else None,
        changelog=entry.get("changelog"),
        disorder_ms=parse_span_ms(entry.get("disorder", "0s")),
        grace_ms=parse_span_ms(entry.get("grace", "0s")),
        reach_ms=parse_span_ms(entry.get("reach", "0s")),
        reaches={name: parse_span_ms(span) for name, span in entry.get("reaches", {}).items()},
        restatable=entry.get("restatable", False),
    )


def _faults_of(name: str, entry: Mapping[str, Any]) -> Iterator[str]:
    for unknown in sorted(entry.keys() - _KEYS):
        yield f"{name}.{unknown}: unknown, expected one of {', '.join(sorted(_KEYS))}"
    if entry.get("role") not in get_args(Role):
        yield f"{name}.role: {entry.get('role')!r}, expected one of {', '.join(get_args(Role))}"
    if not isinstance(entry.get("partitions"), int) or entry["partitions"] < 1:
        yield f"{name}.partitions: {entry.get('partitions')!r}, expected a whole number from 1"
    if entry.get("contract") not in (None, *contract_names()):
        expected = ", ".join(contract_names())
        yield f"{name}.contract: {entry['contract']!r}, expected one of {expected}"
    if not isinstance(entry.get("restatable", False), bool):
        yield f"{name}.restatable: {entry['restatable']!r}, expected true or false"
    if entry.get("compatibility") not in (None, *COMPATIBILITIES):
        yield f"{name}.compatibility: {entry['compatibility']!r}, expected one of {COMPATIBILITIES}"
    if "_" in name:
        yield f"{name}: has '_', expected '.' and '-' only since metrics confuse '_' with '.'"
    spans = {f"{name}.{span}": entry.get(span, "0s") for span in _SPANS}
    spans |= {f"{name}.reaches.{time}": span for time, span in entry.get("reaches", {}).items()}
    retention = entry.get("config", {}).get("retention.ms", "0s")
    for where, span in {**spans, f"{name}.config.retention.ms": retention}.items():
        try:
            parse_span_ms(str(span))
        except ValueError as problem:
            yield f"{where}: {problem}"


def _faults_between(topics: list[Topic]) -> Iterator[str]:
    by_name: dict[str, Topic] = {}
    for topic in topics:
        if topic.name in by_name:
            yield f"{topic.name}: twice, expected once"
        by_name[topic.name] = topic
    for topic in topics:
        changelog = by_name.get(topic.changelog or "")
        if topic.changelog and changelog is None:
            yield f"{topic.name}.changelog: {topic.changelog!r}, expected a topic of the catalogue"
        elif changelog and changelog.partitions != topic.partitions:
            yield (
                f"{topic.changelog}.partitions: {changelog.partitions}, "
                f"expected {topic.partitions} as {topic.name}"
            )
    yield from _faults_of_results(by_name)


def _faults_of_results(by_name: Mapping[str, Topic]) -> Iterator[str]:
    """Yield results that do not lie where the partials they follow from lie."""
    partials = by_name.get(PARTIALS)
    if partials is None:
        return
    for name in RESULTS:
        if name in by_name and by_name[name].partitions != partials.partitions:
            yield (
                f"{name}.partitions: {by_name[name].partitions}, "
                f"expected {partials.partitions} as {PARTIALS}"
            )


def _config(raw: Mapping[str, Any]) -> dict[str, str]:
    config = {name: str(value) for name, value in raw.items()}
    if "retention.ms" in config:
        config["retention.ms"] = str(parse_span_ms(config["retention.ms"]))
    if config.get("cleanup.policy") == "compact":
        config.pop("retention.ms", None)
    return config


@dataclass(frozen=True, slots=True)
class TopicReport:
    """What a broker has of one topic of the catalogue.

    `differences` are lines such as `partitions: 3, expected 4`; an existing topic keeps them.
    """

    name: str
    state: Literal["created", "exists", "missing"]
    partitions: int
    replication_factor: int
    differences: tuple[str, ...] = ()


def describe_topics(admin: AdminClient, catalogue: Catalogue) -> list[TopicReport]:
    """Compare the broker's topics with the catalogue; raise KafkaException without an answer."""
    present = admin.list_topics(timeout=_TIMEOUT_S).topics
    names = [t.name for t in catalogue if t.name in present and not present[t.name].error]
    configs = _configs(admin, names)
    return [
        _compare(topic, present[topic.name], configs[topic.name])
        if topic.name in configs
        else TopicReport(topic.name, "missing", 0, 0)
        for topic in catalogue
    ]


def create_topics(
    admin: AdminClient, catalogue: Catalogue, *, replication_factor: int = -1
) -> list[TopicReport]:
    """Create what is missing, change nothing that exists, and report on every topic.

    A replication factor of -1 is the broker's default. Raise KafkaException where the broker
    refuses a topic, except that another process has made it meanwhile.
    """
    before = describe_topics(admin, catalogue)
    missing = [catalogue[report.name] for report in before if report.state == "missing"]
    if not missing:
        return before
    new = [
        NewTopic(t.name, t.partitions, replication_factor, config=dict(t.config)) for t in missing
    ]
    futures = admin.create_topics(new, operation_timeout=_TIMEOUT_S)
    created = {name for name, future in futures.items() if _was_created(future)}
    _wait_for(admin, {topic.name for topic in missing})
    after = describe_topics(admin, catalogue)
    return [replace(r, state="created") if r.name in created else r for r in after]


def _wait_for(admin: AdminClient, names: set[str]) -> None:
    """Return once the broker knows the topics: its controller answers before that."""
    deadline = time.monotonic() + _TIMEOUT_S
    while not names <= admin.list_topics(timeout=_TIMEOUT_S).topics.keys():
        if time.monotonic() > deadline:
            raise KafkaException(KafkaError(KafkaError._TIMED_OUT, "topics: not known yet"))  # noqa: SLF001
        time.sleep(_POLL_S)


def _was_created(future: "Future[None]") -> bool:
    try:
        future.result(_TIMEOUT_S)
    except KafkaException as problem:
        if problem.args[0].code() == KafkaError.TOPIC_ALREADY_EXISTS:
            return False
        raise
    return True


def _configs(admin: AdminClient, names: list[str]) -> dict[str, dict[str, str]]:
    if not names:
        return {}
    resources = [ConfigResource(ResourceType.TOPIC, name) for name in names]
    futures = admin.describe_configs(resources, request_timeout=_TIMEOUT_S)
    return {
        resource.name: {name: entry.value for name, entry in future.result(_TIMEOUT_S).items()}
        for resource, future in futures.items()
    }


def _compare(topic: Topic, present: Any, config: Mapping[str, str]) -> TopicReport:
    differences = []
    if len(present.partitions) != topic.partitions:
        differences.append(f"partitions: {len(present.partitions)}, expected {topic.partitions}")
    for name, expected in topic.config.items():
        found = config.get(name, "")
        if _normal(found) != _normal(expected):
            differences.append(f"{name}: {found}, expected {expected}")
    replicas = min((len(p.replicas) for p in present.partitions.values()), default=0)
    return TopicReport(topic.name, "exists", len(present.partitions), replicas, tuple(differences))


def _normal(value: str) -> str:
    """Return a list value in one order; brokers do not keep ours."""
    return ",".join(sorted(part.strip() for part in value.split(",")))
