"""Settings: environment, then file, then local stack, then defaults; all faults told at once."""

import difflib
import json
import os
import re
import ssl
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal
from urllib.parse import urlsplit, urlunsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, StringConstraints, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

if TYPE_CHECKING:
    import faust

PREFIX = "ANDON_"
CONFIG_VARIABLE = "ANDON_CONFIG"
FAUST_SCHEME = "andon"

_STACK_ADDRESSES = ("kafka_bootstrap_servers", "redis_url")

_SHIPPED = Path(__file__).resolve().parents[1] / "deploy"
# Variables of this prefix that are not settings: the file's name, and where downloads are kept.
_NOT_SETTINGS = frozenset({CONFIG_VARIABLE, "ANDON_CACHE_DIR"})
# Kubernetes puts the address of every Service of the namespace into the environment: a Service
# called `andon-metrics` would otherwise set our metrics_port to "tcp://10.0.0.7:80".
_SERVICE_LINK = re.compile(r"^(tcp|udp|sctp)://")

Port = Annotated[int, Field(ge=0, le=65_535)]
Milliseconds = Annotated[int, Field(gt=0)]
Seconds = Annotated[float, Field(gt=0)]
Servers = Annotated[str, StringConstraints(pattern=r"^[^\s,:/]+:\d+(,[^\s,:/]+:\d+)*$")]
RedisUrl = Annotated[str, StringConstraints(pattern=r"^(rediss?|unix)://")]
HttpUrl = Annotated[str, StringConstraints(pattern=r"^https?://[^\s/]+")]
ApplicationId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9.-]{1,200}$")]

# What a pattern asks for, in words.
_FORMS = {
    "kafka_bootstrap_servers": "host:port, several joined by commas",
    "redis_url": "a URL such as redis://host:6379/0",
    "schema_registry_url": "a URL such as https://host:8081",
    "application_id": "letters, digits, '.' and '-'",
}


class SettingsError(Exception):
    """Settings that cannot be worked with; `faults` holds every one of them, in words."""

    exit_code = 2
    next_step = f"correct them in the environment or in the file that {CONFIG_VARIABLE} names"

    def __init__(self, faults: list[str]) -> None:
        self.faults = tuple(faults)
        super().__init__("\n  ".join(["settings refused:", *faults]))


def default_state_dir(environment: Mapping[str, str] = os.environ) -> Path:
    """Return where servers keep files and pids: XDG's state directory, or one in the system's temp.

    The latter only where there is no home directory at all.
    """
    return _user_dir(environment, "XDG_STATE_HOME", ".local/state")


def cache_dir(environment: Mapping[str, str] = os.environ) -> Path:
    """Return where downloads are kept, shared by all local stacks of a user.

    `ANDON_CACHE_DIR` names it; otherwise XDG's cache directory.
    """
    chosen = environment.get("ANDON_CACHE_DIR")
    return Path(chosen).absolute() if chosen else _user_dir(environment, "XDG_CACHE_HOME", ".cache")


def _user_dir(environment: Mapping[str, str], variable: str, below_home: str) -> Path:
    if environment.get(variable):
        return Path(environment[variable]) / "andon"
    home = environment.get("HOME", "")
    if Path(home).is_absolute() and os.access(home, os.W_OK):
        return Path(home) / below_home / "andon"
    return Path(tempfile.gettempdir()) / f"andon-{os.getuid()}"


def local_stack_file(state_dir: Path) -> Path:
    """Return the file in which a running local stack publishes its addresses.

    It holds the settings `kafka_bootstrap_servers` and `redis_url` as a JSON object.
    """
    return state_dir / "stack" / "addresses.json"


class Settings(BaseModel):
    """Everything an operator may choose. Each field is `ANDON_` + its name in the environment."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    kafka_bootstrap_servers: Servers = "127.0.0.1:9092"
    kafka_security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    kafka_sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] | None = None
    kafka_sasl_username: str | None = None
    kafka_sasl_password: SecretStr | None = None
    kafka_ssl_ca_location: Path | None = None
    kafka_ssl_certificate_location: Path | None = None
    kafka_ssl_key_location: Path | None = None
    kafka_ssl_key_password: SecretStr | None = None
    redis_url: RedisUrl = "redis://127.0.0.1:6379/0"
    schema_registry_url: HttpUrl | None = None

    state_dir: Path = Field(default_factory=default_state_dir)
    application_id: ApplicationId = "andon"
    kpis_dir: Path = _SHIPPED / "kpis"
    rules_dir: Path = _SHIPPED / "rules"
    topics_file: Path | None = None

    flush_interval_ms: Milliseconds = 400
    flush_max_events: Annotated[int, Field(gt=0)] = 200_000
    fetch_max_records: Annotated[int, Field(gt=0)] = 20_000
    fetch_budget_bytes: Annotated[int, Field(ge=1 << 20)] = 256 << 20
    transaction_timeout_ms: Milliseconds = 10_000
    session_timeout_ms: Milliseconds = 6_000
    heartbeat_interval_ms: Milliseconds = 300
    idle_timeout_s: Seconds = 30.0
    checkpoint_interval_s: Seconds = 10.0
    stall_timeout_s: Seconds = Field(
        default=60.0,
        description="a worker that gets nowhere for so long, or gets no answer, ends itself",
    )
    dead_letter_limit: Annotated[float, Field(gt=0, le=1)] = Field(
        default=0.5,
        description="share of dead letters that stops a stream, so that a bad deploy cannot drain"
        " it; 1 never stops",
    )
    dead_letter_minimum: Annotated[int, Field(gt=0)] = Field(
        default=1_000, description="records seen before the share of dead letters is judged"
    )

    metrics_host: str = "127.0.0.1"
    metrics_port: Port = 0
    log_format: Literal["auto", "json", "console"] = "auto"
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"

    own_kafka: bool = Field(
        default=False, description="derived: the brokers were chosen by environment or file"
    )
    own_redis: bool = Field(
        default=False, description="derived: the Redis was chosen by environment or file"
    )

    def kafka_client(self, **more: str | int | float | bool) -> dict[str, Any]:
        """Return librdkafka's configuration of a client, TLS and SASL included, plus `more`.

        Names in `more` are written with `_` for librdkafka's `.`.
        """
        config = {
            "bootstrap.servers": self.kafka_bootstrap_servers,
            "client.id": self.application_id,
            # Below warnings librdkafka tells of its own tidying up.
            "log_level": 5,
            "security.protocol": self.kafka_security_protocol,
            "sasl.mechanism": self.kafka_sasl_mechanism,
            "sasl.username": self.kafka_sasl_username,
            "sasl.password": _reveal(self.kafka_sasl_password),
            "ssl.ca.location": _text(self.kafka_ssl_ca_location),
            "ssl.certificate.location": _text(self.kafka_ssl_certificate_location),
            "ssl.key.location": _text(self.kafka_ssl_key_location),
            "ssl.key.password": _reveal(self.kafka_ssl_key_password),
            **{name.replace("_", "."): value for name, value in more.items()},
        }
        return {name: value for name, value in config.items() if value is not None}

    def faust_broker(self) -> list[str]:
        """Return the brokers as Faust's URLs, with the scheme of the batch transport."""
        return [f"{FAUST_SCHEME}://{server}" for server in self.kafka_bootstrap_servers.split(",")]

    def faust_credentials(self) -> "faust.SSLCredentials | faust.SASLCredentials | None":
        """Return Faust's form of the same TLS and SASL settings, None for plain text."""
        import faust

        if self.kafka_security_protocol == "PLAINTEXT":
            return None
        context = self._ssl_context() if self.kafka_security_protocol.endswith("SSL") else None
        if self.kafka_security_protocol == "SSL":
            return faust.SSLCredentials(context)
        return faust.SASLCredentials(
            username=self.kafka_sasl_username,
            password=_reveal(self.kafka_sasl_password),
            mechanism=self.kafka_sasl_mechanism,
            ssl_context=context,
        )

    def _ssl_context(self) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=_text(self.kafka_ssl_ca_location))
        if self.kafka_ssl_certificate_location is not None:
            context.load_cert_chain(
                self.kafka_ssl_certificate_location,
                self.kafka_ssl_key_location,
                password=_reveal(self.kafka_ssl_key_password),
            )
        return context

    def public(self) -> dict[str, Any]:
        """Return every setting fit for a log line: secrets and passwords in URLs are stars."""
        values = self.model_dump(mode="json")
        for name in ("redis_url", "schema_registry_url"):
            values[name] = without_password(values[name])
        return values


def without_password(url: str | None) -> str | None:
    """Return the URL with stars in place of its password.

    >>> without_password("redis://andon:secret@cache:6379/0")
    'redis://andon:***@cache:6379/0'
    """
    if url is None or urlsplit(url).password is None:
        return url
    parts = urlsplit(url)
    address = parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=f"{parts.username or ''}:***@{address}"))


def _reveal(secret: SecretStr | None) -> str | None:
    return None if secret is None else secret.get_secret_value()


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)


def load_settings(environment: Mapping[str, str] = os.environ) -> Settings:
    """Return the settings of this process.

    Raises SettingsError with all faults: those of single values and those between values.
    """
    faults: list[str] = []
    values, origins = _gather(environment, faults)
    settings, refused = _validate(values, origins, faults)
    faults.extend(_conflicts(settings, refused))
    if faults:
        raise SettingsError(faults)
    return settings


def _gather(
    environment: Mapping[str, str], faults: list[str]
) -> tuple[dict[str, Any], dict[str, str]]:
    """Return values by field and, for messages, where each came from."""
    from_file, file_origins = _from_file(environment.get(CONFIG_VARIABLE), faults)
    from_environment = _from_environment(environment, faults)
    values = {**from_file, **from_environment}
    origins = {**file_origins, **{name: PREFIX + name.upper() for name in from_environment}}
    chosen = set(values)
    state_dir = Path(str(values.get("state_dir", default_state_dir(environment)))).absolute()
    values["state_dir"] = state_dir
    stack = _from_local_stack(local_stack_file(state_dir))
    return {
        **stack,
        **values,
        "own_kafka": "kafka_bootstrap_servers" in chosen,
        "own_redis": "redis_url" in chosen,
    }, origins


def _settable() -> list[str]:
    return [name for name in Settings.model_fields if name not in ("own_kafka", "own_redis")]


def _from_environment(environment: Mapping[str, str], faults: list[str]) -> dict[str, str]:
    known = {PREFIX + name.upper(): name for name in _settable()}
    values = {}
    for variable, value in environment.items():
        if not variable.startswith(PREFIX) or variable in _NOT_SETTINGS:
            continue
        if variable not in known:
            faults.extend(_misspelt(variable, known))
        elif _SERVICE_LINK.match(value):
            faults.append(
                f"{variable}: {value} is a kubernetes service link,"
                " expected a setting; set enableServiceLinks: false on the pod"
            )
        elif value != "":
            values[known[variable]] = value
    return values


def _misspelt(variable: str, known: Mapping[str, str]) -> Iterator[str]:
    # Only what is nearly a setting is refused: ANDON_SERVICE_HOST and its like are not ours.
    for near in difflib.get_close_matches(variable, known, n=1, cutoff=0.85):
        yield f"{variable}: no such setting, expected {near}"


def _from_file(name: str | None, faults: list[str]) -> tuple[dict[str, Any], dict[str, str]]:
    if not name:
        return {}, {}
    try:
        content = YAML(typ="safe").load(Path(name))
    except OSError as error:
        faults.append(f"{CONFIG_VARIABLE}: {name} cannot be read ({error.strerror})")
        return {}, {}
    except YAMLError as error:
        faults.append(f"{CONFIG_VARIABLE}: {name} is not YAML ({' '.join(str(error).split())})")
        return {}, {}
    if not isinstance(content or {}, dict):
        faults.append(f"{name}: {type(content).__name__}, expected a mapping of settings")
        return {}, {}
    values = {str(key): value for key, value in (content or {}).items() if value is not None}
    for key in sorted(values.keys() - set(_settable())):
        near = difflib.get_close_matches(key, _settable(), n=1)
        faults.append(f"{name}: {key}: no such setting{f', expected {near[0]}' if near else ''}")
        del values[key]
    return values, {key: f"{name}: {key}" for key in values}


def _from_local_stack(file: Path) -> dict[str, str]:
    try:
        addresses = json.loads(file.read_text())
    except (OSError, ValueError):
        return {}
    if not isinstance(addresses, dict):
        return {}
    return {
        name: addresses[name] for name in _STACK_ADDRESSES if isinstance(addresses.get(name), str)
    }


_Fault = tuple[tuple[str, ...], str]  # names of the settings that disagree; what is wrong


def _validate(
    values: dict[str, Any], origins: Mapping[str, str], faults: list[str]
) -> tuple[Settings, set[str]]:
    """Return settings with defaults in place of refused values, and the names of those."""
    try:
        return Settings.model_validate(values), set()
    except ValidationError as error:
        refused = {str(fault["loc"][0]) for fault in error.errors()}
        for fault in error.errors(include_url=False):
            name = str(fault["loc"][0])
            found = "a secret" if "password" in name else repr(fault["input"])
            pattern_missed = fault["type"] == "string_pattern_mismatch"
            expected = _FORMS[name] if pattern_missed else _expected(str(fault["msg"]))
            faults.append(f"{origins.get(name, name)}: {found}, expected {expected}")
    kept = {name: value for name, value in values.items() if name not in refused}
    return Settings.model_validate(kept), refused


def _expected(message: str) -> str:
    """Return pydantic's sentence as the end of ours: 'Input should be 1 or 2' as '1 or 2'."""
    message = re.sub(r", unable to parse.*$", "", message)
    return re.sub(r"^(Input|String|Value) should (be |match )?", "", message)


def _conflicts(settings: Settings, refused: set[str]) -> Iterator[str]:
    """Yield faults between values; a refused value takes part in none, its own fault is told."""
    checks = (_security, _client_certificate, _files, _timeouts)
    for check in checks:
        for names, fault in check(settings):
            if refused.isdisjoint(names):
                yield f"{PREFIX}{names[0].upper()}: {fault}"


def _security(settings: Settings) -> Iterator[_Fault]:
    protocol = settings.kafka_security_protocol
    sasl = ("kafka_sasl_mechanism", "kafka_sasl_username", "kafka_sasl_password")
    for name in sasl:
        given = getattr(settings, name) is not None
        if protocol.startswith("SASL") and not given:
            yield (name, "kafka_security_protocol"), f"not set, expected a value with {protocol}"
        if given and not protocol.startswith("SASL"):
            yield (
                (name, "kafka_security_protocol"),
                f"set, expected a SASL_ value of ANDON_KAFKA_SECURITY_PROTOCOL, found {protocol}",
            )
    tls = ("kafka_ssl_ca_location", "kafka_ssl_certificate_location", "kafka_ssl_key_location")
    for name in tls:
        if getattr(settings, name) is not None and not protocol.endswith("SSL"):
            yield (
                (name, "kafka_security_protocol"),
                f"set, expected SSL or SASL_SSL as ANDON_KAFKA_SECURITY_PROTOCOL, found {protocol}",
            )


def _client_certificate(settings: Settings) -> Iterator[_Fault]:
    names = ("kafka_ssl_certificate_location", "kafka_ssl_key_location")
    certificate, key = (getattr(settings, name) for name in names)
    if (certificate is None) != (key is None):
        missing = names if certificate is None else names[::-1]
        yield missing, f"not set, expected beside {PREFIX}{missing[1].upper()}"


def _files(settings: Settings) -> Iterator[_Fault]:
    for name in ("kafka_ssl_ca_location", "kafka_ssl_certificate_location", "topics_file"):
        file = getattr(settings, name)
        if file is not None and not file.is_file():
            yield (name,), f"{file} is not there, expected a file"
    if settings.kafka_ssl_key_location and not settings.kafka_ssl_key_location.is_file():
        yield (
            ("kafka_ssl_key_location",),
            f"{settings.kafka_ssl_key_location} is not there, expected a file",
        )
    for name in ("kpis_dir", "rules_dir"):
        directory = getattr(settings, name)
        if name in settings.model_fields_set and not directory.is_dir():
            yield (name,), f"{directory} is not there, expected a directory"


def _timeouts(settings: Settings) -> Iterator[_Fault]:
    # Kafka's own advice: two lost heartbeats must not cost the membership.
    if settings.heartbeat_interval_ms * 3 > settings.session_timeout_ms:
        yield (
            ("heartbeat_interval_ms", "session_timeout_ms"),
            f"{settings.heartbeat_interval_ms}, expected at most a third of"
            f" ANDON_SESSION_TIMEOUT_MS ({settings.session_timeout_ms})",
        )
    if settings.flush_interval_ms * 4 > settings.transaction_timeout_ms:
        yield (
            ("flush_interval_ms", "transaction_timeout_ms"),
            f"{settings.flush_interval_ms}, expected at most a quarter of"
            f" ANDON_TRANSACTION_TIMEOUT_MS ({settings.transaction_timeout_ms})",
        )
    # A transaction that is slow, or times out, tells of it by itself.
    if settings.stall_timeout_s * 1000 <= settings.transaction_timeout_ms:
        yield (
            ("stall_timeout_s", "transaction_timeout_ms"),
            f"{settings.stall_timeout_s:g}, expected more than"
            f" ANDON_TRANSACTION_TIMEOUT_MS ({settings.transaction_timeout_ms})",
        )
