"""The server's handle on one capture's child: commands go out, reports and frames come in, and it can be killed."""

import asyncio
import json
from typing import Any

from works.processes.channel import LENGTHS
from works.processes.forkserver import Forkserver

# Of one message. A child has read what strangers sent, so the length that it states is not trusted.
_MAX_MESSAGE_BYTES = 32 << 20
# That may wait on our side before the child has to wait.
_BUFFER_BYTES = 1 << 20


class CaptureGone(Exception):
    """The child has ended, or has sent what is no message."""


class CaptureProcess:
    """``open`` forks the child; after ``kill`` the object cannot be used again."""

    def __init__(self, forkserver: Forkserver) -> None:
        self._forkserver = forkserver
        self._serial = 0
        self._writer: asyncio.StreamWriter | None = None

    async def open(self, command: dict[str, Any]) -> None:
        """Raises OSError when no process can be made."""
        self._serial, end = self._forkserver.fork()
        self._reader, self._writer = await asyncio.open_unix_connection(sock=end, limit=_BUFFER_BYTES)
        self.send(command)

    def send(self, command: dict[str, Any]) -> None:
        if self._writer and not self._writer.is_closing():
            self._writer.write(json.dumps(command).encode() + b"\n")

    async def receive(self, seconds: float) -> tuple[dict[str, Any], bytes]:
        """The next message, with the JPEG of a frame. Raises TimeoutError after ``seconds``, and CaptureGone."""
        try:
            async with asyncio.timeout(seconds):
                header, payload = LENGTHS.unpack(await self._reader.readexactly(LENGTHS.size))
                if header + payload > _MAX_MESSAGE_BYTES:
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
