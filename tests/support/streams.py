"""Cameras and recordings for the tests, produced by FFmpeg. The pixels of each frame contain its number.

The number is drawn as bits: white and black blocks of 40 x 40 pixels in two rows of eight. It can still be read after
H.264, JPEG compression and scaling down.
"""

import io
import signal
import socket
import subprocess
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
from PIL import Image as Pillow

from tests.support.ports import free_port

BITS, ACROSS, BLOCK = 16, 8, 40
WIDTH, HEIGHT = ACROSS * BLOCK, 2 * BLOCK + 100


def numbered(number: int) -> np.ndarray:
    """Returns a grey picture, uint8, (HEIGHT, WIDTH), whose blocks show this number."""
    picture = np.full((HEIGHT, WIDTH), 128, np.uint8)
    for bit in range(BITS):
        top, left = bit // ACROSS * BLOCK, bit % ACROSS * BLOCK
        picture[top : top + BLOCK, left : left + BLOCK] = 255 * (number >> bit & 1)
    return picture


def noisy(number: int) -> np.ndarray:
    """Returns the picture of ``numbered`` four times as large, with noise in its lower part: about 500 KB as a JPEG."""
    picture = np.kron(numbered(number), np.ones((4, 4), np.uint8))
    noise = np.random.default_rng(number).integers(0, 256, (4 * (HEIGHT - 2 * BLOCK), 4 * WIDTH), np.uint8)
    picture[8 * BLOCK :] = noise
    return picture


def number_in(jpeg: bytes) -> int:
    """Returns the number that a JPEG of any size shows."""
    picture = np.asarray(Pillow.open(io.BytesIO(jpeg)).convert("L"))
    block = picture.shape[1] / ACROSS
    number = 0
    for bit in range(BITS):
        y, x = (bit // ACROSS + 0.5) * block, (bit % ACROSS + 0.5) * block
        value = picture[int(y), int(x)]
        assert not 40 < value < 215, f"block {bit} is neither black nor white: {value}"
        number |= int(value > 128) << bit
    return number


def make_clip(path: Path, frames: int, fps: int = 25, draw: Callable[[int], np.ndarray] = numbered) -> Path:
    """Writes an H.264 film with a key frame every second, whose frames are numbered from 0, and returns its path."""
    height, width = draw(0).shape
    command = f"-f rawvideo -pix_fmt gray -s {width}x{height} -r {fps} -i - -c:v libx264 -preset ultrafast"
    command += f" -tune zerolatency -g {fps} -pix_fmt yuv420p -y"
    pictures = b"".join(draw(number).tobytes() for number in range(frames))
    subprocess.run(["ffmpeg", "-v", "error", *command.split(), str(path)], input=pictures, check=True, timeout=100)
    return path


def publish(clip: Path, url: str) -> "subprocess.Popen[bytes]":
    """Starts FFmpeg as a server at this http:// or rtmp:// address. It serves a single client and then ends."""
    form = "flv" if url.startswith("rtmp") else "mpegts"
    command = ["ffmpeg", "-v", "error", "-re", "-stream_loop", "-1", "-i", str(clip), "-c", "copy", "-f", form]
    return subprocess.Popen([*command, "-listen", "1", url], stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


class Camera:
    """A camera: an address that sends MPEG-TS over HTTP to every client, each time from the start of the clip, with
    FFmpeg.

    ``opened`` counts the clients that have connected.
    """

    def __init__(self, clip: Path) -> None:
        self.port, self.opened = free_port(), 0
        self.url = f"http://127.0.0.1:{self.port}/stream"
        self._clip = clip
        self._processes: list[subprocess.Popen[bytes]] = []
        self._listening: socket.socket | None = None
        self._changing = threading.Lock()

    def start(self) -> "Camera":
        self._listening = socket.create_server(("127.0.0.1", self.port))
        threading.Thread(target=self._accept, args=(self._listening,), daemon=True).start()
        return self

    def _accept(self, listening: socket.socket) -> None:
        with suppress(OSError):
            while True:
                end, _ = listening.accept()
                self.opened += 1
                threading.Thread(target=self._serve, args=(end, listening), daemon=True).start()

    def _serve(self, end: socket.socket, listening: socket.socket) -> None:
        command = ["ffmpeg", "-v", "error", "-re", "-stream_loop", "-1", "-i", str(self._clip), "-c", "copy"]
        with end, suppress(OSError):
            end.recv(1 << 16)
            end.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: video/mp2t\r\nConnection: close\r\n\r\n")
            with self._changing:
                if listening is not self._listening:
                    return  # the camera was lost in the meantime, so this client must not be served
                process = subprocess.Popen(
                    [*command, "-f", "mpegts", "-flush_packets", "1", "pipe:1"],
                    stdin=subprocess.DEVNULL,
                    stdout=end.fileno(),
                )
                self._processes.append(process)
            process.wait()

    def lose(self) -> None:
        """Stops serving all clients and stops listening, as when a camera is unplugged."""
        with self._changing:
            if self._listening:
                self._listening.shutdown(socket.SHUT_RDWR)
                self._listening.close()
                self._listening = None
            for process in self._processes:
                process.kill()
                process.wait()
            self._processes.clear()

    def freeze(self) -> None:
        """Stops sending while the connections stay open."""
        with self._changing:
            for process in self._processes:
                process.send_signal(signal.SIGSTOP)


class Deaf:
    """An address that accepts connections but never sends a byte."""

    def __init__(self) -> None:
        self._listening = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.url = f"http://127.0.0.1:{self._listening.getsockname()[1]}/"

    def close(self) -> None:
        self._listening.close()
