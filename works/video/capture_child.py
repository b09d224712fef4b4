"""The process of one capture. It reads its parameters, limits its resources, and sends frames until it is killed.

A file or stream may have been crafted to break decoders, and a source may hang. Therefore the server may kill the
process at any moment.
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
from works.video import camera, playback
from works.video.frame_sender import FrameSender, read_command, read_commands


@dataclass(frozen=True, slots=True)
class CaptureSettings:
    """The settings of every capture process: the limit of its address space in bytes, and the
    widest frame in pixels.
    """

    memory: int
    most_width: int

    def forkserver(self) -> Forkserver:
        environment = {
            "OPENCV_LOG_LEVEL": "SILENT",
            "OPENCV_FFMPEG_LOGLEVEL": "-8",  # libavutil's AV_LOG_QUIET
            "OPENBLAS_NUM_THREADS": "1",
            "OMP_NUM_THREADS": "1",
            # With the default thresholds glibc returns the memory of each picture to the system. Then the next picture
            # causes page faults again.
            "MALLOC_TRIM_THRESHOLD_": str(64 << 20),
            "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
        }
        return Forkserver([json.dumps(asdict(self))], environment, "works.video.capture_child")


def _run_capture(end: socket.socket, settings: CaptureSettings) -> None:
    limit_process(settings.memory)
    threading.excepthook = lambda thread: _crash(thread.exc_value)
    lines, sender, commands = end.makefile("rb"), FrameSender(end, settings.most_width), playback.CommandQueue()
    parameters = read_command(lines)
    if parameters is None:
        return

    def apply(command: dict[str, Any]) -> None:
        if parameters["kind"] == "file":
            commands.put(command)
        elif "want" in command:
            sender.set_wants(command["want"])

    sender.report(number=0)
    read_commands(lines, apply)
    try:
        if parameters["kind"] == "file":
            playback.run(sender, parameters, commands)
        else:
            camera.run(sender, parameters)
    except Exception as error:
        _crash(error)


def _crash(error: BaseException | None) -> None:
    """Ends the process with status 1, which the server notices.

    Errors caused by pictures that are too large for the memory of the process are not logged.
    """
    try:
        if error and not isinstance(error, MemoryError | cv2.error):
            # The message of the error is not printed, because it may contain an address with a password.
            print(f"sluice: a capture failed: {type(error).__name__}", file=sys.stderr)
            traceback.print_tb(error.__traceback__)
    finally:
        os._exit(1)


def main(arguments: list[str]) -> None:
    """Runs a forkserver for captures: ``python -m works.video.capture_child CONTROL SETTINGS``,
    started by Forkserver.
    """
    settings = CaptureSettings(**json.loads(arguments[1]))
    serve(socket.socket(fileno=int(arguments[0])), lambda end: _run_capture(end, settings))


if __name__ == "__main__":
    main(sys.argv[1:])
