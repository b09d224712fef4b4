"""A camera: ffmpeg plays a clip of 1280 x 720 pixels at 30 frames a second in a loop, to a single client.

The clip is encoded once. It moves across a photograph, so that its frames are as large as those of a real camera.
"""

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.environments import Unavailable
from benchmarks.pictures import CACHE, photographs
from benchmarks.processes import free_port

FRAMES_PER_SECOND = 30
_SECONDS = 20


def clip() -> Path:
    path = CACHE / "camera.ts"
    if not path.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        photograph = max(photographs(), key=lambda each: each.stat().st_size)
        wander = "scale=2560:-2,crop=1280:720:640+600*sin(t/3):(ih-720)/2*(1+cos(t/5)),format=yuv420p"
        subprocess.run(
            [
                "ffmpeg",
                "-loglevel",
                "error",
                "-y",
                "-loop",
                "1",
                "-framerate",
                str(FRAMES_PER_SECOND),
                "-i",
                photograph,
                "-t",
                str(_SECONDS),
                "-vf",
                wander,
                "-c:v",
                "libx264",
                "-preset",
                "veryfast",
                "-tune",
                "zerolatency",
                "-g",
                "30",
                path,
            ],
            check=True,
        )
    return path


@contextmanager
def camera() -> Iterator[str]:
    """Runs a camera and yields its URL. Raises Unavailable when ffmpeg is not installed."""
    if not shutil.which("ffmpeg"):
        raise Unavailable("ffmpeg is missing (Debian: ffmpeg)")
    url = f"http://127.0.0.1:{free_port()}/camera.ts"
    play = ["ffmpeg", "-loglevel", "quiet", "-re", "-stream_loop", "-1", "-i", str(clip()), "-c", "copy"]
    player = subprocess.Popen([*play, "-f", "mpegts", "-listen", "1", url])
    try:
        yield url
    finally:
        player.kill()
        player.wait()
