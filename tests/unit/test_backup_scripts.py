"""The scripts that make one server's backups, with stand-ins for PostgreSQL's programs."""

from __future__ import annotations

import gzip
import os
import subprocess
import time
from pathlib import Path

import pytest

COMPOSE = Path(__file__).resolve().parents[2] / "deploy" / "compose"
_DAY = 86_400
_PROGRAMS = {
    "pg_basebackup": """
for each in "$@"; do case $each in --pgdata=*) folder=${each#--pgdata=} ;; esac; done
mkdir "$folder"
echo "START WAL LOCATION: 0/2000028 (file 000000010000000000000002)" > "$folder/backup_label"
""",
    "pg_controldata": 'echo "Database system identifier:           7"',
    "psql": "echo 7",
    "pg_archivecleanup": 'echo "$@" > "$BACKUPS/cleaned"',
}


class Backups:
    def __init__(self, folder: Path) -> None:
        self.folder = folder / "backups"
        self._programs = folder / "programs"
        for each in (self.folder / "base", self.folder / "log", self._programs):
            each.mkdir(parents=True)
        for name, program in _PROGRAMS.items():
            self.stand_in(name, program)

    def stand_in(self, name: str, program: str) -> None:
        path = self._programs / name
        path.write_text(f"#!/bin/sh\nset -e\n{program}\n")
        path.chmod(0o755)

    def add(self, name: str, *, days: float) -> None:
        """Add a backup that was made so many days ago."""
        backup = self.folder / "base" / name
        backup.mkdir()
        (backup / "backup_label").write_text(
            "START WAL LOCATION: 0/1000028 (file 000000010000000000000001)\n"
        )
        made = time.time() - days * _DAY
        os.utime(backup, (made, made))

    def names(self) -> list[str]:
        return sorted(each.name for each in (self.folder / "base").iterdir())

    def run(self, script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        environment = {
            "PATH": f"{self._programs}:{os.environ['PATH']}",
            "BACKUPS": str(self.folder),
            "BACKUP_DAYS": "14",
        }
        command = ["sh", str(COMPOSE / script), *arguments]
        return subprocess.run(
            command, env=environment, capture_output=True, text=True, check=False, timeout=60
        )


@pytest.fixture
def backups(tmp_path: Path) -> Backups:
    return Backups(tmp_path)


def test_old_backups_go_when_a_new_one_is_complete(backups: Backups) -> None:
    backups.add("2026-01-01T00-00-00Z", days=20)
    backups.add("2026-01-10T00-00-00Z", days=10)
    done = backups.run("backup.sh", "once")
    assert done.returncode == 0, done.stderr
    kept, made = backups.names()
    assert kept == "2026-01-10T00-00-00Z"
    assert f"backup {made} is complete; the oldest is {kept}" in done.stdout
    cleaned = (backups.folder / "cleaned").read_text()
    assert cleaned == f"-x .gz {backups.folder}/log 000000010000000000000001\n"


@pytest.mark.parametrize("failure", ["exit 1", "kill -9 $$"])
def test_a_failed_backup_removes_no_other_one(backups: Backups, failure: str) -> None:
    backups.add("2026-01-01T00-00-00Z", days=20)
    backups.stand_in("pg_basebackup", failure)
    done = backups.run("backup.sh", "once")
    assert done.returncode != 0
    assert "is complete" not in done.stdout
    assert backups.names() == ["2026-01-01T00-00-00Z"]


def test_daily_goes_on_after_a_failed_backup(backups: Backups) -> None:
    backups.add("2026-01-01T00-00-00Z", days=20)
    backups.stand_in("pg_basebackup", "exit 1")
    backups.stand_in("sleep", 'echo "waits $1" >&2; kill -TERM $PPID')
    done = backups.run("backup.sh", "daily")
    assert "waits 3600" in done.stderr
    assert "tried again in an hour" in done.stderr
    assert backups.names() == ["2026-01-01T00-00-00Z"]


def test_another_databases_backups_are_left_alone(backups: Backups) -> None:
    backups.add("2026-01-01T00-00-00Z", days=20)
    backups.stand_in("psql", "echo 8")
    done = backups.run("backup.sh", "once")
    assert done.returncode == 1
    assert "of another database" in done.stderr
    assert backups.names() == ["2026-01-01T00-00-00Z"]


def test_a_file_of_the_log_is_archived_once(backups: Backups, tmp_path: Path) -> None:
    """After a crash, PostgreSQL may archive a file again."""
    segment = tmp_path / "segment"
    segment.write_bytes(os.urandom(10_000))
    for _ in range(2):
        done = backups.run("archive.sh", str(segment), "000000010000000000000001")
        assert done.returncode == 0, done.stderr
    archived = backups.folder / "log" / "000000010000000000000001.gz"
    assert gzip.decompress(archived.read_bytes()) == segment.read_bytes()
    before = archived.read_bytes()
    segment.write_bytes(os.urandom(10_000))
    assert backups.run("archive.sh", str(segment), "000000010000000000000001").returncode != 0
    assert archived.read_bytes() == before, "another database's"
