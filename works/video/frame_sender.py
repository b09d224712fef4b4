"""The child's side of the socket to the server: it receives commands and sends reports and encoded frames.

Each frame is encoded once for each size and quality. Raw pixels are never sent over the socket.
"""

import json
import os
import socket
import threading
from collections.abc import Callable, Sequence
from typing import IO, Any, NamedTuple

import cv2

from works.imaging.codec import resize
from works.imaging.pixels import Image, size_of
from works.processes.channel import LENGTHS
from works.video.frame_rate import FrameRate

# The longest line of a command. The server's longest command has a few hundred bytes.
MAX_COMMAND_BYTES = 64 << 10


class Want(NamedTuple):
    """One feed of the server: at most ``width`` pixels across, JPEG ``quality``, at most ``fps`` frames a second."""

    key: int
    width: int
    quality: int
    fps: float


class Shot(NamedTuple):
    """One captured picture: its number, its time in seconds, and when it was captured (milliseconds since 1970)."""

    number: int
    pts: float
    captured_at: int
    image: Image


class FrameSender:
    """Sends reports and frames to the server.

    One thread must call ``report`` and ``send_frame``. One thread, which may be another, must call ``due``.
    """

    def __init__(self, end: socket.socket, most_width: int) -> None:
        self._end, self._most_width = end, most_width
        self._rates: dict[Want, FrameRate] = {}
        self.wants: tuple[Want, ...] = ()

    def set_wants(self, wants: Sequence[Sequence[Any]]) -> None:
        """Replaces the list of wanted feeds: [key, width, quality, fps] of each."""
        self.wants = tuple(Want(*want) for want in wants)

    def due(self, now: float) -> frozenset[Want]:
        """Returns the feeds that must get a frame captured at ``now`` (in seconds)."""
        wants = self.wants
        known = self._rates
        self._rates = {want: known.get(want) or FrameRate(want.fps) for want in wants}
        return frozenset(want for want in wants if self._rates[want].due(now))

    def report(self, **members: Any) -> None:
        self._send(members, b"")

    def send_frame(self, shot: Shot, wants: frozenset[Want]) -> None:
        """Encodes the picture and sends it to these feeds. A picture is never enlarged."""
        width, height = size_of(shot.image)
        groups: dict[tuple[int, int], list[int]] = {}
        for want in wants:
            groups.setdefault((min(want.width, width, self._most_width), want.quality), []).append(want.key)
        for (across, quality), keys in groups.items():
            size = across, max(1, round(height * across / width))
            encoded = cv2.imencode(".jpg", resize(shot.image, size), [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
            frame = {"keys": keys, "pts": round(shot.pts, 3), "captured_at": shot.captured_at, "size": size}
            self._send({"frame": frame, "number": shot.number}, encoded.tobytes())

    def _send(self, members: dict[str, Any], payload: bytes) -> None:
        header = json.dumps(members).encode()
        try:
            self._end.sendall(LENGTHS.pack(len(header), len(payload)) + header + payload)
        except OSError:
            os._exit(0)  # the server has closed the connection


def read_command(lines: IO[bytes]) -> dict[str, Any] | None:
    """Returns the next command of the server, or None when the server has closed the connection."""
    line = lines.readline(MAX_COMMAND_BYTES)
    return json.loads(line) if line else None


def read_commands(lines: IO[bytes], apply: Callable[[dict[str, Any]], None]) -> None:
    """Applies commands in a thread.

    The process ends immediately when the server closes the connection, even if the capture hangs.
    """

    def listen() -> None:
        try:
            while set_wants := read_command(lines):
                apply(set_wants)
        finally:
            os._exit(0)

    threading.Thread(target=listen, daemon=True).start()
