"""The figures Sluice publishes, each named once. Held by one object, so that a test has its own."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Metrics:
    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.queue_depth = self._gauge("queue_depth", "Slices accepted and not yet begun")
        self.queue_bytes = self._gauge("queue_bytes", "Bytes of the slices accepted and not yet begun")
        self.running = self._gauge("running", "Slices being worked")
        self.connections = self._gauge("connections", "Open WebSocket connections")
        self.event_syncs = self._gauge("event_syncs", "How often the disk of the events was waited for since the start")
        self.wait = self._histogram("wait_seconds", "From accepted to begun")
        self.work = self._histogram("work_seconds", "From begun to done, in the child")
        self.loop_lag = self._histogram("loop_lag_seconds", "How late the event loop runs a timer")
        self.slices = self._counter("slices", "Slices ended, by outcome: done or the error's code", "outcome")
        self.refusals = self._counter("refusals", "Connections and messages refused, by reason", "reason")
        self.child_deaths = self._counter("child_deaths", "Decoder children that ended, by reason", "reason")
        self.video_captures = self._gauge("video_captures", "Video captures that are open, a child process each")
        self.video_watches = self._gauge("video_watches", "Watches of all video sources")
        self.video_captured = self._counter("video_captured", "Frames captured, by source", "source")
        self.video_encoded = self._counter("video_encoded", "Frames encoded, by source", "source")
        self.video_sent = self._counter("video_sent", "Frames sent, by source", "source")
        self.video_dropped = self._counter("video_dropped", "Frames that newer ones replaced, by source", "source")

    def watch(self, gauge: Gauge, value: Callable[[], float]) -> None:
        """Has ``gauge`` read at the moment it is asked for, instead of being kept up to date."""
        gauge.set_function(value)

    def page(self) -> bytes:
        """All of them, in Prometheus's text format."""
        return generate_latest(self.registry)

    def _gauge(self, name: str, text: str) -> Gauge:
        return Gauge(f"sluice_{name}", text, registry=self.registry)

    def _counter(self, name: str, text: str, label: str) -> Counter:
        return Counter(f"sluice_{name}", text, [label], registry=self.registry)

    def _histogram(self, name: str, text: str) -> Histogram:
        return Histogram(f"sluice_{name}", text, registry=self.registry, buckets=_SECONDS)
