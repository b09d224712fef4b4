"""The process that a capture lives in: it reads its one order, limits itself, and shows a source until it is ended.

What it reads may have been made to break decoders, and what it reads from may hang: it can be killed at any moment.
"""

import json
import os
import socket
import sys
import threading
import traceback
from dataclasses import asdict, dataclass
from typing import Any

import cv2

from works.processes.child import limit_process
from works.processes.forkserver import Forkserver, serve
from works.video import camera
from works.video import playback as cursor
from works.video.frame_sender import FrameSender, follow, read_order


@dataclass(frozen=True, slots=True)
class CaptureSettings:
    """What every capture is started with: bytes of address space, and the most pixels across that it encodes."""

    memory: int
    most_width: int

    def forkserver(self) -> Forkserver:
        environment = {
            "OPENCV_LOG_LEVEL": "SILENT",
            "OPENCV_FFMPEG_LOGLEVEL": "-8",  # libavutil's AV_LOG_QUIET
            "OPENBLAS_NUM_THREADS": "1",
            "OMP_NUM_THREADS": "1",
            # Else glibc gives the memory of each picture back, and faults it in anew for the next.
            "MALLOC_TRIM_THRESHOLD_": str(64 << 20),
            "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
        }
        return Forkserver([json.dumps(asdict(self))], environment, "works.video.capture_child")


def _live(end: socket.socket, settings: CaptureSettings) -> None:
    limit_process(settings.memory)
    threading.excepthook = lambda thread: _crash(thread.exc_value)
    lines, outlet, orders = end.makefile("rb"), FrameSender(end, settings.most_width), cursor.Orders()
    first = read_order(lines)
    if first is None:
        return

    def obey(order: dict[str, Any]) -> None:
        if first["kind"] == "file":
            orders.put(order)
        elif "want" in order:
            outlet.order(order["want"])

    outlet.say(number=0)
    follow(lines, obey)
    try:
        if first["kind"] == "file":
            cursor.play(outlet, first, orders)
        else:
            camera.watch(outlet, first)
    except Exception as error:
        _crash(error)


def _crash(error: BaseException | None) -> None:
    """Ends the process, by which the server knows. Pictures too large for its memory are no fault of ours."""
    try:
        if error and not isinstance(error, MemoryError | cv2.error):
            # Not its words: they may quote an address.
            print(f"sluice: a capture failed: {type(error).__name__}", file=sys.stderr)
            traceback.print_tb(error.__traceback__)
    finally:
        os._exit(1)


def main(arguments: list[str]) -> None:
    """``python -m works.video.capture_child CONTROL SETTINGS``: what Forkserver starts."""
    settings = CaptureSettings(**json.loads(arguments[1]))
    serve(socket.socket(fileno=int(arguments[0])), lambda end: _live(end, settings))


if __name__ == "__main__":
    main(sys.argv[1:])
