"""Local disk queue for webhooks while the broker does not confirm.

An SQLite file with `synchronous=FULL`: when `add` returns, the message has been through fsync, so
it survives SIGKILL and a power cut, though not the loss of the disk. Several processes may share a
folder; only the one that holds the lock drains the spool. A file that the disk has damaged is set
aside and replaced by a new one.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

from common.errors import Unavailable, describe
from common.messaging.backoff import Destination
from common.observability.logging import get_logger
from webhook_gateway import metrics

log = get_logger(__name__)

FILE: Final = "spool.sqlite3"
DAMAGED: Final = f"{FILE}.damaged-"

_BATCH = 100
_PAGE_BYTES = 4096
_DAMAGED_NAMES = ("SQLITE_CORRUPT", "SQLITE_NOTADB")
_RESERVE_BYTES = 32 * 1024**2

_SCHEMA = """
CREATE TABLE IF NOT EXISTS spooled (
    position INTEGER PRIMARY KEY AUTOINCREMENT,
    spooled_at REAL NOT NULL,  -- seconds, UTC
    exchange TEXT NOT NULL,
    routing_key TEXT NOT NULL,
    body BLOB NOT NULL,
    headers TEXT NOT NULL,  -- JSON
    content_type TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS spooled_age ON spooled (spooled_at)  -- small, so quick to count by
"""
_ADD = (
    "INSERT INTO spooled (spooled_at, exchange, routing_key, body, headers, content_type) "
    "VALUES (?, ?, ?, ?, ?, ?)"
)

T = TypeVar("T")


@dataclass(frozen=True)
class Spooled:
    """A message to be published."""

    exchange: str
    routing_key: str
    body: bytes
    headers: Mapping[str, Any]
    content_type: str


class _Damaged(sqlite3.DatabaseError):
    """The fault that `PRAGMA quick_check` found."""


class SpoolFull(Unavailable):
    """The local spool has reached its limit; the provider has to send the webhook again."""


class Spool:
    """The spool of one folder. `most_bytes` limits the file. One thread does all database work and
    commits waiting messages together, so that one fsync serves many webhooks."""

    def __init__(self, folder: Path, *, most_bytes: int) -> None:
        self._folder = folder
        self._most_pages = most_bytes // _PAGE_BYTES
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="spool")
        self._database: sqlite3.Connection | None = None
        self._waiting: list[tuple[Spooled, asyncio.Future[None]]] = []
        self._writing: asyncio.Task[None] | None = None
        self._inode = -1
        self._lock = -1
        self.full = False

    async def open(self) -> None:
        """Open the file. Raises `sqlite3.Error` or `OSError` when the folder cannot be written."""
        await self._run(self._open)
        await self.measure()

    async def close(self) -> None:
        if self._writing is not None:
            await asyncio.gather(self._writing, return_exceptions=True)
        await self._run(self._close)
        self._thread.shutdown()

    async def add(self, message: Spooled) -> None:
        """Return when the message is on disk. Raises `SpoolFull`, or `Unavailable` on a fault."""
        written: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((message, written))
        if self._writing is None or self._writing.done():
            self._writing = asyncio.create_task(self._write())
        await written

    async def after(
        self, position: int, *, without: Sequence[Destination] = ()
    ) -> Sequence[tuple[int, Spooled]]:
        """Return a batch of messages after `position` with their positions, oldest first, except
        those for the destinations `without`. Also empty while another process drains the spool."""
        others = " AND (exchange, routing_key) <> (?, ?)" * len(without)
        named = [name for destination in without for name in destination]
        return await self._run(self._read, f"position > ?{others}", [position, *named], _BATCH)

    async def first_of(self, destination: Destination) -> Sequence[tuple[int, Spooled]]:
        """Return the oldest message for this destination."""
        of_it = "(exchange, routing_key) = (?, ?)"
        return await self._run(self._read, of_it, list(destination), 1)

    async def release(self) -> None:
        """Release the lock, so that another process may drain the spool."""
        await self._run(fcntl.flock, self._lock, fcntl.LOCK_UN)

    async def remove(self, positions: Sequence[int]) -> None:
        await self._run(self._remove, positions)

    async def measure(self) -> tuple[int, float | None]:
        """Return how many messages wait and since when (UTC seconds), and set the metrics."""
        count, since, self.full = await self._run(self._measure)
        damaged = {each.name.removesuffix("-wal").removesuffix("-shm") for each in self._damaged()}
        metrics.spools_damaged.set(len(damaged))
        metrics.spooled.set(count)
        metrics.spool_oldest_seconds.set(time.time() - since if since is not None else 0)
        return count, since

    def _damaged(self) -> list[Path]:
        return list(self._folder.glob(f"{DAMAGED}*"))

    async def _write(self) -> None:
        while self._waiting:
            taken, self._waiting = self._waiting, []
            try:
                await self._run(self._insert, [message for message, _ in taken])
            except SpoolFull as error:
                self.full = True
                self._result_of(taken, error)
            except Exception as error:  # noqa: BLE001 - every waiting caller must receive it
                log.error("spool_write_failed", error=describe(error))
                self._result_of(
                    taken, Unavailable(f"the spool can't be written: {describe(error)}")
                )
            else:
                self.full = False
                self._result_of(taken, None)

    def _result_of(
        self,
        taken: Sequence[tuple[Spooled, asyncio.Future[None]]],
        error: Unavailable | None,
    ) -> None:
        for _, written in taken:
            if written.cancelled():
                continue
            if error is None:
                written.set_result(None)
            else:
                written.set_exception(error)

    async def _run(self, action: Callable[..., T], *arguments: Any) -> T:
        run = asyncio.get_running_loop().run_in_executor
        try:
            return await run(self._thread, action, *arguments)
        except sqlite3.DatabaseError as error:
            await run(self._thread, self._set_aside_if_damaged, error)
            return await run(self._thread, action, *arguments)

    # -- in the thread -------------------------------------------------------------------------

    def _open(self) -> None:
        self._lock = os.open(self._folder / f"{FILE}.lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            self._connect()
        except sqlite3.DatabaseError as error:
            self._set_aside_if_damaged(error)

    def _connect(self) -> None:
        path = self._folder / FILE
        path.touch(0o600)
        self._inode = path.stat().st_ino
        self._database = sqlite3.connect(
            path, timeout=10, isolation_level=None, check_same_thread=False
        )
        self._database.execute(f"PRAGMA page_size = {_PAGE_BYTES}")
        self._database.execute("PRAGMA journal_mode = WAL")
        self._database.execute("PRAGMA synchronous = FULL")
        self._database.executescript(_SCHEMA)
        # A file that was set aside had positions which a process may still be about to delete: a
        # new file must not reuse them.
        self._database.execute(
            "INSERT INTO sqlite_sequence (name, seq) SELECT 'spooled', ? "
            "WHERE NOT EXISTS (SELECT 1 FROM sqlite_sequence WHERE name = 'spooled')",
            [time.time_ns() // 1000],
        )
        (found,) = self._database.execute("PRAGMA quick_check(1)").fetchone()
        if found != "ok":
            raise _Damaged(found)

    def _set_aside_if_damaged(self, error: sqlite3.DatabaseError) -> None:
        """Replace a damaged file with a new one; re-raise any other error."""
        named = getattr(error, "sqlite_errorname", "")
        if not isinstance(error, _Damaged) and not named.startswith(_DAMAGED_NAMES):
            raise error
        if self._database is not None:
            self._database.close()
        if (self._folder / FILE).stat().st_ino == self._inode:  # else another process was first
            stamp = f"{time.time():.0f}"
            for part in ("", "-wal", "-shm"):
                with suppress(FileNotFoundError):
                    aside = self._folder / f"{DAMAGED}{stamp}{part}"
                    (self._folder / f"{FILE}{part}").rename(aside)
            log.error(
                "spool_file_damaged",
                hint="the file was set aside: docs/runbooks/webhooks.md says how to recover it",
                file=f"{DAMAGED}{stamp}",
                error=describe(error),
            )
        self._connect()

    def _use(self) -> sqlite3.Connection:
        """Return the folder's current file, which another process may have replaced."""
        assert self._database is not None
        with suppress(FileNotFoundError):
            if (self._folder / FILE).stat().st_ino == self._inode:
                return self._database
        self._database.close()
        self._connect()
        return self._database

    def _close(self) -> None:
        if self._database is not None:
            self._database.close()
        if self._lock >= 0:
            os.close(self._lock)

    def _insert(self, messages: Sequence[Spooled]) -> None:
        self._use()
        pages = sum(-(-len(message.body) // _PAGE_BYTES) for message in messages)
        if self._used_pages() + pages > self._most_pages or self._disk_is_full():
            raise SpoolFull("the broker does not confirm, and the local spool is full")
        now = time.time()
        with self._transaction() as database:
            database.executemany(
                _ADD,
                [
                    (
                        now,
                        each.exchange,
                        each.routing_key,
                        each.body,
                        json.dumps(dict(each.headers)),
                        each.content_type,
                    )
                    for each in messages
                ],
            )

    def _used_pages(self) -> int:
        assert self._database is not None
        (pages,) = self._database.execute("PRAGMA page_count").fetchone()
        (free,) = self._database.execute("PRAGMA freelist_count").fetchone()
        return int(pages) - int(free)

    def _disk_is_full(self) -> bool:
        """Return whether the disk is nearly full. Deleting needs space too, for the write-ahead
        log: on a full disk nothing could be drained."""
        disk = os.statvfs(self._folder)
        return disk.f_bavail * disk.f_frsize < _RESERVE_BYTES

    def _read(self, condition: str, values: Sequence[Any], most: int) -> list[tuple[int, Spooled]]:
        assert self._database is not None
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return []
        rows = (
            self._use()
            .execute(
                "SELECT position, exchange, routing_key, body, headers, content_type "  # noqa: S608
                f"FROM spooled WHERE {condition} ORDER BY position LIMIT ?",
                [*values, most],
            )
            .fetchall()
        )
        return [
            (position, Spooled(exchange, key, body, json.loads(headers), content_type))
            for position, exchange, key, body, headers, content_type in rows
        ]

    def _remove(self, positions: Sequence[int]) -> None:
        with self._transaction() as database:
            database.executemany(
                "DELETE FROM spooled WHERE position = ?", [(each,) for each in positions]
            )

    def _measure(self) -> tuple[int, float | None, bool]:
        row = self._use().execute("SELECT count(*), min(spooled_at) FROM spooled").fetchone()
        full = self._used_pages() >= self._most_pages or self._disk_is_full()
        return int(row[0]), row[1], full

    def _transaction(self) -> _Transaction:
        return _Transaction(self._use())


class _Transaction:
    """A transaction with `BEGIN IMMEDIATE`: two processes wait for each other at its start rather
    than in its middle."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database

    def __enter__(self) -> sqlite3.Connection:
        self._database.execute("BEGIN IMMEDIATE")
        return self._database

    def __exit__(self, kind: object, *_: object) -> None:
        self._database.execute("COMMIT" if kind is None else "ROLLBACK")
