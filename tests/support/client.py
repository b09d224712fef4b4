"""A client of sluice.v2 for the tests, on the websockets library, so that the protocol is tested
with independent code.
"""

import asyncio
import json
import socket
import struct
from typing import Any

import websockets
from websockets.asyncio.client import ClientConnection
from websockets.frames import Frame, Opcode

from tests.support.pictures import small
from tests.support.running import GUARD, Server, until

# The members of a slice that keeps a worker busy for far longer than any test lasts: 50 megapixels, blurred.
PLUG: dict[str, Any] = {"action": "blur", "options": {"radius": 50}, "zoom": 78}

# How often a test tries again with a new token when a token has expired before a busy machine checked it.
TRIES = 50


class Client:
    """A connected client. Create it by ``await Client.connect(server)``, which also reads its ``hello``. ``async with``
    closes it.
    """

    def __init__(self, server: Server, socket: ClientConnection) -> None:
        self.server = server
        self.socket = socket
        self.hello: dict[str, Any] = {}

    @classmethod
    async def connect(cls, server: Server, name: str = "alice", path: str = "/ws/images", **options: Any) -> "Client":
        token = options.pop("token", None) or server.token(name)
        headers = {"Authorization": f"Bearer {token}"} | options.pop("headers", {})
        socket = await websockets.connect(
            server.ws + path,
            additional_headers=headers,
            subprotocols=[websockets.Subprotocol("sluice.v2")],
            compression=None,
            max_size=None,
            proxy=None,
            **options,
        )
        client = cls(server, socket)
        try:
            client.hello = await client.receive()
            assert client.hello["type"] == "hello"
        except BaseException:
            client.abort()
            raise
        return client

    async def __aenter__(self) -> "Client":
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.socket.close()

    async def send(self, type: str, **members: Any) -> None:
        await self.socket.send(json.dumps({"type": type, **members}))

    async def slice(self, id: str, payload: bytes, offset_top: float = 0, **members: Any) -> None:
        """Sends a slice as a binary message."""
        header = json.dumps({"type": "slice", "id": id, "offset_top": offset_top, **members}).encode()
        await self.socket.send(struct.pack(">I", len(header)) + header + payload)

    async def receive(self, seconds: float = GUARD) -> dict[str, Any]:
        """Returns the next message. The payload of a binary message is its member ``payload``."""
        # not wait_for, which in Python 3.11 ignores a cancellation when a message arrives at the same moment
        async with asyncio.timeout(seconds):
            message = await self.socket.recv()
        if isinstance(message, str):
            return json.loads(message)
        (length,) = struct.unpack_from(">I", message)
        return {**json.loads(message[4 : 4 + length]), "payload": message[4 + length :]}

    async def wait_for(self, *types: str, **members: Any) -> dict[str, Any]:
        """Returns the next message that has one of these types and all these members; other messages are discarded."""
        while True:
            message = await self.receive()
            if message["type"] in types and all(message.get(name) == value for name, value in members.items()):
                return message

    async def ends(self, count: int) -> list[dict[str, Any]]:
        """Returns the next ``count`` terminal messages (results, and errors with a seq), in the order of arrival."""
        found: list[dict[str, Any]] = []
        while len(found) < count:
            message = await self.receive()
            if message["type"] in ("result", "error") and "seq" in message:
                found.append(message)
        return found

    async def closed(self) -> int:
        """Returns the close code, once the server has closed the connection."""
        try:
            while True:
                await asyncio.wait_for(self.socket.recv(), GUARD)
        except websockets.ConnectionClosed:
            return self.socket.close_code or 1006

    async def plug(self, id: str = "plug", offset_top: float = 0) -> None:
        """Occupies a worker until this slice is cancelled or times out."""
        await self.slice(id, small(), offset_top, **PLUG)
        await self.wait_for("accepted", id=id)
        await until(lambda: self.server.metric("sluice_running") >= 1)

    def flood(self, type: str, count: int, **members: Any) -> None:
        """Sends the same message ``count`` times in one write.

        After all messages are sent, the client can read the close reason of the server. A client that is still sending
        when the server closes may only find that the connection is lost.
        """
        text = json.dumps({"type": type, **members}).encode()
        self.socket.transport.write(b"".join(Frame(Opcode.TEXT, text).serialize(mask=True) for _ in range(count)))

    def abort(self) -> None:
        """Drops the TCP connection without closing the WebSocket, as a lost network does."""
        self.socket.transport.abort()


async def admitted(server: Server, ttl: float) -> Client:
    """Connects with a token that expires after ``ttl`` seconds.

    On a busy machine such a token may expire before the server checks it. Then the client tries again with another
    token.
    """
    for _ in range(TRIES):
        try:
            return await Client.connect(server, token=server.token(ttl=ttl))
        except websockets.InvalidStatus as error:
            if error.response.status_code != 401:
                raise
    raise AssertionError("the server refused every token")


async def shortened(client: Client, ttl: float) -> float:
    """Replaces the client's token by one that expires after ``ttl`` seconds, and returns the new expiry time."""
    for _ in range(TRIES):
        await client.send("token", token=client.server.token(ttl=ttl))
        answer = await client.wait_for("renewed", "error")
        if answer["type"] == "renewed":
            return float(answer["expires_at"])
    raise AssertionError("the server accepted no new token")


def narrow(server: Server) -> socket.socket:
    """Returns a TCP connection with a small receive buffer, as ``sock`` of Client.connect."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
    connection.connect(("127.0.0.1", server.port))
    return connection


def upgrade(path: str = "/ws/images", token: str = "") -> bytes:
    """Returns the bytes of a WebSocket upgrade request, for tests that do not wait for the answer."""
    lines = [f"GET {path} HTTP/1.1", "Host: x", "Upgrade: websocket", "Connection: Upgrade"]
    lines += ["Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="]
    lines += [f"Authorization: Bearer {token}"] if token else []
    return "\r\n".join([*lines, "", ""]).encode()
