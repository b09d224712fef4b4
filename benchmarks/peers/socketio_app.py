"""A chat room made with python-socketio, following the examples of its documentation.

All clients are in the room and receive every message.
"""

from typing import Any

import socketio

server = socketio.AsyncServer(async_mode="asgi", cors_allowed_origins="*", ping_interval=600)
application = socketio.ASGIApp(server)


@server.event
async def connect(sid: str, environ: dict[str, Any]) -> None:
    await server.enter_room(sid, "room")


@server.event
async def say(sid: str, text: str) -> None:
    await server.emit("message", {"text": text}, room="room")
