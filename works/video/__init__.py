"""The promise of live video: one capture for each camera, the newest frame for each viewer.

A live source is captured once and encoded once for each size, however many watch it; a file is opened for each watch. A
capture is a child process, so one that hangs or crashes is killed and started again while its viewers stay. A watch
holds one frame, which a newer one replaces: a client that reads slowly gets fewer frames, never older ones, and does
not slow down the others. What is captured, encoded, watched or waits is bounded (`settings.py`).
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class WatchRequest:
    """What ``user`` requests: at most ``fps`` frames a second, ``width`` pixels across and JPEG ``quality``.

    ``options`` are those of ``action`` as its schema completes them. ``position`` is in seconds, and of files alone.
    """

    user: str
    fps: float
    width: int
    quality: int
    action: str = ""
    options: str = "{}"
    position: float = 0.0
    paused: bool = False
