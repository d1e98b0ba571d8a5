"""Settings: where they come from, and what a wrong one is told."""

import json
import ssl
import subprocess
from pathlib import Path

import faust
import pytest
from confluent_kafka import Producer
from faust.transport.drivers.aiokafka import credentials_to_aiokafka_auth

from streams.settings import (
    Settings,
    SettingsError,
    cache_dir,
    default_state_dir,
    load_settings,
    local_stack_file,
    without_password,
)


@pytest.fixture
def home(tmp_path: Path) -> dict[str, str]:
    """An environment with nothing but an empty home."""
    return {"HOME": str(tmp_path)}


def refused(environment: dict[str, str]) -> list[str]:
    with pytest.raises(SettingsError) as told:
        load_settings(environment)
    return sorted(told.value.faults)


def test_without_any_setting_everything_has_a_value(home: dict[str, str], tmp_path: Path) -> None:
    """An empty environment is a working one."""
    settings = load_settings(home)

    assert "127.0.0.1:9092" == settings.kafka_bootstrap_servers
    assert tmp_path / ".local" / "state" / "andon" == settings.state_dir
    assert (False, False) == (settings.own_kafka, settings.own_redis)


def test_the_environment_goes_before_the_file_and_the_file_before_the_stack(
    home: dict[str, str], tmp_path: Path
) -> None:
    """Each setting is taken from the first place that has it."""
    file = tmp_path / "andon.yaml"
    file.write_text(
        "redis_url: redis://file:6379/0\nflush_interval_ms: 400\nidle_timeout_s: 7\n"
        f"state_dir: {tmp_path / 'state'}\n"
    )
    stack = local_stack_file(tmp_path / "state")
    stack.parent.mkdir(parents=True)
    stack.write_text(
        json.dumps({"kafka_bootstrap_servers": "127.0.0.1:5", "redis_url": "redis://127.0.0.1:6"})
    )
    settings = load_settings(home | {"ANDON_CONFIG": str(file), "ANDON_FLUSH_INTERVAL_MS": "500"})

    assert 500 == settings.flush_interval_ms
    assert 7 == settings.idle_timeout_s
    assert ("redis://file:6379/0", True) == (settings.redis_url, settings.own_redis)
    assert ("127.0.0.1:5", False) == (settings.kafka_bootstrap_servers, settings.own_kafka)


def test_an_empty_variable_is_no_setting(home: dict[str, str]) -> None:
    """`ANDON_REDIS_URL=` in a compose file means the default, not an empty address."""
    assert not load_settings(home | {"ANDON_REDIS_URL": ""}).own_redis


def test_all_faults_are_told_together(home: dict[str, str], tmp_path: Path) -> None:
    """One start shows everything there is to correct, each with its place, in every source."""
    file = tmp_path / "andon.yaml"
    file.write_text("flush_max_events: many\nflush_intervall_ms: 3\nlog_level: LOUD\n")

    assert sorted(
        [
            f"{file}: flush_intervall_ms: no such setting, expected flush_interval_ms",
            f"{file}: flush_max_events: 'many', expected a valid integer",
            f"{file}: log_level: 'LOUD', expected 'DEBUG', 'INFO', 'WARNING' or 'ERROR'",
            "ANDON_HEARTBEAT_INTERVAL_MS: 1000, expected at most a third of"
            " ANDON_SESSION_TIMEOUT_MS (2000)",
            "ANDON_KAFKA_BOOTSTRAP_SERVER: no such setting, expected ANDON_KAFKA_BOOTSTRAP_SERVERS",
            "ANDON_KAFKA_SASL_MECHANISM: not set, expected a value with SASL_SSL",
            "ANDON_KAFKA_SASL_PASSWORD: not set, expected a value with SASL_SSL",
            "ANDON_KAFKA_SSL_CA_LOCATION: /nowhere/ca.pem is not there, expected a file",
            "ANDON_METRICS_PORT: '70000', expected less than or equal to 65535",
            "ANDON_RULES_DIR: /nowhere/rules is not there, expected a directory",
        ]
    ) == refused(
        home
        | {
            "ANDON_CONFIG": str(file),
            "ANDON_KAFKA_BOOTSTRAP_SERVER": "b:9092",
            "ANDON_KAFKA_SECURITY_PROTOCOL": "SASL_SSL",
            "ANDON_KAFKA_SASL_USERNAME": "andon",
            "ANDON_KAFKA_SSL_CA_LOCATION": "/nowhere/ca.pem",
            "ANDON_METRICS_PORT": "70000",
            "ANDON_RULES_DIR": "/nowhere/rules",
            "ANDON_SESSION_TIMEOUT_MS": "2000",
            "ANDON_HEARTBEAT_INTERVAL_MS": "1000",
        }
    )


def test_a_fault_between_two_values_waits_for_both_to_be_valid(home: dict[str, str]) -> None:
    """A refused value is told once; no second fault is made of its default."""
    assert ["ANDON_SESSION_TIMEOUT_MS: '1s', expected a valid integer"] == refused(
        home | {"ANDON_SESSION_TIMEOUT_MS": "1s"}
    )


@pytest.mark.parametrize(
    ("variable", "value", "expected"),
    [
        ("KAFKA_BOOTSTRAP_SERVERS", "kafka://b:9092", "host:port, several joined by commas"),
        ("KAFKA_BOOTSTRAP_SERVERS", "b", "host:port, several joined by commas"),
        ("REDIS_URL", "cache:6379", "a URL such as redis://host:6379/0"),
        ("FETCH_BUDGET_BYTES", "1000", "greater than or equal to 1048576"),
        ("DEAD_LETTER_LIMIT", "1.5", "less than or equal to 1"),
        ("DEAD_LETTER_MINIMUM", "0", "greater than 0"),
    ],
)
def test_a_bad_value_is_refused(
    home: dict[str, str], variable: str, value: str, expected: str
) -> None:
    """A value that no process could work with stops it before it has done anything."""
    (fault,) = refused(home | {f"ANDON_{variable}": value})

    assert f"ANDON_{variable}: '{value}', expected {expected}" == fault


def test_a_secret_is_not_repeated_in_a_fault(home: dict[str, str]) -> None:
    """An error goes to logs and screens."""
    faults = refused(home | {"ANDON_KAFKA_SASL_PASSWORD": "hush"})

    assert [
        "ANDON_KAFKA_SASL_PASSWORD: set, expected a SASL_ value of"
        " ANDON_KAFKA_SECURITY_PROTOCOL, found PLAINTEXT"
    ] == faults


def test_kubernetes_service_links_are_told_from_settings(home: dict[str, str]) -> None:
    """A Service named andon-metrics sets ANDON_METRICS_PORT; others of its kind do no harm."""
    links = {
        "ANDON_SERVICE_HOST": "10.0.0.7",
        "ANDON_PORT_6066_TCP": "tcp://10.0.0.7:6066",
        "ANDON_METRICS_PORT": "tcp://10.0.0.7:80",
    }

    assert [
        "ANDON_METRICS_PORT: tcp://10.0.0.7:80 is a kubernetes service link,"
        " expected a setting; set enableServiceLinks: false on the pod"
    ] == refused(home | links)


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        ("- a\n- b\n", "{file}: list, expected a mapping of settings"),
        ("a: [", "ANDON_CONFIG: {file} is not YAML"),
        (None, "ANDON_CONFIG: {file} cannot be read (No such file or directory)"),
    ],
)
def test_a_file_that_cannot_be_used_is_named(
    home: dict[str, str], tmp_path: Path, content: str | None, fault: str
) -> None:
    """A missing or broken file is a fault of its own, not silence."""
    file = tmp_path / "andon.yaml"
    if content is not None:
        file.write_text(content)

    (told,) = refused(home | {"ANDON_CONFIG": str(file)})

    assert told.startswith(fault.format(file=file))


@pytest.mark.parametrize("content", ["", "{", "[]", '{"redis_url": 1}'])
def test_a_broken_file_of_a_stack_is_no_stack(
    home: dict[str, str], tmp_path: Path, content: str
) -> None:
    """What a crash left half written does not stop `andon stack up` from mending it."""
    file = local_stack_file(tmp_path)
    file.parent.mkdir(parents=True)
    file.write_text(content)
    settings = load_settings(home | {"ANDON_STATE_DIR": str(tmp_path)})

    assert "redis://127.0.0.1:6379/0" == settings.redis_url


def test_plain_text_says_nothing_of_secrets() -> None:
    """Without TLS and SASL neither client gets a setting of them."""
    settings = Settings()

    assert {
        "bootstrap.servers": "127.0.0.1:9092",
        "client.id": "andon",
        "log_level": 5,
        "security.protocol": "PLAINTEXT",
    } == settings.kafka_client()
    assert {"security_protocol": "PLAINTEXT"} == credentials_to_aiokafka_auth(
        settings.faust_credentials()
    )


def test_further_settings_of_a_client_are_added() -> None:
    """`transactional_id` is librdkafka's `transactional.id`."""
    config = Settings().kafka_client(transactional_id="a", retry_backoff_ms=5)

    assert ("a", 5) == (config["transactional.id"], config["retry.backoff.ms"])


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate and its key, as an operator has them in files."""
    from datetime import UTC, datetime, timedelta

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "andon test")])
    now = datetime.now(UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now)
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    directory = tmp_path_factory.mktemp("certificate")
    (directory / "client.pem").write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    (directory / "client.key").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return directory / "client.pem", directory / "client.key"


def test_tls_reaches_both_clients(home: dict[str, str], certificate: tuple[Path, Path]) -> None:
    """One set of settings: CA, client certificate and key for librdkafka and for aiokafka."""
    pem, key = certificate
    settings = load_settings(
        home
        | {
            "ANDON_KAFKA_BOOTSTRAP_SERVERS": "a:9093,b:9093",
            "ANDON_KAFKA_SECURITY_PROTOCOL": "SSL",
            "ANDON_KAFKA_SSL_CA_LOCATION": str(pem),
            "ANDON_KAFKA_SSL_CERTIFICATE_LOCATION": str(pem),
            "ANDON_KAFKA_SSL_KEY_LOCATION": str(key),
        }
    )

    config = settings.kafka_client()
    assert {
        "bootstrap.servers": "a:9093,b:9093",
        "client.id": "andon",
        "log_level": 5,
        "security.protocol": "SSL",
        "ssl.ca.location": str(pem),
        "ssl.certificate.location": str(pem),
        "ssl.key.location": str(key),
    } == config
    Producer(config)  # librdkafka reads the files when the client is made

    assert ["andon://a:9093", "andon://b:9093"] == settings.faust_broker()
    auth = credentials_to_aiokafka_auth(settings.faust_credentials())
    assert "SSL" == auth["security_protocol"]
    context = auth["ssl_context"]
    assert isinstance(context, ssl.SSLContext)
    assert (ssl.CERT_REQUIRED, True) == (context.verify_mode, context.check_hostname)
    assert [((("commonName", "andon test"),),)] == [ca["subject"] for ca in context.get_ca_certs()]


@pytest.mark.parametrize("protocol", ["SASL_PLAINTEXT", "SASL_SSL"])
@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"])
def test_sasl_reaches_both_clients(home: dict[str, str], protocol: str, mechanism: str) -> None:
    """User, password and mechanism are the same for librdkafka and for aiokafka."""
    settings = load_settings(
        home
        | {
            "ANDON_KAFKA_SECURITY_PROTOCOL": protocol,
            "ANDON_KAFKA_SASL_MECHANISM": mechanism,
            "ANDON_KAFKA_SASL_USERNAME": "andon",
            "ANDON_KAFKA_SASL_PASSWORD": "hush",
        }
    )

    config = settings.kafka_client()
    assert (protocol, mechanism, "andon", "hush") == (
        config["security.protocol"],
        config["sasl.mechanism"],
        config["sasl.username"],
        config["sasl.password"],
    )
    Producer(config)

    credentials = settings.faust_credentials()
    assert isinstance(credentials, faust.SASLCredentials)
    auth = credentials_to_aiokafka_auth(credentials)
    assert (protocol, mechanism, "andon", "hush", protocol == "SASL_SSL") == (
        auth["security_protocol"],
        auth["sasl_mechanism"],
        auth["sasl_plain_username"],
        auth["sasl_plain_password"],
        auth["ssl_context"] is not None,
    )


def test_a_key_without_its_certificate_is_refused(
    home: dict[str, str], certificate: tuple[Path, Path]
) -> None:
    """Half a client certificate would be silently no client certificate."""
    assert [
        "ANDON_KAFKA_SSL_CERTIFICATE_LOCATION: not set, expected beside"
        " ANDON_KAFKA_SSL_KEY_LOCATION"
    ] == refused(
        home
        | {
            "ANDON_KAFKA_SECURITY_PROTOCOL": "SSL",
            "ANDON_KAFKA_SSL_KEY_LOCATION": str(certificate[1]),
        }
    )


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        (None, None),
        ("redis://cache:6379/0", "redis://cache:6379/0"),
        ("rediss://:hush@cache:6379/0?a=b", "rediss://:***@cache:6379/0?a=b"),
        ("https://andon:hush@registry", "https://andon:***@registry"),
    ],
)
def test_a_password_in_a_url_is_hidden(url: str | None, shown: str | None) -> None:
    """The rest of the address stays readable."""
    assert shown == without_password(url)


@pytest.mark.parametrize(
    ("environment", "state", "cache"),
    [
        ({"HOME": "{home}"}, "{home}/.local/state/andon", "{home}/.cache/andon"),
        (
            {"HOME": "{home}", "XDG_STATE_HOME": "/s", "XDG_CACHE_HOME": "/c"},
            "/s/andon",
            "/c/andon",
        ),
        ({"HOME": "{home}", "ANDON_CACHE_DIR": "/d"}, "{home}/.local/state/andon", "/d"),
    ],
)
def test_where_files_lie(
    tmp_path: Path, environment: dict[str, str], state: str, cache: str
) -> None:
    """State and downloads follow XDG; downloads may be put elsewhere."""
    given = {name: value.format(home=tmp_path) for name, value in environment.items()}

    assert Path(state.format(home=tmp_path)) == default_state_dir(given)
    assert Path(cache.format(home=tmp_path)) == cache_dir(given)


@pytest.mark.parametrize("environment", [{}, {"HOME": ""}, {"HOME": "/nonexistent"}])
def test_without_a_home_files_lie_in_the_systems_temp(environment: dict[str, str]) -> None:
    """A container's user often has no home; that must not write below the working directory."""
    assert default_state_dir(environment).is_absolute()
    assert default_state_dir(environment).name.startswith("andon-")


def test_the_command_line_tells_faults_and_the_next_step(home: dict[str, str]) -> None:
    """Wrong settings end a command with exit code 2, without a traceback."""
    done = _andon(home | {"ANDON_DEAD_LETTER_MINIMUM": "-1"}, "stack", "status")

    assert 2 == done.returncode
    assert (
        "andon: settings refused:\n"
        "  ANDON_DEAD_LETTER_MINIMUM: '-1', expected greater than 0\n"
        "next: correct them in the environment or in the file that ANDON_CONFIG names\n"
    ) == done.stderr


def _andon(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    import sys

    return subprocess.run(
        [sys.executable, "-m", "streams.cli", *arguments],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
