"""The version before this one, installed from this repository's history beside it."""

from __future__ import annotations

import gzip
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

from devstack.addresses import DevstackError
from devstack.processes.stack import PAYBUS
from devstack.processes.supervisor import say
from devstack.servers.postgres import psql

VERSION: Final = "0.2.0"
_COMMIT: Final = "38f4ce2a454e36bb380a860b375470b0127a2552"
_ROOT = Path(__file__).resolve().parents[2]
_DUMPS = _ROOT / "tests" / "integration" / "upgrade" / f"version-{VERSION}"


def restore(service: str, url: str) -> None:
    """Fill an empty database with what the previous version's demo left in the service's."""
    dump = gzip.decompress((_DUMPS / f"{service}.sql.gz").read_bytes())
    done = subprocess.run(
        [psql(), "--quiet", "--no-psqlrc", "-v", "ON_ERROR_STOP=1", url.replace("+psycopg", "")],
        input=dump,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()


def python() -> str:
    """Return the interpreter that has the previous version's services. Raises `DevstackError` in a
    clone without history."""
    folder = PAYBUS / f"version-{VERSION}"
    found = folder / "venv" / "bin" / "python"
    if not (folder / "complete").exists():
        say(f"installing version {VERSION} beside this one ...")
        shutil.rmtree(folder, ignore_errors=True)
        _unpack(folder / "source")
        _install(folder)
        (folder / "complete").touch()
    return str(found)


def source() -> Path:
    """Return a folder with the previous version's code. Raises `DevstackError` in a clone without
    history."""
    folder = PAYBUS / f"version-{VERSION}-source"
    if not folder.exists():
        _unpack(folder)
    return folder


def _unpack(source: Path) -> None:
    source.mkdir(parents=True)
    packed = subprocess.run(
        ["git", "archive", _COMMIT, "libs", "services", "requirements.lock"],
        cwd=_ROOT,
        capture_output=True,
        check=False,
    )
    if packed.returncode != 0:
        raise DevstackError(
            f"this clone does not contain version {VERSION} (commit {_COMMIT[:7]}): fetch the "
            "complete history, with `git fetch --unshallow`"
        )
    subprocess.run(["tar", "-x"], cwd=source, input=packed.stdout, check=True)


def _install(folder: Path) -> None:
    source, environment = folder / "source", folder / "venv"
    packages = [source / "libs" / "common", *sorted((source / "services").iterdir())]
    pip = [_uv(), "pip", "install", "--quiet", "--python", environment, "--no-deps"]
    for command in (
        [_uv(), "venv", "--quiet", "--python", sys.executable, environment],
        [*pip, "--require-hashes", "-r", source / "requirements.lock"],
        [*pip, "--no-sources", "--compile-bytecode", *packages],
    ):
        done = subprocess.run(
            [str(each) for each in command], capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            raise DevstackError(f"version {VERSION} can't be installed: {done.stderr.strip()}")


def _uv() -> Path:
    return Path(sys.executable).parent / "uv"
