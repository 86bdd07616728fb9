"""A file that the process's user may not read is one sentence, not a traceback in a loop."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from common import settings
from devstack.tokens import DevKeys
from subscription.settings import AccountsSettings
from webhook_gateway.settings import ApiSettings

_CONTAINERS_USER = 10001


@contextmanager
def _as_the_containers_user() -> Iterator[None]:
    """Root may read everything, so the test must not be root meanwhile."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(_CONTAINERS_USER)
    try:
        yield
    finally:
        os.seteuid(0)


def _refused(model: type[settings.Settings], capsys: pytest.CaptureFixture[str]) -> str:
    with _as_the_containers_user(), pytest.raises(SystemExit) as ended:
        settings.load_or_exit(model)
    assert ended.value.code == 2
    return capsys.readouterr().err


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """Its folders are open to all, in which another user finds only what each test closes."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@pytest.fixture(autouse=True)
def _other_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://u:p@127.0.0.1/db")
    monkeypatch.setenv("RABBITMQ_URL", "amqp://u:p@127.0.0.1/")
    monkeypatch.setenv("ENCRYPTION_KEYS", "ZGV2ZWxvcG1lbnQtb25seS1rZXktMzItYnl0ZXMtbG8=")
    monkeypatch.setenv("AUTH_ISSUER", "issuer")


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("ENDPOINTS_FILE", ApiSettings),
        ("ACCOUNTS_FILE", AccountsSettings),
        ("AUTH_JWKS_FILE", settings.AuthSettings),
    ],
)
@pytest.mark.parametrize("of", ["the file", "its folder"])
def test_an_unreadable_file_is_named_with_what_to_do(
    name: str,
    model: type[settings.Settings],
    of: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = tmp_path / "folder" / "file"
    file.parent.mkdir()
    file.touch()
    (file if of == "the file" else file.parent).chmod(0)
    monkeypatch.setenv(name, str(file))
    said = _refused(model, capsys)
    file.parent.chmod(0o700)
    user = _CONTAINERS_USER if os.geteuid() == 0 else os.geteuid()
    assert f"{name} is wrong: {file} can't be read: Permission denied." in said
    assert f"This process runs as user {user}: make the file" in said


def test_an_inaccessible_spool_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    closed = tmp_path / "closed"
    (closed / "spool").mkdir(parents=True)
    closed.chmod(0)
    endpoints = tmp_path / "endpoints.toml"
    endpoints.touch(0o644)
    monkeypatch.setenv("ENDPOINTS_FILE", str(endpoints))
    monkeypatch.setenv("WEBHOOK_SPOOL_DIR", str(closed / "spool"))
    said = _refused(ApiSettings, capsys)
    closed.chmod(0o700)
    assert f"{closed / 'spool'} can't be read: Permission denied." in said


@pytest.mark.parametrize("umask", [0o077, 0o022])
def test_another_user_reads_the_public_key_whatever_the_umask(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        keys = DevKeys(tmp_path / "keys")
    finally:
        os.umask(before)
    assert keys.jwks.stat().st_mode & 0o777 == 0o644
    assert (tmp_path / "keys" / "private.pem").stat().st_mode & 0o777 == 0o600
    # Made with an older version, by a user whose umask was 077.
    keys.jwks.chmod(0o600)
    assert DevKeys(tmp_path / "keys").jwks.stat().st_mode & 0o777 == 0o644
