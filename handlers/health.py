"""/healthz: the process answers. /readyz: slices can be processed. /metrics: figures for Prometheus."""

import asyncio
import json

from handlers.core.http import BaseHandler, within
from works.metrics import Metrics

# Seconds between two measurements of the loop's lag. Each takes about 20 us.
_LAG_INTERVAL = 0.25


class HealthHandler(BaseHandler):
    def get(self) -> None:
        self.write({"status": "ok"})


class ReadyHandler(BaseHandler):
    async def get(self) -> None:
        faults = await self.services.faults()
        if faults:
            self.set_status(503)
        self.set_header("Content-Type", "application/json")
        self.finish(json.dumps({"status": "not ready" if faults else "ready", "faults": faults}))


class MetricsHandler(BaseHandler):
    async def get(self) -> None:
        if not within(self.address, self.context.http.metrics_allow):
            await self.authorize("admin")
        self.set_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
        self.finish(self.services.metrics.page())


async def watch_loop(metrics: Metrics) -> None:
    """Measures how late the event loop wakes from a sleep, until cancelled."""
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + _LAG_INTERVAL
        await asyncio.sleep(_LAG_INTERVAL)
        metrics.loop_lag.observe(max(loop.time() - due, 0))


routes = [(r"/healthz", HealthHandler), (r"/readyz", ReadyHandler), (r"/metrics", MetricsHandler)]
