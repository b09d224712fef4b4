"""A Watch is one viewer of a source. It holds one frame, which a newer frame replaces, and the viewer's controls."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from works.errors import WorkError
from works.video import WatchRequest
from works.video.feed import Feed
from works.video.frame import Frame
from works.video.frame_rate import FrameRate
from works.video.source import Source

Ready = Callable[[], None]
Notify = Callable[[dict[str, Any]], None]


class Counter(Protocol):
    def inc(self, amount: float = 1) -> None: ...


@dataclass(frozen=True, slots=True)
class SourceCounters:
    """The metrics of one source, each counted in frames."""

    captured: Counter
    encoded: Counter
    sent: Counter
    dropped: Counter


class WatchedCapture(Protocol):
    """The interface of a capture that a Watch uses."""

    source: Source
    duration: float | None
    """Seconds. None for a live source, and for a file that does not declare a duration."""

    def describe(self) -> dict[str, Any]:
        """Returns the members of a ``state`` message, including ``state``."""

    def steer(self, **changes: Any) -> None:
        """Sets ``paused``, ``seek`` (seconds) or ``speed`` of a file."""

    def update_wants(self) -> None:
        """Updates the encodings that the child produces. Must be called when a watch was paused or resumed."""


class Watch:
    """One viewer of a source.

    ``ready`` is called when there is a frame to take, ``notify`` with any other message for the viewer. When a message
    contains ``ended``, the watch is already closed. ``paused`` applies to live sources only: for a file, the capture
    itself is paused.
    """

    def __init__(self, request: WatchRequest, ready: Ready, notify: Notify, counts: SourceCounters) -> None:
        self.user, self.fps, self.paused = request.user, request.fps, False
        self.dropped = 0
        self.newest: Frame | None = None
        self.capture: WatchedCapture
        self.feed: Feed
        self.size: tuple[int, int]
        """The width in pixels and the JPEG quality of the feed."""
        self.release: Callable[[], None]
        self.notify = notify
        self._ready, self._counts = ready, counts
        self._rate = FrameRate(request.fps)
        self._closed = False

    @property
    def is_file(self) -> bool:
        return self.capture.source.kind == "file"

    def offer(self, frame: Frame) -> None:
        if self.paused:
            return
        # The feed runs at the rate of its fastest receiver, so a slower receiver must drop frames here.
        if self.fps < self.feed.fps and not frame.placeholder and not self._rate.due(time.monotonic()):
            return
        if self.newest is not None:
            self.dropped += 1
            self._counts.dropped.inc()
        self.newest = frame
        self._ready()

    def take(self) -> Frame | None:
        """Takes the newest frame out of the slot. The caller must send it immediately."""
        frame, self.newest = self.newest, None
        if frame:
            self._counts.sent.inc()
        return frame

    def action_failed(self, error: WorkError, action: str) -> None:
        self.notify({"type": "error", **error.as_dict(), "action": action})

    def state(self) -> dict[str, Any]:
        members = self.capture.describe()
        return {**members, "state": "paused"} if self.paused and members["state"] == "playing" else members

    def pause(self) -> None:
        self._set_paused(True)

    def play(self) -> None:
        """Resumes the watch. A file that has reached its end starts from the beginning."""
        self._set_paused(False)

    def _set_paused(self, paused: bool) -> None:
        if self.is_file:
            return self.capture.steer(paused=paused)
        self.paused = paused
        if paused:
            self.newest = None
        self.capture.update_wants()
        self.notify({"type": "state", **self.state()})

    def seek(self, position: float) -> None:
        """Seeks to ``position`` (seconds). Raises WorkError for a live source and for a position beyond the end."""
        if not self.is_file:
            raise WorkError("bad_message", f"position: {self.capture.source.name} is live; only files can be sought")
        check_position(position, self.capture.duration)
        self.capture.steer(seek=position)

    def speed(self, factor: float) -> None:
        """Sets the speed of a file, 1 being normal. Raises WorkError for a live source."""
        if not self.is_file:
            raise WorkError("bad_message", f"factor: {self.capture.source.name} is live; only files have a speed")
        self.capture.steer(speed=factor)

    def close(self) -> None:
        if not self._closed:
            self._closed, self.newest = True, None
            self.release()


def check_position(position: float, duration: float | None) -> None:
    """Raises WorkError when ``position`` is beyond the end (both in seconds)."""
    if duration is not None and position > duration:
        raise WorkError("bad_message", f"position: {position:g} s is beyond the end at {duration:.3f} s")
