"""Live video: one capture for each camera, and the newest frame for each viewer.

A live source is captured once and encoded once for each size, however many clients watch it. A file is opened
separately for each watch. A capture is a child process, so the server can kill a capture that hangs, or restart one
that crashed, while its viewers stay connected. A watch holds one frame, and a newer frame replaces it: a client that
reads slowly gets fewer frames, never old ones, and does not slow down other clients. The numbers of captures,
encodings, watches and waiting frames are all limited (`settings.py`).
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class WatchRequest:
    """A request of ``user`` to watch a source: at most ``fps`` frames a second, ``width`` pixels across, JPEG
    ``quality``.

    ``options`` is a JSON object: the options of ``action``, completed with defaults by the schema of the action.
    ``position`` is in seconds and applies only to files.
    """

    user: str
    fps: float
    width: int
    quality: int
    action: str = ""
    options: str = "{}"
    position: float = 0.0
    paused: bool = False
