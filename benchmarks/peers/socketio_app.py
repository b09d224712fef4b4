"""A room on python-socketio, as its documentation makes one: all who connect are in it, what one says goes to all."""

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
