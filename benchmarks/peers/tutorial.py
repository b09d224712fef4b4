"""A slice server as in tutorials: Tornado, a temporary file, imread, resize, imwrite, and one worker thread.

It implements only the part of sluice.v2 that the load generator uses: a 4-byte length, JSON and the picture as request,
and JSON as response.
"""

import asyncio
import json
import secrets
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
from tornado.web import Application
from tornado.websocket import WebSocketHandler

MEDIA = Path("media")
thread = ThreadPoolExecutor(1)


def work(payload: bytes, zoom: float) -> str:
    with tempfile.NamedTemporaryFile(suffix=".jpg") as file:
        file.write(payload)
        file.flush()
        image = cv2.imread(file.name)
    assert image is not None
    height, width = image.shape[:2]
    image = cv2.resize(image, (int(width * zoom), int(height * zoom)), interpolation=cv2.INTER_AREA)
    name = secrets.token_hex(16) + ".jpg"
    cv2.imwrite(str(MEDIA / name), image, [cv2.IMWRITE_JPEG_QUALITY, 85])
    return name


class Slices(WebSocketHandler):
    async def on_message(self, message: str | bytes) -> None:
        assert isinstance(message, bytes)
        end = 4 + int.from_bytes(message[:4], "big")
        header = json.loads(message[4:end])
        name = await asyncio.get_running_loop().run_in_executor(thread, work, message[end:], header["zoom"])
        answer = {"type": "result", "id": header["id"], "url": f"http://{self.request.host}/media/{name}"}
        await self.write_message(json.dumps(answer, separators=(",", ":")))


async def main(port: int) -> None:
    MEDIA.mkdir(exist_ok=True)
    Application([(r"/ws/images", Slices)]).listen(port, "127.0.0.1")
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
