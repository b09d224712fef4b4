"""The tables of an event store's SQLite file, and the statements on them."""

import asyncio
import secrets
import sqlite3
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from works.events.broker import Event
from works.events.marks import Mark

_SCHEMA = """
CREATE TABLE IF NOT EXISTS state (clean INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS streams (
    name TEXT PRIMARY KEY, epoch TEXT NOT NULL, head INTEGER NOT NULL, volatile INTEGER NOT NULL, expires REAL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS events (
    stream TEXT NOT NULL, offset INTEGER NOT NULL, id TEXT, data TEXT NOT NULL, PRIMARY KEY (stream, offset)
) WITHOUT ROWID;
CREATE UNIQUE INDEX IF NOT EXISTS events_by_id ON events (stream, id) WHERE id IS NOT NULL;
CREATE TABLE IF NOT EXISTS marks (
    reader TEXT NOT NULL, stream TEXT NOT NULL, offset INTEGER NOT NULL, PRIMARY KEY (reader, stream)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS marks_by_stream ON marks (stream);
CREATE INDEX IF NOT EXISTS streams_by_expiry ON streams (expires) WHERE expires IS NOT NULL;
"""
# Newest events of a stream in memory. A reader with a longer backlog reads from the file.
TAIL = 256


@dataclass(eq=False, slots=True)
class StoredStream:
    """A stream in use. The ``head`` of a volatile stream is ahead of the file by its ``unwritten`` events.

    ``lost``: its events have gaps, and it was started again as another StoredStream.
    """

    epoch: str
    head: int
    volatile: bool = False
    readers: int = 0
    unwritten: int = 0
    lost: bool = False
    tail: deque[Event] = field(default_factory=lambda: deque(maxlen=TAIL))
    changed: asyncio.Event | None = None

    def add(self, event: Event) -> None:
        self.head = event.offset
        self.tail.append(event)
        self.wake()

    def wake(self) -> None:
        if self.changed:
            self.changed.set()
            self.changed = None


@dataclass(eq=False, slots=True)
class PendingWrite:
    """An event to be written. An event of a volatile stream has its offset already; any other gets it when it is
    written.

    ``durable``: ``done`` is set only when the event would survive a power cut.
    """

    name: str
    stream: StoredStream
    data: str
    offset: int = 0
    durable: bool = True
    id: str | None = None
    done: "asyncio.Future[int] | None" = None
    unless: Sequence[str] = ()


def connect(path: Path) -> sqlite3.Connection:
    """Opens a connection. It never waits for a lock, because it is used on the loop.

    With a WAL and synchronous=NORMAL, a commit is not on the disk yet.
    """
    database = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=0)
    database.execute("PRAGMA synchronous=NORMAL")
    database.execute("PRAGMA wal_autocheckpoint=0")
    return database


def open_tables(path: Path) -> sqlite3.Connection:
    """Creates the tables. Raises sqlite3.Error when the file cannot be used."""
    database = connect(path)
    try:
        _prepare(database)
    except sqlite3.Error:
        database.close()
        raise
    return database


@contextmanager
def os_errors(done: str = "written") -> Iterator[None]:
    """A block in which an error of SQLite becomes an OSError."""
    try:
        yield
    except sqlite3.Error as error:
        raise OSError(f"events cannot be {done}: {error}") from error


def _prepare(database: sqlite3.Connection) -> None:
    database.execute("PRAGMA journal_mode=WAL")
    database.executescript(_SCHEMA)
    clean = database.execute("SELECT clean FROM state").fetchone()
    if clean is None:
        database.execute("INSERT INTO state VALUES (0)")
    elif not clean[0]:
        # After a crash the last events of volatile streams may be missing. Deleting these streams is better than gaps
        # in them.
        database.execute("DELETE FROM events WHERE stream IN (SELECT name FROM streams WHERE volatile)")
        database.execute("DELETE FROM streams WHERE volatile")
    # Must be on the disk before any volatile event, so that a crash is noticed and an incomplete stream never
    # continues.
    database.execute("PRAGMA synchronous=FULL")
    database.execute("UPDATE state SET clean = 0")
    database.execute("PRAGMA synchronous=NORMAL")


def close(database: sqlite3.Connection) -> None:
    """Notes in the file that every volatile stream is complete."""
    database.execute("PRAGMA synchronous=FULL")
    database.execute("UPDATE state SET clean = 1")


def fold(database: sqlite3.Connection) -> None:
    """Copies the WAL into the file and restarts it, with a first write, because that write waits for the disk too."""
    database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    write_anything(database)


def find_stream(database: sqlite3.Connection, name: str) -> StoredStream | None:
    row = database.execute("SELECT epoch, head, volatile FROM streams WHERE name = ?", (name,)).fetchone()
    return StoredStream(row[0], row[1], bool(row[2])) if row else None


def read_events(database: sqlite3.Connection, stream: str, after: int, limit: int) -> list[Event]:
    query = "SELECT offset, data FROM events WHERE stream = ? AND offset > ? ORDER BY offset LIMIT ?"
    return [Event(*row) for row in database.execute(query, (stream, after, limit))]


def write_events(database: sqlite3.Connection, group: list[PendingWrite], keep: int) -> list[int]:
    """Writes the group in one transaction and returns the offset of each event.

    The offset is that of the first event for a repeated id, and 0 for an event that was fenced off.
    """
    heads: dict[str, tuple[StoredStream, int]] = {}
    offsets: list[int] = []
    database.execute("BEGIN IMMEDIATE")
    try:
        for write in group:
            head = heads[write.name][1] if write.name in heads else write.stream.head
            known = None if write.id is None else _offset_of(database, write.name, write.id)
            fenced = known is None and any(_offset_of(database, write.name, id) for id in write.unless)
            offset = 0 if fenced else known or write.offset or head + 1
            if not (known or fenced):
                if write.offset == 1:  # the stream may have been started again
                    database.execute("DELETE FROM events WHERE stream = ?", (write.name,))
                row = (write.name, offset, write.id, write.data)
                database.execute("INSERT INTO events (stream, offset, id, data) VALUES (?, ?, ?, ?)", row)
                heads[write.name] = write.stream, max(offset, head)
            offsets.append(offset)
        for name, (stream, head) in heads.items():
            database.execute(
                "INSERT INTO streams (name, epoch, head, volatile) VALUES (?, ?, ?, ?) ON CONFLICT (name)"
                " DO UPDATE SET epoch = excluded.epoch, head = excluded.head, volatile = excluded.volatile",
                (name, stream.epoch, head, stream.volatile),
            )
            database.execute("DELETE FROM events WHERE stream = ? AND offset <= ?", (name, head - keep))
        database.execute("COMMIT")
    except BaseException:
        if database.in_transaction:
            database.execute("ROLLBACK")
        raise
    return offsets


def _offset_of(database: sqlite3.Connection, stream: str, id: str) -> int | None:
    found = database.execute("SELECT offset FROM events WHERE stream = ? AND id = ?", (stream, id)).fetchone()
    return int(found[0]) if found else None


def expire(database: sqlite3.Connection, name: str, stream: StoredStream, at: float | None) -> None:
    """Sets the expiry of a stream. If the stream has no events yet, it is added to the tables."""
    database.execute(
        "INSERT INTO streams (name, epoch, head, volatile, expires) VALUES (?, ?, 0, ?, ?)"
        " ON CONFLICT (name) DO UPDATE SET expires = excluded.expires",
        (name, stream.epoch, stream.volatile, at),
    )


def write_anything(database: sqlite3.Connection) -> None:
    """Writes a new value each time, because an unchanged value never reaches the disk. The next sweep deletes it."""
    row = ("", secrets.token_hex(8), 0, True, 0)
    database.execute(
        "INSERT OR REPLACE INTO streams (name, epoch, head, volatile, expires) VALUES (?, ?, ?, ?, ?)", row
    )


def due(database: sqlite3.Connection, now: float) -> list[str]:
    return [name for (name,) in database.execute("SELECT name FROM streams WHERE expires < ?", (now,))]


def set_mark(database: sqlite3.Connection, name: str, stream: StoredStream, reader: str, offset: int) -> int:
    """Sets a mark and returns its offset. If the stream has no events yet, it is added to the tables with its epoch."""
    if not stream.head:
        database.execute(
            "INSERT INTO streams (name, epoch, head, volatile) VALUES (?, ?, 0, ?) ON CONFLICT (name) DO NOTHING",
            (name, stream.epoch, stream.volatile),
        )
    found = database.execute(
        "INSERT INTO marks (reader, stream, offset) VALUES (?, ?, ?) ON CONFLICT (reader, stream)"
        " DO UPDATE SET offset = max(offset, excluded.offset) RETURNING offset",
        (reader, name, offset),
    ).fetchone()
    return int(found[0])


def advance_mark(database: sqlite3.Connection, name: str, reader: str, offset: int) -> bool:
    query = "UPDATE marks SET offset = max(offset, ?) WHERE reader = ? AND stream = ?"
    return database.execute(query, (offset, reader, name)).rowcount > 0


def remove_mark(database: sqlite3.Connection, name: str, reader: str) -> None:
    database.execute("DELETE FROM marks WHERE reader = ? AND stream = ?", (reader, name))


def marks_of_reader(database: sqlite3.Connection, reader: str) -> dict[str, Mark]:
    query = "SELECT stream, offset, head FROM marks LEFT JOIN streams ON name = stream WHERE reader = ?"
    return {stream: Mark(offset, head or 0) for stream, offset, head in database.execute(query, (reader,))}


def forget(database: sqlite3.Connection, name: str) -> None:
    database.execute("DELETE FROM events WHERE stream = ?", (name,))
    database.execute("DELETE FROM marks WHERE stream = ?", (name,))
    database.execute("DELETE FROM streams WHERE name = ?", (name,))
