"""A FrameRate selects frames at a given rate, evenly spaced. It has no clock: the caller passes the times."""

# Frames arrive at uneven intervals. A frame that is early by up to this share of an interval is accepted. Otherwise a
# watch of 30 frames/s would lose every other frame of a camera that sends 30 frames/s.
_EARLY = 0.3


class FrameRate:
    def __init__(self, fps: float) -> None:
        self.fps = fps
        self._due = float("-inf")

    def due(self, now: float) -> bool:
        """Returns whether a frame captured at ``now`` (in seconds) is due, and counts a due frame as taken."""
        interval = 1 / self.fps
        if now < self._due - _EARLY * interval:
            return False
        # Frames that were missed in the past are not sent later: the next due time is counted from now.
        self._due = (self._due if now - self._due < interval else now) + interval
        return True
