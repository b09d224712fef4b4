"""Tests of cameras that fail, hang, or do not exist: their viewers are notified and stay, and the frames continue
later.
"""

import asyncio
import io
import signal
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest
from PIL import Image as Pillow

from tests.support.ports import free_port
from tests.support.running import Server, Start, alive, until
from tests.support.streams import Camera, Deaf, publish
from tests.support.watching import Viewer, sources


@pytest.fixture
def deaf() -> Iterator[Deaf]:
    deaf = Deaf()
    yield deaf
    deaf.close()


def captures(server: Server) -> list[psutil.Process]:
    """Returns the processes of the open captures."""
    for child in psutil.Process(server.process.pid).children():
        if "works.video.capture_child" in child.cmdline():
            return [each for each in child.children() if alive(each)]
    return []


@pytest.mark.chaos
async def test_viewers_of_a_lost_camera_are_notified_and_stay_until_it_is_back(
    start_here: Start, camera: Camera
) -> None:
    server = start_here(sources=sources(gate=camera.url), video_retry=0.5)
    async with await Viewer.enter(server) as viewer:
        await viewer.watch("gate")
        before = await viewer.frame()
        camera.lose()
        message = await viewer.state("reconnecting")
        assert message["reason"] == "ended"
        assert 0 < message["retry_ms"] <= 500
        grey = await viewer.frame(placeholder=True)
        assert (grey["width"], grey["height"], grey["pts"]) == (320, 180, None)
        assert Pillow.open(io.BytesIO(grey["payload"])).size == (320, 180)
        assert (await viewer.state("reconnecting"))["reason"] == "unreachable"
        async with await Viewer.enter(server, "late") as late:
            assert (await late.watch("gate"))["state"] == "reconnecting"
            assert await late.frame(placeholder=True)
            camera.start()
            await late.frame()
        await viewer.state("playing")
        after = await viewer.frame()
        assert after["seq"] > grey["seq"] > before["seq"]
        numbers = await viewer.numbers(3)
        assert numbers == sorted(set(numbers))


@pytest.mark.parametrize(
    "scheme", [pytest.param("rtmp", marks=pytest.mark.slow), pytest.param("http", marks=pytest.mark.slow)]
)
async def test_a_publishing_ffmpeg_can_be_killed_and_started_again(start: Start, long_clip: Path, scheme: str) -> None:
    url = f"{scheme}://127.0.0.1:{free_port()}/live/gate"
    server = start(sources=sources(gate=url), video_retry=0.5)
    async with await Viewer.enter(server) as viewer:
        assert (await viewer.watch("gate"))["state"] == "connecting"
        assert (await viewer.state("reconnecting"))["reason"] == "unreachable"
        for _ in range(2):
            publisher = publish(long_clip, url)
            try:
                await viewer.state("playing")
                numbers = await viewer.numbers(5)
                assert numbers == sorted(set(numbers))
            finally:
                publisher.kill()
                publisher.wait()
            await viewer.state("reconnecting")
        assert server.metric("sluice_video_captures") == 1


@pytest.mark.chaos
async def test_a_camera_that_never_sends_does_not_delay_other_watches(
    start_here: Start, camera: Camera, deaf: Deaf, clip: Path
) -> None:
    server = start_here(sources=sources(deaf=deaf.url, gate=camera.url, yard=clip), video_watchdog=10, video_retry=1)
    async with await Viewer.enter(server) as viewer:
        for number in range(4):
            await viewer.watch("deaf", f"d{number}")
        await viewer.watch("yard", "y", paused=True)
        await viewer.watch("gate", "g")
        await viewer.frame("g")
        assert (await viewer.state("reconnecting", watch="d0"))["reason"] == "silent"
        assert (await viewer.frame("d3", placeholder=True))["placeholder"]
        await viewer.send("seek", watch="y", position=2.0)
        await viewer.frame("y")
        await viewer.frame("g")


@pytest.mark.chaos
async def test_a_camera_that_stops_sending_is_opened_again(start: Start, camera: Camera) -> None:
    server = start(sources=sources(gate=camera.url), video_watchdog=5)
    async with await Viewer.enter(server) as viewer:
        await viewer.watch("gate")
        await viewer.frame()
        (stuck,) = captures(server)
        camera.freeze()
        assert (await viewer.state("reconnecting"))["reason"] == "silent"
        await viewer.state("playing")
        await viewer.frame()
        await until(lambda: not alive(stuck))
        assert camera.opened >= 2


@pytest.mark.chaos
async def test_a_killed_capture_does_not_affect_the_others(start: Start, camera: Camera, clip: Path) -> None:
    server = start(sources=sources(gate=camera.url, yard=clip))
    async with await Viewer.enter(server) as viewer:
        await viewer.watch("gate", "g")
        await viewer.frame("g")
        (live,) = captures(server)
        await viewer.watch("yard", "y", position=5.0, paused=True)
        await viewer.frame("y")
        (cursor,) = set(captures(server)) - {live}
        live.send_signal(signal.SIGKILL)
        assert (await viewer.state("reconnecting", watch="g"))["reason"] == "crashed"
        await viewer.frame("g")
        cursor.send_signal(signal.SIGKILL)
        assert (await viewer.state("reconnecting", watch="y"))["reason"] == "crashed"
        # A file continues where it was.
        assert (await viewer.state("paused", watch="y"))["position"] == 5.0
        assert await viewer.numbers(1, "y") == [125]


async def test_a_seek_is_answered_when_it_is_done_and_not_before(start: Start, clip: Path) -> None:
    server = start(sources=sources(yard=clip))
    async with await Viewer.enter(server) as viewer:
        await viewer.watch("yard", paused=True, position=2.0)
        assert await viewer.numbers(1) == [50]
        (cursor,) = captures(server)
        cursor.suspend()
        await viewer.send("seek", watch="w", position=7.0)
        await viewer.send("speed", watch="w", factor=2)
        message = await viewer.wait_for("state")
        assert (message["factor"], message["position"]) == (2, 2.0)
        cursor.resume()
        assert (await viewer.state("paused"))["position"] == 7.0
        assert await viewer.numbers(1) == [175]
        # A seek is not forgotten either when its process ends before the seek is done.
        cursor.suspend()
        await viewer.send("seek", watch="w", position=4.0)
        await viewer.send("speed", watch="w", factor=1)
        while (await viewer.wait_for("state"))["factor"] != 1:
            pass
        cursor.kill()
        while (await viewer.state("paused"))["position"] != 4.0:
            pass
        assert await viewer.numbers(1) == [100]


@pytest.mark.chaos
async def test_a_file_that_crashes_its_process_repeatedly_ends_the_watch(start: Start, clip: Path) -> None:
    server = start(sources=sources(yard=clip))
    async with await Viewer.enter(server) as viewer:
        await viewer.watch("yard", paused=True)
        for _ in range(2):
            await until(lambda: len(captures(server)) == 1)
            captures(server)[0].send_signal(signal.SIGKILL)
            await viewer.state("paused")
        captures(server)[0].send_signal(signal.SIGKILL)
        message = await viewer.wait_for("error")
        assert (message["code"], message["watch"], message["ended"]) == ("crashed", "w", True)
        assert (await viewer.watch("yard"))["type"] == "watching"


@pytest.mark.chaos
async def test_captures_end_with_a_killed_server(start: Start, camera: Camera, deaf: Deaf) -> None:
    server = start(sources=sources(gate=camera.url, deaf=deaf.url))
    viewer = await Viewer.enter(server)
    await viewer.watch("gate", "g")
    await viewer.watch("deaf", "d")
    await viewer.frame("g")
    await until(lambda: len(captures(server)) == 2)
    running = captures(server)
    server.stop(signal.SIGKILL)
    await until(lambda: not any(map(alive, running)))
    viewer.abort()


@pytest.mark.chaos
async def test_a_stopping_server_ends_its_captures(start: Start, camera: Camera) -> None:
    server = start(sources=sources(gate=camera.url))
    viewer = await Viewer.enter(server)
    await viewer.watch("gate")
    await viewer.frame()
    running = captures(server)
    assert await asyncio.to_thread(server.stop) == 0
    await until(lambda: not any(map(alive, running)))
    assert await viewer.closed() == 1012


async def test_a_snapshot_of_a_camera_that_sends_nothing_times_out(start_here: Start, deaf: Deaf) -> None:
    server = start_here(sources=sources(deaf=deaf.url), video_watchdog=1, video_grace=0.01)
    headers = {"Authorization": f"Bearer {server.token(scope='video')}"}
    async with httpx.AsyncClient(timeout=60) as http:
        answer = await http.get(f"{server.url}/video/deaf/snapshot.jpg", headers=headers)
    assert answer.status_code == 504
    assert answer.json()["error"]["code"] == "timeout"
    await until(lambda: server.metric("sluice_video_captures") == 0)
