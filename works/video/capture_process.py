"""The server's side of one capture process: it sends commands, receives reports and frames, and can
kill the process.
"""

import asyncio
import json
from typing import Any

from works.processes.channel import LENGTHS
from works.processes.forkserver import Forkserver

# The longest message. The child has processed untrusted data, so the length that it declares is not trusted either.
_MAX_MESSAGE_BYTES = 32 << 20
# Bytes that the server buffers before the child has to wait.
_BUFFER_BYTES = 1 << 20


class CaptureGone(Exception):
    """Raised when the child has ended or has sent something that is not a valid message."""


class CaptureProcess:
    """The connection to one child process. ``open`` forks the child; after ``kill`` the object cannot be used again."""

    def __init__(self, forkserver: Forkserver) -> None:
        self._forkserver = forkserver
        self._serial = 0
        self._writer: asyncio.StreamWriter | None = None

    async def open(self, command: dict[str, Any]) -> None:
        """Forks the child and sends the first command. Raises OSError when the process cannot be created."""
        self._serial, end = self._forkserver.fork()
        self._reader, self._writer = await asyncio.open_unix_connection(sock=end, limit=_BUFFER_BYTES)
        self.send(command)

    def send(self, command: dict[str, Any]) -> None:
        if self._writer and not self._writer.is_closing():
            self._writer.write(json.dumps(command).encode() + b"\n")

    async def receive(self, seconds: float) -> tuple[dict[str, Any], bytes]:
        """Returns the next message of the child, and the JPEG if the message is a frame.

        Raises:
            TimeoutError: the child sent nothing for ``seconds``.
            CaptureGone: the child has ended or sent an invalid message.
        """
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
