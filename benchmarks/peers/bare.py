"""A plain WebSocket server on Tornado, to measure the least that an idle connection can cost."""

import asyncio
import resource
import sys

from tornado.web import Application
from tornado.websocket import WebSocketHandler


class Silent(WebSocketHandler):
    def open(self, *args: str, **kwargs: str) -> None:
        self.set_nodelay(True)


async def main(port: int, ping_interval: float) -> None:
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    application = Application([(r"/ws/images", Silent)], websocket_ping_interval=ping_interval)
    application.listen(port, "127.0.0.1", backlog=1024)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), float(sys.argv[2])))
