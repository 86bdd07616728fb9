"""What a migration may do to tables that are in use."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

import pytest
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory

ROOT = Path(__file__).resolve().parents[2]
_PACKAGES = {each.parents[1].parent.name: each for each in ROOT.glob("services/*/src/*/migrations")}


def _config(service: str) -> Config:
    config = Config(output_buffer=io.StringIO())
    config.set_main_option("script_location", str(_PACKAGES[service]))
    return config


def _revisions() -> list[tuple[str, str, str]]:
    found = []
    for service in sorted(_PACKAGES):
        for each in ScriptDirectory.from_config(_config(service)).walk_revisions():
            if each.down_revision is not None:
                found.append((service, str(each.down_revision), each.revision))
    return found


def _sql(service: str, before: str, revision: str) -> str:
    config = _config(service)
    with contextlib.redirect_stderr(io.StringIO()):
        command.upgrade(config, f"{before}:{revision}", sql=True)
    output = config.output_buffer
    assert isinstance(output, io.StringIO)
    return output.getvalue()


@pytest.mark.parametrize(("service", "before", "revision"), _revisions())
def test_a_revision_locks_one_table_that_is_in_use(
    service: str, before: str, revision: str
) -> None:
    """Two in one transaction would deadlock with a worker that takes them in another order."""
    sql = _sql(service, before, revision)
    new = set(re.findall(r"CREATE TABLE (\w+)", sql))
    locked = set(re.findall(r"ALTER TABLE (\w+)", sql)) - new
    assert len(locked) <= 1
    for index, table in re.findall(r"CREATE (?:UNIQUE )?INDEX (CONCURRENTLY )?\w+ ON (\w+)", sql):
        assert index or table in new, f"an index on {table} blocks its writers: create_index"
    changed = re.findall(r"^\s*(?:UPDATE|DELETE FROM) (?!alembic_version)(\w+)", sql, re.MULTILINE)
    assert len(set(changed)) <= 1
    assert not (locked and changed), "rows are changed in another one: the table is locked"
