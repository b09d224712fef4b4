"""The EventStore in one SQLite file, for one process at a time."""

from pathlib import Path

from works.background import BackgroundTasks
from works.events.memory import MemoryLeases, MemoryPresence
from works.events.sqlite import tables
from works.events.sqlite.broker import SqliteBroker
from works.events.sqlite.disk import Disk
from works.events.sqlite.marks import SqliteMarks
from works.events.sqlite.streams import StreamCache
from works.events.sqlite.tables import os_errors


class SqliteEventStore:
    """``keep``: events that a stream retains; the oldest are dropped first. Raises OSError when the file cannot be
    used.
    """

    def __init__(self, path: Path, keep: int, background: BackgroundTasks | None = None) -> None:
        try:
            self._disk = Disk(path)
        except OSError as error:
            raise OSError(f"events {path} cannot be opened: {error}") from error
        streams = StreamCache(self._disk.database)
        self.broker = SqliteBroker(self._disk, streams, keep, background or BackgroundTasks())
        self.marks = SqliteMarks(self._disk, streams)
        self.presence = MemoryPresence()
        self.leases = MemoryLeases()

    @property
    def syncs(self) -> int:
        return self._disk.syncs

    async def sweep(self) -> None:
        await self.broker.sweep()

    async def check(self) -> None:
        async with self._disk.writing():
            tables.write_anything(self._disk.database)

    async def close(self) -> None:
        try:
            if await self.broker.close():
                with os_errors():
                    tables.close(self._disk.database)
        finally:
            self._disk.close()
