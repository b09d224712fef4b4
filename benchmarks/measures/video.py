"""Measures one camera, 1280 x 720 pixels at 30 frames a second, with 1, 10 and 50 viewers.

The figures are encodings a frame, CPU a viewer, the delay from capture to arrival, and the effect of a viewer who stops
reading on the other viewers. WebGear of vidgear is measured for comparison.
"""

import re
import selectors
import socket
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field

from benchmarks import peers
from benchmarks.cameras import FRAMES_PER_SECOND, camera
from benchmarks.client import Client, Wire
from benchmarks.environments import Unavailable
from benchmarks.figures import Figure, Measured
from benchmarks.frames import PONG, head, message
from benchmarks.measures import Plan
from benchmarks.processes import OPEN_LIMITS, Server, sluice, token

CROWDS = 1, 10, 50
_FRAME_TIME = 1000 / FRAMES_PER_SECOND
_WIRE = Wire("/ws/video", b'"type":"frame"', b'"type":"error"')
_CAPTURED = re.compile(rb'"captured_at":\s*([\d.]+)')
_PART = b"Content-Type:image/jpeg"
_PING = 0x89


@dataclass(slots=True)
class Seen:
    """The frames that a group of viewers received in ``seconds``. Delays are in milliseconds, ``cpu`` is in seconds."""

    viewers: int
    seconds: float
    frames: int
    cpu: float
    delays: list[float] = field(default_factory=list)

    @property
    def share(self) -> float:
        """The share of the camera's frames that each viewer received."""
        return self.frames / self.viewers / (self.seconds * FRAMES_PER_SECOND)

    @property
    def cores(self) -> float:
        return self.cpu / self.seconds

    def delay(self, part: float) -> float:
        """Returns a quantile of the delays, in frame times. ``part`` is the quantile, for example 0.99."""
        return sorted(self.delays)[int(part * (len(self.delays) - 1))] / _FRAME_TIME


class Viewer:
    """A viewer with Sluice's protocol. A frame has arrived when its last byte has arrived."""

    def __init__(self, server: Server, number: int) -> None:
        self._client = Client(server.port, token(f"viewer{number}"), _WIRE)
        self._client.send(message(type="watch", watch="w", source="camera"))
        self._rest = bytearray()

    def fileno(self) -> int:
        return self._client.fileno()

    def read(self, seen: Seen) -> None:
        self._rest += self._client.receive(wait=False)
        while len(self._rest) >= 10:
            length, start = self._rest[1], 2
            if length > 125:
                start = 4 if length == 126 else 10
                length = int.from_bytes(self._rest[2:start], "big")
            if len(self._rest) < start + length:
                return
            if self._rest[0] == _PING:
                self._client.send((head(PONG, bytes(self._rest[start : start + length])), b""))
            elif captured := _CAPTURED.search(self._rest, start, start + min(length, 400)):
                seen.frames += 1
                seen.delays.append(time.time() * 1000 - float(captured[1]))
            del self._rest[: start + length]

    def close(self) -> None:
        self._client.close()


class Stream:
    """A viewer of WebGear, which sends JPEGs over HTTP in sequence. The JPEGs do not say when they were captured."""

    def __init__(self, server: Server, number: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", server.port))
        self._socket.sendall(b"GET /video HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        self._last = b""

    def fileno(self) -> int:
        return self._socket.fileno()

    def read(self, seen: Seen) -> None:
        data = self._last + self._socket.recv(1 << 16)
        seen.frames += data.count(_PART)
        self._last = data[-len(_PART) + 1 :]

    def close(self) -> None:
        self._socket.close()


def look(server: Server, kind: Callable[[Server, int], Viewer | Stream], viewers: int, seconds: float) -> Seen:
    crowd = [kind(server, number) for number in range(viewers)]
    with selectors.DefaultSelector() as selector:
        for viewer in crowd:
            selector.register(viewer, selectors.EVENT_READ)
        # Runs until the camera is open and all viewers have received their first frames.
        _read(selector, Seen(viewers, 1, 0, 0), 2)
        seen, before, started = Seen(viewers, 0, 0, 0), server.cpu_seconds(), time.perf_counter()
        _read(selector, seen, seconds)
        seen.seconds, seen.cpu = time.perf_counter() - started, server.cpu_seconds() - before
    for viewer in crowd:
        viewer.close()
    return seen


def _read(selector: selectors.BaseSelector, seen: Seen, seconds: float) -> None:
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        for key, _ in selector.select(0.05):
            key.fileobj.read(seen)  # type: ignore[union-attr]


def video(plan: Plan) -> Measured:
    seconds = max(plan.seconds * 2, 4)
    limits = {**OPEN_LIMITS, "video_grace": 60}
    try:
        with camera() as url, sluice(plan.workers, sources=f"camera={url}", **limits) as server:
            before = _encodings(server)
            ours = {viewers: look(server, Viewer, viewers, seconds) for viewers in CROWDS}
            encoded, captured = (after - at for after, at in zip(_encodings(server), before, strict=True))
            with_stopped = _with_stopped_viewer(server, seconds)
        figures = [*_figures(ours, with_stopped), Figure("encodings a frame", [encoded / captured], 1, "least")]
    except Unavailable as error:
        return Measured([Figure("live video", missing=str(error))])
    try:
        with camera() as url, peers.webgear(url) as server:
            theirs = {viewers: look(server, Stream, viewers, seconds) for viewers in CROWDS}
    except (Unavailable, RuntimeError, OSError) as error:
        return Measured([*figures, Figure("live video against WebGear", missing=str(error))])
    return Measured(figures + _compared(ours, theirs))


def _encodings(server: Server) -> tuple[float, float]:
    """Returns the numbers of frames encoded and captured so far."""
    with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/metrics") as page:
        text = page.read().decode()
    counts = [re.search(rf"sluice_video_{name}_total{{.*}} (\S+)", text) for name in ("encoded", "captured")]
    encoded, captured = (float(count[1]) if count else 0.0 for count in counts)
    return encoded, captured


def _with_stopped_viewer(server: Server, seconds: float) -> Seen:
    stopped = Viewer(server, 1000)
    try:
        return look(server, Viewer, 10, seconds)
    finally:
        stopped.close()


def _figures(ours: dict[int, Seen], with_stopped: Seen) -> list[Figure]:
    figures = []
    for viewers, seen in ours.items():
        figures.append(Figure(f"{viewers} viewers: delay p50, in frame times", [seen.delay(0.5)], 2, "least"))
        figures.append(Figure(f"{viewers} viewers: delay p99, in frame times", [seen.delay(0.99)], 2, "least"))
        figures.append(Figure(f"{viewers} viewers: share of the camera's frames that each receives", [seen.share]))
        figures.append(Figure(f"{viewers} viewers: cores", [seen.cores]))
    most = max(CROWDS)
    added = (ours[most].cores - ours[1].cores) / (most - 1) * 1000
    figures.append(Figure("CPU an added viewer", [added], unit="ms/s", digits=1))
    idle = [with_stopped.delay(0.99)]
    figures.append(Figure("10 viewers and one that stops reading: delay p99, in frame times", idle, 2, "least"))
    return figures


def _compared(ours: dict[int, Seen], theirs: dict[int, Seen]) -> list[Figure]:
    figures = []
    for viewers in CROWDS:
        cost = [each[viewers].cpu / max(each[viewers].frames, 1) for each in (ours, theirs)]
        figures.append(
            Figure(f"{viewers} viewers: WebGear's CPU a delivered frame against Sluice's", [cost[1] / cost[0]])
        )
        figures.append(
            Figure(f"{viewers} viewers: share of the frames that each WebGear viewer receives", [theirs[viewers].share])
        )
    return figures
