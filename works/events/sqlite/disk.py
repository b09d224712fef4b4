"""The slow operations on an event store's SQLite file: making commits survive a power cut, and checkpoints.

A checkpoint copies the WAL (SQLite's write-ahead log) into the file. Both operations wait for the disk, so both run in
a thread. All other operations run on the loop. A thread would wait for the interpreter's lock for milliseconds while
the loop is busy, and a commit requests the lock some thirty times.
"""

import asyncio
import fcntl
import os
import sqlite3
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from works.events.sqlite import tables

# Size of the WAL from which it is copied into the file: SQLite's default, 1,000 pages of 4 KiB.
_LONGEST_WAL = 4_096_000


class Disk:
    """The file of an event store. Only one process may use it at a time. Raises OSError when another process does.

    ``database`` is the connection for the loop. ``syncs`` counts how often the disk was waited for.
    """

    def __init__(self, path: Path) -> None:
        self.syncs = 0
        self._fold_lock = asyncio.Lock()
        path.parent.mkdir(parents=True, exist_ok=True)
        # Closed after the connections, because closing any descriptor of the file drops SQLite's own locks on it.
        self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.database = tables.open_tables(path)
            self._fold_database = tables.connect(path)
            self._wal = os.open(f"{path}-wal", os.O_RDONLY)
        except (OSError, sqlite3.Error) as error:
            os.close(self._file)
            raise OSError(
                "another process uses the file" if isinstance(error, BlockingIOError) else str(error)
            ) from error
        self._thread = ThreadPoolExecutor(1, "sluice-events")

    async def sync(self) -> None:
        """Returns when all commits would survive a power cut. Raises OSError."""
        self.syncs += 1
        await asyncio.get_running_loop().run_in_executor(self._thread, os.fsync, self._wal)

    async def fold(self) -> None:
        """Copies a long WAL into the file. The next call repeats what fails.

        Raises OSError when the size of the WAL cannot be read.
        """
        async with self._fold_lock:
            if os.fstat(self._wal).st_size > _LONGEST_WAL:
                with suppress(sqlite3.Error):
                    await asyncio.get_running_loop().run_in_executor(self._thread, tables.fold, self._fold_database)

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[None]:
        """A block for a small write without a group. It excludes checkpoints, which lock the file. Raises OSError."""
        async with self._fold_lock:
            with tables.os_errors():
                yield

    def close(self) -> None:
        self._thread.shutdown()
        os.close(self._wal)
        self._fold_database.close()
        self.database.close()
        os.close(self._file)
