"""An invalid setting stops the process with one sentence; no output contains a secret."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from common.observability.redaction import Redactor
from common.settings import BrokerSettings
from devstack import warm
from devstack.endpoints import ENCRYPTION_KEY

EXAMPLE = Path(__file__).resolve().parents[2] / "endpoints.example.toml"

GOOD = {
    "RABBITMQ_URL": "amqp://user:hunter22@127.0.0.1:1/vhost",
    "ENDPOINTS_FILE": str(EXAMPLE),
    "DATABASE_URL": "postgresql://user:hunter22@127.0.0.1:1/db",
    "HTTP_PORT": "0",  # any free port
    "ENCRYPTION_KEYS": ENCRYPTION_KEY,
}


def _start(module: str, role: str, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return warm.run(module, [role], env, timeout=60)


@pytest.mark.parametrize(
    ("module", "role", "changes", "sentence"),
    [
        ("webhook_gateway", "api", {"RABBITMQ_URL": None}, "RABBITMQ_URL is not set."),
        (
            "webhook_gateway",
            "api",
            {"RABBITMQ_URL": "http://user:hunter22@host"},
            "RABBITMQ_URL is wrong: must look like amqp://user:password@host:5672/vhost.",
        ),
        (
            "webhook_gateway",
            "api",
            {"ENDPOINTS_FILE": "/nowhere/endpoints.toml"},
            "ENDPOINTS_FILE is wrong: /nowhere/endpoints.toml can't be read: No such file or "
            "directory.",
        ),
        (
            "webhook_gateway",
            "api",
            {"ENDPOINTS_FILE": __file__},
            f"ENDPOINTS_FILE is wrong: {__file__} is not valid TOML: Expected '=' after a key in a "
            "key/value pair (at line 1, column 3).",
        ),
        (
            "webhook_gateway",
            "api",
            {"RETRY_LADDER": "5s,soon"},
            "RETRY_LADDER is wrong: 'soon' is not a delay such as 5s, 2m or 1h.",
        ),
        (
            "subscription",
            "worker",
            {"DATABASE_URL": "mysql://user:hunter22@host/db"},
            "DATABASE_URL is wrong: must look like postgresql://user:password@host:5432/database.",
        ),
        (
            "subscription",
            "api",
            {"AUTH_ISSUER": "https://login.example.com/"},
            "AUTH_JWKS_FILE or AUTH_JWKS_URL must be set, and only one of them.",
        ),
        (
            "subscription",
            "api",
            {"AUTH_JWKS_URL": "https://login.example.com/jwks.json"},
            "AUTH_ISSUER is not set.",
        ),
        ("subscription", "migrate", {"DATABASE_URL": None}, "DATABASE_URL is not set."),
        (
            "subscription",
            "migrate",
            {"DATABASE_URL": "postgresql://user:hunter22@host:port/db"},
            "DATABASE_URL is wrong: must look like postgresql://user:password@host:5432/database.",
        ),
        (
            "subscription",
            "api",
            {"AUTH_ISSUER": "https://login.example.com/", "AUTH_JWKS_FILE": __file__},
            "AUTH_JWKS_FILE is wrong: contains no JSON Web Key Set with a usable key.",
        ),
        (
            "provisioning",
            "worker",
            {"BACKEND_URL": "http://127.0.0.1:1", "BACKEND_TOKEN": "hunter22\u00e9"},
            "BACKEND_TOKEN is wrong: must be printable ASCII and not empty, because it is sent in "
            "a header.",
        ),
        (
            "webhook_gateway",
            "api",
            {"SHUTDOWN_GRACE_SECONDS": "inf"},
            "SHUTDOWN_GRACE_SECONDS is wrong: Input should be less than or equal to 3600.",
        ),
    ],
)
def test_a_broken_setting_stops_the_process_with_a_sentence_that_names_it(
    module: str, role: str, changes: dict[str, str | None], sentence: str
) -> None:
    env = {key: value for key, value in (GOOD | changes).items() if value is not None}
    ended = _start(module, role, env)
    assert ended.returncode == 2
    assert ended.stderr.strip() == sentence
    assert "hunter22" not in ended.stdout + ended.stderr


@pytest.mark.parametrize("named_by", ["SECRETS_DIR", "CREDENTIALS_DIRECTORY"])
def test_settings_may_be_files(
    named_by: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As Compose and systemd provide secrets. The environment goes first."""
    (tmp_path / "rabbitmq_url").write_text("amqp://user:hunter22@file/vhost\n")
    (tmp_path / "retry_ladder").write_text("1s")
    monkeypatch.delenv("RABBITMQ_URL", raising=False)
    monkeypatch.setenv("RETRY_LADDER", "2s")
    monkeypatch.setenv(named_by, str(tmp_path))
    settings = BrokerSettings()
    assert settings.rabbitmq_url.get_secret_value() == "amqp://user:hunter22@file/vhost"
    assert settings.retry_ladder == "2s"


def test_a_broken_file_is_named_like_the_variable(tmp_path: Path) -> None:
    (tmp_path / "rabbitmq_url").write_text("http://user:hunter22@host")
    env = {key: value for key, value in GOOD.items() if key != "RABBITMQ_URL"}
    ended = _start("webhook_gateway", "api", env | {"SECRETS_DIR": str(tmp_path)})
    assert ended.returncode == 2
    sentence = "RABBITMQ_URL is wrong: must look like amqp://user:password@host:5672/vhost."
    assert ended.stderr.strip() == sentence


SECRETS = ["postgresql://user:p%40ssw0rd@host/db", "whsec_known", "short"]


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("at postgresql://user:p%40ssw0rd@host/db", "at postgresql://[secret]host/db"),
        ("password p%40ssw0rd or p@ssw0rd", "password [secret] or [secret]"),
        ("key whsec_known!", "key [secret]!"),
        ("key whsec_unknown123!", "key [secret]!"),
        ("sk_live_abc123 and sk_test_9", "[secret] and [secret]"),
        ("Authorization: Bearer abc.def-ghi", "Authorization: [secret]"),
        ("amqp://u:p@broker:5672/v", "amqp://[secret]broker:5672/v"),
        ("https://example.com/path?a=b@c", "https://example.com/path?a=b@c"),
        ("nothing to hide", "nothing to hide"),
    ],
)
def test_texts_are_cleaned_of_secrets(text: str, clean: str) -> None:
    assert Redactor(SECRETS)(text) == clean
