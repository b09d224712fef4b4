"""The server's handle on one capture's child: orders go out, words and frames come in, and it can be killed."""

import asyncio
import json
from typing import Any

from works.processes.channel import LENGTHS
from works.processes.forkserver import Forkserver

# Bytes of a frame. A child has read what strangers sent, and is not believed any length it names.
_MOST = 32 << 20
# Bytes that may wait on our side before the child has to wait.
_ROOM = 1 << 20


class CaptureGone(Exception):
    """The child has ended, or what it says makes no sense."""


class CaptureProcess:
    """``open`` forks it; after ``kill`` it is of no more use."""

    def __init__(self, forkserver: Forkserver) -> None:
        self._forkserver = forkserver
        self._serial = 0
        self._writer: asyncio.StreamWriter | None = None

    async def open(self, order: dict[str, Any]) -> None:
        """Raises OSError when no process can be made."""
        self._serial, end = self._forkserver.fork()
        self._reader, self._writer = await asyncio.open_unix_connection(sock=end, limit=_ROOM)
        self.send(order)

    def send(self, order: dict[str, Any]) -> None:
        if self._writer and not self._writer.is_closing():
            self._writer.write(json.dumps(order).encode() + b"\n")

    async def receive(self, seconds: float) -> tuple[dict[str, Any], bytes]:
        """What it says next, with the JPEG of a frame. Raises TimeoutError after so long, and Gone."""
        try:
            async with asyncio.timeout(seconds):
                header, payload = LENGTHS.unpack(await self._reader.readexactly(LENGTHS.size))
                if header + payload > _MOST:
                    raise CaptureGone
                message = json.loads(await self._reader.readexactly(header))
                if not isinstance(message, dict):
                    raise CaptureGone
                return message, await self._reader.readexactly(payload)
        except (asyncio.IncompleteReadError, ConnectionError, ValueError, RecursionError):
            raise CaptureGone from None

    def kill(self) -> None:
        if self._writer:
            self._writer.close()
            self._writer = None
            self._forkserver.kill(self._serial)
