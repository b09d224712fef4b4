"""The streams in use, in memory. The broker and the marks of a file share them."""

import secrets
import sqlite3

from works.events.sqlite import tables
from works.events.sqlite.tables import StoredStream, os_errors

# Streams in memory. The limit is higher than the connections of a process. Beyond it, streams without readers and
# without unwritten events are removed from memory.
_MOST = 20_000


class StreamCache:
    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database
        self._streams: dict[str, StoredStream] = {}

    def get(self, name: str) -> StoredStream:
        """Returns the stream from memory or from the file. A stream that does not exist is started. Raises OSError."""
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
        """Starts a stream again that has lost unwritten events. It gets a new epoch, and its readers get PositionLost.

        The file still has the old epoch. So the new stream counts as unwritten and is never removed from memory.
        """
        lost = self._streams[name]
        self._streams[name] = StoredStream(secrets.token_hex(8), 0, volatile=True, unwritten=1)
        lost.lost = True
        lost.wake()

    def forget(self, name: str) -> bool:
        """Removes the stream from memory unless it has readers or unwritten events. Returns whether it was removed."""
        stream = self._streams.get(name)
        if stream and (stream.readers or stream.unwritten):
            return False
        self._streams.pop(name, None)
        return True
