"""A FrameRate thins frames evenly to a number a second. It has no clock: the caller passes the times."""

# Frames come unevenly; one that is early by this share of an interval is taken, or a camera of 30 frames/s watched
# at 30 would lose every other one.
_EARLY = 0.3


class FrameRate:
    def __init__(self, fps: float) -> None:
        self.fps = fps
        self._due = float("-inf")

    def due(self, now: float) -> bool:
        """Whether the frame of this moment, in seconds, is to be taken; it is then counted as taken."""
        interval = 1 / self.fps
        if now < self._due - _EARLY * interval:
            return False
        # What was missed is not made up for.
        self._due = (self._due if now - self._due < interval else now) + interval
        return True
