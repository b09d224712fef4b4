"""The child's end of the socket to the server: orders in, words and encoded frames out. Frames are encoded once for
each size and quality, whoever asked for it, and never cross the socket as pixels."""

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

# Bytes of one order; the server's longest has a few hundred.
MOST_ORDER = 64 << 10


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
    """``say`` and ``show`` are for one thread; ``due`` for one, which may be another."""

    def __init__(self, end: socket.socket, most_width: int) -> None:
        self._end, self._most_width = end, most_width
        self._paces: dict[Want, FrameRate] = {}
        self.wants: tuple[Want, ...] = ()

    def order(self, wants: Sequence[Sequence[Any]]) -> None:
        """From now on these feeds are served."""
        self.wants = tuple(Want(*want) for want in wants)

    def due(self, now: float) -> frozenset[Want]:
        """The feeds that are to have the frame of this moment, in seconds."""
        wants = self.wants
        known = self._paces
        self._paces = {want: known.get(want) or FrameRate(want.fps) for want in wants}
        return frozenset(want for want in wants if self._paces[want].due(now))

    def say(self, **members: Any) -> None:
        self._send(members, b"")

    def show(self, shot: Shot, wants: frozenset[Want]) -> None:
        """Encodes the picture for these feeds. A width beyond the picture's own is its own: nothing is enlarged."""
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
            os._exit(0)  # the server has hung up


def read_order(lines: IO[bytes]) -> dict[str, Any] | None:
    """The next order of the server; None when it has hung up."""
    line = lines.readline(MOST_ORDER)
    return json.loads(line) if line else None


def follow(lines: IO[bytes], obey: Callable[[dict[str, Any]], None]) -> None:
    """Has orders obeyed in a thread. When the server hangs up the process ends at once, stuck or not."""

    def listen() -> None:
        try:
            while order := read_order(lines):
                obey(order)
        finally:
            os._exit(0)

    threading.Thread(target=listen, daemon=True).start()
