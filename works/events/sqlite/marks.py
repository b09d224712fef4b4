"""Marks in the SQLite file."""

from works.events.marks import Mark
from works.events.sqlite import tables
from works.events.sqlite.disk import Disk
from works.events.sqlite.streams import StreamCache
from works.events.sqlite.tables import os_errors


class SqliteMarks:
    def __init__(self, disk: Disk, streams: StreamCache) -> None:
        self._disk, self._streams = disk, streams

    async def set(self, stream: str, reader: str, offset: int) -> Mark:
        state = self._streams.get(stream)
        async with self._disk.writing():
            offset = min(offset, state.head)
            return Mark(tables.set_mark(self._disk.database, stream, state, reader, offset), state.head)

    async def advance(self, stream: str, reader: str, offset: int) -> bool:
        async with self._disk.writing():
            offset = min(offset, self._streams.get(stream).head)
            return tables.advance_mark(self._disk.database, stream, reader, offset)

    async def remove(self, stream: str, reader: str) -> None:
        async with self._disk.writing():
            tables.remove_mark(self._disk.database, stream, reader)

    async def of_reader(self, reader: str) -> dict[str, Mark]:
        with os_errors("read"):
            return tables.marks_of_reader(self._disk.database, reader)
