"""A slice server on Django Channels: OpenCV's reduced decode, area resize and encode in a pool of two threads.

It implements only the part of sluice.v2 that the load generator uses: a 4-byte length, JSON and the picture as request,
and JSON as response.
"""

import asyncio
import json
import secrets
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import django
import numpy as np
from channels.generic.websocket import AsyncWebsocketConsumer
from channels.routing import ProtocolTypeRouter, URLRouter
from django.conf import settings
from django.urls import path

settings.configure(SECRET_KEY=secrets.token_hex(32), ALLOWED_HOSTS=["127.0.0.1"], INSTALLED_APPS=["channels"])
django.setup()
cv2.setNumThreads(1)  # the threads of the pool already use all cores
MEDIA = Path("media")
MEDIA.mkdir(exist_ok=True)
pool = ThreadPoolExecutor(2)


def work(payload: bytes, zoom: float) -> str:
    data = np.frombuffer(payload, np.uint8)
    image = cv2.imdecode(data, cv2.IMREAD_REDUCED_COLOR_2 if zoom == 0.5 else cv2.IMREAD_COLOR)
    assert image is not None
    if zoom != 0.5:
        height, width = image.shape[:2]
        image = cv2.resize(image, (int(width * zoom), int(height * zoom)), interpolation=cv2.INTER_AREA)
    _, encoded = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 85])
    name = secrets.token_hex(16) + ".jpg"
    (MEDIA / name).write_bytes(encoded.tobytes())
    return name


class Slices(AsyncWebsocketConsumer):
    async def connect(self) -> None:
        self.working: set[asyncio.Task[None]] = set()
        await self.accept()

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        # One task for each message. A consumer that waited for the result here would use only one thread of the pool.
        task = asyncio.create_task(self.answer(bytes_data or b""))
        self.working.add(task)
        task.add_done_callback(self.working.discard)

    async def answer(self, message: bytes) -> None:
        end = 4 + int.from_bytes(message[:4], "big")
        header: dict[str, Any] = json.loads(message[4:end])
        name = await asyncio.get_running_loop().run_in_executor(pool, work, message[end:], header["zoom"])
        answer = {"type": "result", "id": header["id"], "url": f"http://127.0.0.1/media/{name}"}
        await self.send(json.dumps(answer, separators=(",", ":")))


application = ProtocolTypeRouter({"websocket": URLRouter([path("ws/images", Slices.as_asgi())])})
