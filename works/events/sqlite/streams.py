"""The streams in use, in memory: the broker and the marks of one file share them."""

import secrets
import sqlite3

from works.events.sqlite import tables
from works.events.sqlite.tables import StoredStream, os_errors

# Streams in memory, more than one process has connections; beyond this many, those without a reader and without
# unwritten events are dropped from it.
_MOST = 20_000


class StreamCache:
    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database
        self._streams: dict[str, StoredStream] = {}

    def get(self, name: str) -> StoredStream:
        """The stream from memory or from the file; one that does not exist begins. Raises OSError."""
        stream = self._streams.get(name)
        if stream is None:
            with os_errors("read"):
                stream = tables.find_stream(self._database, name) or StoredStream(secrets.token_hex(8), 0)
            if len(self._streams) >= _MOST:
                idle = [name for name, each in self._streams.items() if not each.readers and not each.unwritten]
                for each in idle[: len(idle) // 2]:
                    del self._streams[each]
            self._streams[name] = stream
        return stream

    def begin_again(self, name: str) -> None:
        """The stream has lost unwritten events: it gets a new epoch, and its readers get PositionLost.

        The file still has the old epoch, so the new stream counts as unwritten and is never dropped from memory.
        """
        lost = self._streams[name]
        self._streams[name] = StoredStream(secrets.token_hex(8), 0, volatile=True, unwritten=1)
        lost.lost = True
        lost.wake()

    def forget(self, name: str) -> bool:
        """Drops the stream from memory unless it has readers or unwritten events; returns whether it is dropped."""
        stream = self._streams.get(name)
        if stream and (stream.readers or stream.unwritten):
            return False
        self._streams.pop(name, None)
        return True
