"""Tests of a live source over /ws/video: one capture and one encoding for all viewers, who each get the
newest frame.
"""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.client import narrow
from tests.support.running import Server, Start, until
from tests.support.streams import Camera, make_clip, noisy, number_in
from tests.support.watching import Viewer, sources

Make = Callable[[Path], Camera]


@pytest.fixture
def large_frames(make_camera: Make, tmp_path: Path) -> Camera:
    """A live source with large frames."""
    return make_camera(make_clip(tmp_path / "large_frames.mp4", 10, fps=10, draw=noisy))


def counted(server: Server, what: str, source: str = "gate") -> float:
    return server.metric(f"sluice_video_{what}_total", source=source)


async def crowd(server: Server, count: int, **members: object) -> list[Viewer]:
    viewers = [await Viewer.enter(server, f"user{number}") for number in range(count)]
    for viewer in viewers:
        assert (await viewer.watch("gate", **members))["type"] == "watching"
    return viewers


async def dismiss(viewers: list[Viewer]) -> None:
    for viewer in viewers:
        await viewer.socket.close()


async def check_shared(server: Server, camera: Camera, count: int) -> None:
    """Checks that ``count`` viewers need only one capture and one encoding of a frame, and see the same frames."""
    viewers = await crowd(server, count)
    seen = [{frame["seq"]: number_in(frame["payload"]) for frame in frames} for frames in await _frames(viewers, 10)]
    assert camera.opened == 1
    assert server.metric("sluice_video_captures") == 1
    assert server.metric("sluice_video_watches") == count
    first = seen[0]
    for other in seen:
        assert list(other.values()) == sorted(set(other.values()))
        assert {seq: number for seq, number in other.items() if seq in first}.items() <= first.items()
    await dismiss(viewers)
    await until(lambda: server.metric("sluice_video_watches") == 0)
    assert counted(server, "encoded") <= counted(server, "captured")
    assert counted(server, "sent") >= 10 * count


async def _frames(viewers: list[Viewer], count: int) -> list[list[dict[str, object]]]:
    async def some(viewer: Viewer) -> list[dict[str, object]]:
        return [await viewer.frame() for _ in range(count)]

    return await asyncio.gather(*map(some, viewers))


async def test_many_viewers_share_one_capture_and_one_encoding(start_here: Start, camera: Camera) -> None:
    await check_shared(start_here(sources=sources(gate=camera.url)), camera, 8)


@pytest.mark.slow
async def test_fifty_viewers_share_one_capture_and_one_encoding(start: Start, camera: Camera) -> None:
    await check_shared(start(sources=sources(gate=camera.url)), camera, 50)


async def test_each_size_is_encoded_once_and_no_size_above_that_of_the_source(
    start_here: Start, camera: Camera
) -> None:
    server = start_here(sources=sources(gate=camera.url))
    async with await Viewer.enter(server) as viewer:
        for width in (None, 320, 640, 1920):
            await viewer.watch("gate", f"w{width}", **({"width": width} if width else {}))
        await viewer.watch("gate", "half", width=160)
        for watch in ("wNone", "w320", "w640", "w1920"):
            assert (await viewer.frame(watch))["width"] == 320
        small = await viewer.frame("half")
        assert (small["width"], small["height"]) == (160, 90)
        assert number_in(small["payload"]) >= 0, "it can be read off it, also of the very first"
    await until(lambda: server.metric("sluice_video_watches") == 0)
    assert counted(server, "encoded") <= 2 * counted(server, "captured")


async def test_beyond_video_sizes_a_watch_gets_the_nearest_size(start_here: Start, camera: Camera) -> None:
    server = start_here(sources=sources(gate=camera.url), video_sizes=2)
    async with await Viewer.enter(server) as viewer:
        assert (await viewer.watch("gate", "a", width=100))["width"] == 100
        assert (await viewer.watch("gate", "b", width=200))["width"] == 200
        assert (await viewer.watch("gate", "c", width=120))["width"] == 200
        assert (await viewer.watch("gate", "d", width=300))["width"] == 200
        assert (await viewer.frame("d"))["width"] == 200
        for watch in "bcd":
            await viewer.send("stop", watch=watch)
        assert (await viewer.watch("gate", "e", width=300))["width"] == 300


async def test_pausing_a_live_source_does_not_affect_other_viewers(start_here: Start, camera: Camera) -> None:
    server = start_here(sources=sources(gate=camera.url))
    async with await Viewer.enter(server, "bob") as bob, await Viewer.enter(server) as alice:
        await alice.watch("gate")
        await alice.frame()
        await bob.watch("gate")
        await alice.send("pause", watch="w")
        await alice.state("paused")
        await bob.numbers(5)
        await alice.send("sources")
        assert (await alice.receive())["type"] == "sources"  # no frame was sent before this answer
        await alice.send("play", watch="w")
        await alice.state("playing")
        newest = (await bob.frame())["seq"]
        assert (await alice.frame())["seq"] >= newest - 5
        assert camera.opened == 1


async def test_a_lower_frame_rate_is_evenly_spaced(start_here: Start, camera: Camera) -> None:
    server = start_here(sources=sources(gate=camera.url))
    async with await Viewer.enter(server) as viewer:
        await viewer.watch("gate", "all")
        began = time.monotonic()
        await viewer.watch("gate", "few", fps=2)
        few = [await viewer.frame("few") for _ in range(6)]
        # The rate is checked by the server's clock: at most one frame every half second. Arrival times say little,
        # because frames may arrive together after a pause.
        assert time.monotonic() - began > 5 * 0.5 - 0.2
        assert [frame["pts"] for frame in few] == sorted({frame["pts"] for frame in few})
        # Frames that are left out for the rate do not count as dropped. Frames that count as dropped are also dropped
        # in the other watch.
        assert few[-1]["dropped"] <= (await viewer.frame("all"))["dropped"]


async def test_a_viewer_that_stops_reading_does_not_affect_the_others(start_here: Start, large_frames: Camera) -> None:
    """When the slow viewer reads again, it gets the newest frame immediately, and the number of frames that it has
    lost.
    """
    server = start_here(sources=sources(gate=large_frames.url), stall_timeout=600, ping_interval=600)
    async with await Viewer.enter(server, "bob") as bob:
        await bob.watch("gate")
        slow = await Viewer.enter(server, sock=narrow(server), max_queue=1)
        slow.socket.transport.pause_reading()
        await slow.send("watch", watch="w", source="gate")
        dropped = dropped_by_bob = 0.0
        while dropped <= dropped_by_bob:  # if this test reads slowly, bob loses frames too
            dropped = counted(server, "dropped")
            await bob.send("sources")
            # a frame that arrives after this answer was sent after the dropped frames were counted
            await bob.wait_for("sources")
            frame = await bob.frame()
            dropped_by_bob = frame["dropped"]
        newest = (await bob.frame())["seq"]
        slow.socket.transport.resume_reading()
        lost = 0
        while not lost or frame["seq"] <= newest:
            frame = await slow.frame()
            lost = max(lost, frame["dropped"])
        slow.abort()
        await slow.socket.wait_closed()


@pytest.mark.chaos
async def test_a_viewer_that_never_reads_again_is_disconnected(start_here: Start, large_frames: Camera) -> None:
    server = start_here(sources=sources(gate=large_frames.url), stall_timeout=1)
    slow = await Viewer.enter(server, sock=narrow(server), max_queue=1)
    slow.socket.transport.pause_reading()
    await slow.send("watch", watch="w", source="gate")
    await until(lambda: server.metric("sluice_refusals_total", reason="slow_reader") > 0)
    await until(lambda: server.metric("sluice_video_watches") == 0)
    slow.abort()
    await slow.socket.wait_closed()


async def test_a_capture_stays_open_during_video_grace_after_its_last_viewer(start_here: Start, camera: Camera) -> None:
    server = start_here(sources=sources(gate=camera.url), video_grace=3600)
    for _ in range(3):
        async with await Viewer.enter(server) as viewer:
            await viewer.watch("gate")
            await viewer.frame()
        await until(lambda: server.metric("sluice_video_watches") == 0)
    assert camera.opened == 1
    assert server.metric("sluice_video_captures") == 1


@pytest.mark.slow
async def test_a_capture_is_closed_after_video_grace(start: Start, camera: Camera) -> None:
    server = start(sources=sources(gate=camera.url), video_grace=0.01)
    async with await Viewer.enter(server) as viewer:
        await viewer.watch("gate")
        await viewer.frame()
    await until(lambda: server.metric("sluice_video_captures") == 0)
    async with await Viewer.enter(server) as viewer:
        await viewer.watch("gate")
        await viewer.frame()
    assert camera.opened == 2


async def test_an_idle_capture_is_closed_when_another_is_needed(
    start_here: Start, camera: Camera, make_camera: Make, clip: Path
) -> None:
    other = make_camera(clip)
    server = start_here(sources=sources(gate=camera.url, yard=other.url), video_captures=1, video_grace=3600)
    async with await Viewer.enter(server) as viewer:
        await viewer.watch("gate", "a")
        refusal = await viewer.watch("yard", "b")
        assert (refusal["code"], refusal["temporary"]) == ("busy", True)
        assert "video_captures" in refusal["message"]
        await viewer.send("stop", watch="a")
        assert (await viewer.watch("yard", "b"))["type"] == "watching"
        await viewer.frame("b")


async def test_the_frames_of_an_action_pass_through_the_slice_queue_and_contain_its_findings(
    start_here: Start, camera: Camera
) -> None:
    server = start_here(sources=sources(gate=camera.url))
    async with await Viewer.enter(server) as viewer:
        await viewer.watch("gate", "plain")
        plain = await viewer.frame("plain")
        watching = await viewer.watch("gate", "edges", action="edges")
        assert watching["action"] == "edges"
        edges = [await viewer.frame("edges") for _ in range(3)]
        assert [edge["seq"] for edge in edges] == sorted({edge["seq"] for edge in edges})
        assert edges[0]["payload"] != plain["payload"]
        done = server.metric("sluice_slices_total", outcome="done")
        await viewer.watch("gate", "again", action="edges")
        await viewer.frame("again")
        await viewer.send("stop", watch="edges")
        await viewer.send("stop", watch="again")
        await viewer.wait_for("stopped", watch="again")
        await viewer.watch("gate", "codes", action="codes")
        assert (await viewer.frame("codes"))["data"] == {"codes": []}
    assert done >= 3
    assert counted(server, "encoded") <= counted(server, "captured")
