"""The metrics of the server, each declared once. They belong to one object, so that each test can have its own."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Metrics:
    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.queue_depth = self._gauge("queue_depth", "Slices that are accepted and waiting")
        self.queue_bytes = self._gauge("queue_bytes", "Bytes of the slices that are accepted and waiting")
        self.running = self._gauge("running", "Slices that are being processed")
        self.connections = self._gauge("connections", "Open WebSocket connections")
        self.event_syncs = self._gauge(
            "event_syncs", "Times that the event store waited for the disk (fsync) since the start"
        )
        self.wait = self._histogram("wait_seconds", "Seconds that a slice waited in the queue")
        self.work = self._histogram("work_seconds", "Seconds that a slice was processed, in the decoder child")
        self.loop_lag = self._histogram("loop_lag_seconds", "Seconds by which the event loop runs a timer too late")
        self.slices = self._counter(
            "slices", "Slices that ended, by outcome: done, or the code of the error", "outcome"
        )
        self.refusals = self._counter(
            "refusals", "Connections, requests and messages that were refused, by reason", "reason"
        )
        self.child_deaths = self._counter("child_deaths", "Decoder children that ended, by reason", "reason")
        self.video_captures = self._gauge("video_captures", "Open video captures, each of which is a child process")
        self.video_watches = self._gauge("video_watches", "Watches of all video sources")
        self.video_captured = self._counter("video_captured", "Video frames captured, by source", "source")
        self.video_encoded = self._counter(
            "video_encoded", "Video frames encoded, by source and once for all viewers", "source"
        )
        self.video_sent = self._counter("video_sent", "Video frames sent to viewers, by source", "source")
        self.video_dropped = self._counter(
            "video_dropped", "Video frames that a newer frame replaced before they were sent, by source", "source"
        )

    def watch(self, gauge: Gauge, value: Callable[[], float]) -> None:
        """Makes ``gauge`` call ``value`` whenever it is read."""
        gauge.set_function(value)

    def page(self) -> bytes:
        """Returns all metrics in the text format of Prometheus."""
        return generate_latest(self.registry)

    def _gauge(self, name: str, text: str) -> Gauge:
        return Gauge(f"sluice_{name}", text, registry=self.registry)

    def _counter(self, name: str, text: str, label: str) -> Counter:
        return Counter(f"sluice_{name}", text, [label], registry=self.registry)

    def _histogram(self, name: str, text: str) -> Histogram:
        return Histogram(f"sluice_{name}", text, registry=self.registry, buckets=_SECONDS)
