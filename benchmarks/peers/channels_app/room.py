"""A chat room made with Django Channels and channels_redis. All clients are in the room and receive every message."""

import json
import os
import secrets
from typing import Any

import django
from channels.generic.websocket import AsyncWebsocketConsumer
from channels.routing import ProtocolTypeRouter, URLRouter
from django.conf import settings
from django.urls import path

layer = {
    "BACKEND": "channels_redis.core.RedisChannelLayer",
    # The default of 100 messages a channel would lose messages, because one channel serves all connections of a
    # process.
    "CONFIG": {"hosts": [os.environ["REDIS"]], "capacity": 100_000},
}
settings.configure(
    SECRET_KEY=secrets.token_hex(32),
    ALLOWED_HOSTS=["127.0.0.1"],
    INSTALLED_APPS=["channels"],
    CHANNEL_LAYERS={"default": layer},
)
django.setup()


class Room(AsyncWebsocketConsumer):
    async def connect(self) -> None:
        await self.channel_layer.group_add("room", self.channel_name)
        await self.accept()

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        if text_data == "join":
            return await self.send('{"joined":true}')
        await self.channel_layer.group_send("room", {"type": "said", "text": text_data})

    async def said(self, event: dict[str, Any]) -> None:
        await self.send(json.dumps({"text": event["text"]}, separators=(",", ":")))


application = ProtocolTypeRouter({"websocket": URLRouter([path("room", Room.as_asgi())])})
