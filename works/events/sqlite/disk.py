"""The slow half of an event store's SQLite file: making commits survive a power cut, and folding the WAL into the file.

Both wait for the disk, so both run in a thread. Everything else does not, and runs on the loop: a thread that asks
for the interpreter's lock beside a busy loop waits for milliseconds each time, and a commit asks some thirty times.
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

# The WAL is folded into the file when it has grown to this: SQLite's own default, 1,000 pages of 4 KiB.
_LONGEST_WAL = 4_096_000


class Disk:
    """Of a file that only one process may use at a time. Raises OSError when another one does.

    ``database`` is the connection for the loop. ``syncs`` counts how often the disk was waited for.
    """

    def __init__(self, path: Path) -> None:
        self.syncs = 0
        self._fold_lock = asyncio.Lock()
        path.parent.mkdir(parents=True, exist_ok=True)
        # Never closed before the connections are: closing any descriptor of the file drops SQLite's own locks on it.
        self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.database = tables.open_tables(path)
            self._fold_database = tables.connect(path)
            self._wal = os.open(f"{path}-wal", os.O_RDONLY)
        except (OSError, sqlite3.Error) as error:
            os.close(self._file)
            raise OSError("another process uses it" if isinstance(error, BlockingIOError) else str(error)) from error
        self._thread = ThreadPoolExecutor(1, "sluice-events")

    async def sync(self) -> None:
        """What is committed survives a power cut when this returns. Raises OSError."""
        self.syncs += 1
        await asyncio.get_running_loop().run_in_executor(self._thread, os.fsync, self._wal)

    async def fold(self) -> None:
        """Folds a WAL that has grown long into the file. What fails is tried again by the next call.

        Raises OSError when the WAL cannot be looked at.
        """
        async with self._fold_lock:
            if os.fstat(self._wal).st_size > _LONGEST_WAL:
                with suppress(sqlite3.Error):
                    await asyncio.get_running_loop().run_in_executor(self._thread, tables.fold, self._fold_database)

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[None]:
        """Within, a small write without a group: not while the WAL is folded, which locks the file. Raises OSError."""
        async with self._fold_lock:
            with tables.os_errors():
                yield

    def close(self) -> None:
        self._thread.shutdown()
        os.close(self._wal)
        self._fold_database.close()
        self.database.close()
        os.close(self._file)
