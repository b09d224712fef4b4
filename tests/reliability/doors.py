"""All places where a client can present a token. The requests are plain bytes, so a test can put any bytes in such a
place.
"""

import asyncio
import secrets
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from urllib.parse import quote_from_bytes

from tests.support.running import GUARD, Server, until

UPGRADE = b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
UPGRADE += b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"


@dataclass(frozen=True)
class Answer:
    """The answer of the server. ``status`` is 0 when the server closed the connection without an answer. After a 101,
    ``body`` contains the first WebSocket messages.
    """

    status: int
    raw: bytes

    @property
    def head(self) -> bytes:
        return self.raw.partition(b"\r\n\r\n")[0]

    @property
    def body(self) -> bytes:
        return self.raw.partition(b"\r\n\r\n")[2]

    @property
    def refused(self) -> bool:
        """Returns whether the server refused the token.

        /ws reports this only after the upgrade. The statuses 0 and 400 mean that the server cannot parse the token.
        """
        return self.status in (0, 400, 401) or (self.status == 101 and b'"close": true' in self.body)


async def ask(server: Server, request: bytes) -> Answer:
    """Sends the request and reads one answer: the complete body, or the first message after an upgrade."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    raw = b""
    try:
        async with asyncio.timeout(GUARD):
            with suppress(ConnectionError):
                writer.write(request)
                await writer.drain()
            with suppress(ConnectionError):
                while not _is_whole(raw, request) and (chunk := await reader.read(1 << 16)):
                    raw += chunk
    finally:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()
    return Answer(int(raw.split(b" ", 2)[1]) if raw.startswith(b"HTTP/1.1 ") else 0, raw)


def _is_whole(raw: bytes, request: bytes) -> bool:
    head, end, body = raw.partition(b"\r\n\r\n")
    if request.startswith(b"HEAD") or raw.startswith(b"HTTP/1.1 304"):
        return bool(end)
    if raw.startswith(b"HTTP/1.1 101"):
        # The server does not mask its messages. The frame header has two bytes, and two more bytes for the length when
        # the first length is 126.
        long = 4 if body[1:2] == b"\x7e" else 2
        return len(body) >= long and len(body) >= long + int.from_bytes(body[2:4] if long == 4 else body[1:2])
    (length,) = [int(line[16:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")] or [0]
    return bool(end) and len(body) >= length


def request(line: str | bytes, *headers: bytes, body: bytes = b"", upgrade: bool = False) -> bytes:
    """Builds a request. ``line`` has no HTTP version. Adds the Host header, the length, and the headers of
    an upgrade.
    """
    first = (line.encode() if isinstance(line, str) else line) + b" HTTP/1.1"
    length = b"Content-Length: %d" % len(body)
    lines = [first, b"Host: 127.0.0.1", *headers, *([] if upgrade else [length])]
    return b"\r\n".join(lines) + b"\r\n" + (UPGRADE if upgrade else b"") + b"\r\n" + body


def bearer(token: bytes | None) -> list[bytes]:
    return [] if token is None else [b"Authorization: Bearer " + token]


def cookie(token: bytes | None) -> list[bytes]:
    return [b"Origin: http://127.0.0.1", *([] if token is None else [b"Cookie: sluice_token=" + token])]


def offered(token: bytes | None) -> list[bytes]:
    return [b"Sec-WebSocket-Protocol: sluice.v2" + (b"" if token is None else b", bearer." + token)]


def query(token: bytes | None, name: str) -> str:
    return "" if token is None else f"?{name}={quote_from_bytes(token)}"


DENY = b'{"user": "unknown", "deny_s": 0}'
# The places for a token, each with the function that builds the request. With None the request has no token.
DOORS: dict[str, Callable[[bytes | None], bytes]] = {
    "/ws/images, header": lambda token: request("GET /ws/images", *bearer(token), upgrade=True),
    "/ws/images, subprotocol": lambda token: request("GET /ws/images", *offered(token), upgrade=True),
    "/ws/images, cookie": lambda token: request("GET /ws/images", *cookie(token), upgrade=True),
    "/ws, query": lambda token: request(f"GET /ws{query(token, 'query_string')}", upgrade=True),
    "/process, header": lambda token: request("POST /process", *bearer(token), body=b"no picture"),
    "/process, cookie": lambda token: request("POST /process", *cookie(token), body=b"no picture"),
    "/metrics, header": lambda token: request("GET /metrics", *bearer(token)),
    "/metrics, cookie": lambda token: request("GET /metrics", *cookie(token)),
    "/admin/kick, header": lambda token: request("POST /admin/kick", *bearer(token), body=DENY),
    "/admin/kick, cookie": lambda token: request("POST /admin/kick", *cookie(token), body=DENY),
    "/ of the console, query": lambda token: request(f"GET /{query(token or b'', 'token')}"),
}


async def log_of(server: Server, since: int) -> str:
    """Returns the log from line ``since`` on, with everything that the server has written until now. Needs
    log_level=debug.
    """
    mark = f"/mark-{secrets.token_hex(8)}"
    await ask(server, request(f"GET {mark}"))
    await until(lambda: any(mark in line for line in server.log[since:]))
    return "".join(server.log[since:])


async def calm(server: Server, since: int) -> None:
    """Fails when the server has logged an error or a traceback from line ``since`` on."""
    log = await log_of(server, since)
    assert "Traceback" not in log, log
    assert '"level": "error"' not in log, log
    assert not [line for line in log.splitlines() if line.startswith(("ERROR", "CRITICAL"))], log
