"""Tests of recordings over /ws/video: each watch has a separate position that plays, pauses, seeks, changes speed and
ends.
"""

import base64
import shutil
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import cv2
import pytest

from tests.support.films import sound
from tests.support.running import Server, until
from tests.support.streams import number_in, numbered
from tests.support.watching import Viewer, sources


@pytest.fixture(scope="module")
def trap() -> Iterator[socket.socket]:
    """An address to which the server must never connect."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.setblocking(False)
        yield listening


@pytest.fixture(scope="module")
def server(
    trap: socket.socket, clip: Path, long_clip: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """A server with recordings of every kind, valid and invalid."""
    folder = tmp_path_factory.mktemp("recordings")
    album = folder / "album"
    album.mkdir()
    for number in (3, 1, 2):
        cv2.imwrite(str(album / f"{number}.png"), numbered(number))
    shutil.copy(clip, album / "4.mp4")
    (album / "0.txt").write_text("no picture")
    (folder / "text").write_text("this is no video\n" * 100)
    elsewhere = f"http://127.0.0.1:{trap.getsockname()[1]}/a.ts"
    (folder / "playlist.m3u8").write_text(f"#EXTM3U\n#EXTINF:1,\n{elsewhere}\n#EXT-X-ENDLIST\n")
    (folder / "sound").write_bytes(sound(".m4a"))
    (folder / "torn").write_bytes(clip.read_bytes()[:5000])
    (folder / "empty").mkdir()
    named = {name: folder / name for name in ("album", "text", "playlist", "sound", "torn", "empty", "missing")}
    named["playlist"] = folder / "playlist.m3u8"
    places = sources(yard=clip, road=long_clip, **named)
    running = Server(folder, sources=places, connections_per_user=100, video_captures=8)
    yield running
    running.stop()


@pytest.fixture
async def viewer(server: Server) -> AsyncIterator[Viewer]:
    async with await Viewer.enter(server) as viewer:
        yield viewer


async def test_a_file_is_shown_from_its_start_frame_by_frame(viewer: Viewer) -> None:
    watching = await viewer.watch("yard")
    message = {name: watching[name] for name in ("source", "kind", "shared", "duration", "fps", "size", "position")}
    assert message == {
        "source": "yard",
        "kind": "file",
        "shared": False,
        "duration": 10.0,
        "fps": 25.0,
        "size": [320, 180],
        "position": 0.0,
    }
    frames = [await viewer.frame() for _ in range(20)]
    numbers = [number_in(frame["payload"]) for frame in frames]
    assert numbers[0] == 0
    assert numbers == sorted(set(numbers))
    for frame, number in zip(frames, numbers, strict=True):
        assert frame["pts"] == pytest.approx(number / 25)
        assert frame["seq"] == number + 1
        assert (frame["width"], frame["height"], frame["source"]) == (320, 180, "yard")


async def test_hello_and_the_answer_to_sources_list_the_same_sources(viewer: Viewer) -> None:
    assert {"name": "yard", "kind": "file", "state": "idle"} in viewer.hello["sources"]
    await viewer.send("sources")
    message = await viewer.wait_for("sources")
    assert message["sources"] == viewer.hello["sources"]
    assert 1_700_000_000_000 < viewer.hello["now"] <= message["now"]


async def test_after_a_seek_no_frame_from_before_it_is_sent(viewer: Viewer) -> None:
    await viewer.watch("yard")
    for position in (7.0, 2.0, 9.0):
        await viewer.frame()
        await viewer.send("seek", watch="w", position=position)
        while (await viewer.state("playing"))["position"] != position:
            pass
        assert await viewer.numbers(1) == [position * 25]


async def test_while_paused_only_a_seek_shows_a_frame(viewer: Viewer) -> None:
    await viewer.watch("yard", paused=True, position=4.0)
    assert await viewer.numbers(1) == [100]
    await viewer.send("seek", watch="w", position=8.0)
    assert await viewer.numbers(1) == [200]
    # Taking a snapshot takes some time, in which frames would arrive.
    await viewer.send("snapshot", id="s", source="yard", position=1.0, max_age=0)
    while (message := await viewer.receive())["type"] != "snapshot":
        assert message["type"] != "frame"
    await viewer.send("play", watch="w")
    numbers = await viewer.numbers(3)
    assert 200 < numbers[0] < numbers[1] < numbers[2]


async def test_pause_keeps_the_position_and_play_continues_from_it(viewer: Viewer) -> None:
    await viewer.watch("yard")
    await viewer.frame()
    await viewer.send("pause", watch="w")
    last = 0
    while (message := await viewer.wait_for("frame", "state")).get("state") != "paused":
        last = number_in(message["payload"]) if message["type"] == "frame" else last
    await viewer.send("play", watch="w")
    first, second = await viewer.numbers(2)
    assert last <= first < second


async def test_the_last_frame_is_sent_then_the_state_ended_and_play_starts_again(viewer: Viewer) -> None:
    await viewer.watch("yard", position=9.8)
    numbers = []
    while (message := await viewer.wait_for("frame", "state")).get("state") != "ended":
        numbers += [number_in(message["payload"])] if message["type"] == "frame" else []
    assert numbers[-1] == 249
    assert message["position"] == 10.0
    await viewer.send("play", watch="w")
    assert (await viewer.state("playing"))["position"] == 0.0
    assert (await viewer.numbers(1)) == [0]


async def test_a_viewer_can_seek_to_the_end_and_back(viewer: Viewer) -> None:
    await viewer.watch("yard", paused=True)
    assert await viewer.numbers(1) == [0]
    await viewer.send("seek", watch="w", position=10.0)
    assert await viewer.numbers(1) == [249]
    await viewer.send("play", watch="w")
    await viewer.state("ended")
    await viewer.send("seek", watch="w", position=3.0)
    assert await viewer.numbers(1) == [75]


async def test_a_changed_speed_does_not_change_the_position(viewer: Viewer) -> None:
    await viewer.watch("road", fps=240)
    seen = await viewer.numbers(2)
    for factor in (4, 0.1, 0.5, 16):
        await viewer.send("speed", watch="w", factor=factor)
        assert (await viewer.state("playing", "ended"))["factor"] == factor
        seen += await viewer.numbers(2)
    assert seen == sorted(set(seen))
    await viewer.state("ended")


async def test_each_watch_of_a_file_has_a_separate_position(viewer: Viewer, server: Server) -> None:
    await viewer.watch("yard", "a", paused=True, position=2.0)
    assert await viewer.numbers(1, "a") == [50]
    await viewer.watch("yard", "b", paused=True, position=6.0)
    assert await viewer.numbers(1, "b") == [150]
    await viewer.send("seek", watch="b", position=7.0)
    assert await viewer.numbers(1, "b") == [175]
    await viewer.send("play", watch="a")
    assert 50 < (await viewer.numbers(1, "a"))[0] < 150
    assert server.metric("sluice_video_captures") >= 2


async def test_a_stopped_watch_is_closed_and_its_name_can_be_used_again(viewer: Viewer, server: Server) -> None:
    for position in (1.0, 2.0, 3.0):
        await viewer.watch("yard", paused=True, position=position)
        assert await viewer.numbers(1) == [position * 25]
        await viewer.send("stop", watch="w")
        await viewer.wait_for("stopped", watch="w")
    await until(lambda: server.metric("sluice_video_captures") == 0)


async def test_a_watch_can_be_stopped_before_it_is_open(viewer: Viewer, server: Server) -> None:
    for _ in range(10):
        await viewer.send("watch", watch="w", source="yard")
        await viewer.send("stop", watch="w")
        await viewer.wait_for("stopped", watch="w")
    assert (await viewer.watch("yard"))["type"] == "watching"
    await until(lambda: server.metric("sluice_video_captures") == 1)
    assert server.metric("sluice_video_watches") == 1


async def test_a_closed_socket_ends_its_watches(server: Server) -> None:
    viewer = await Viewer.enter(server)
    await viewer.watch("yard", "a")
    await viewer.send("watch", watch="b", source="yard")
    viewer.abort()
    await until(lambda: server.metric("sluice_video_captures") == 0)
    assert server.metric("sluice_video_watches") == 0


async def test_frames_are_scaled_down_but_never_up(viewer: Viewer) -> None:
    await viewer.watch("yard", "small", width=160, quality=95)
    await viewer.watch("yard", "large", width=1000)
    small, large = await viewer.frame("small"), await viewer.frame("large")
    assert (small["width"], small["height"]) == (160, 90)
    assert number_in(small["payload"]) == small["seq"] - 1
    assert (large["width"], large["height"]) == (320, 180)


async def test_frames_are_sent_as_json_on_request(viewer: Viewer) -> None:
    await viewer.watch("yard", encoding="base64", paused=True, position=1.0)
    frame = await viewer.frame()
    assert "payload" not in frame
    assert number_in(base64.b64decode(frame["jpeg"])) == 25


async def test_with_a_window_the_server_waits_for_seen(viewer: Viewer) -> None:
    await viewer.watch("yard", window=2)
    first, second = await viewer.frame(), await viewer.frame()
    await viewer.send("speed", watch="w", factor=16)
    while (message := await viewer.wait_for("frame", "state")).get("state") != "ended":
        assert message["type"] == "state"
    await viewer.send("seen", watch="w", seq=first["seq"])
    third = await viewer.frame()
    assert third["seq"] > second["seq"]
    assert third["dropped"] > 0


async def test_a_folder_plays_its_pictures_and_films_in_the_order_of_their_names(viewer: Viewer) -> None:
    watching = await viewer.watch("album", paused=True)
    assert watching["duration"] == 13.0
    shown = await viewer.numbers(1)
    for position in (1.5, 2.0, 3.0, 5.0, 0.0):
        await viewer.send("seek", watch="w", position=position)
        shown += await viewer.numbers(1)
    assert shown == [1, 2, 3, 0, 50, 1]
    await viewer.send("play", watch="w")
    await viewer.send("speed", watch="w", factor=16)
    await viewer.state("ended")


async def test_a_recording_cannot_make_the_server_open_an_address(viewer: Viewer, trap: socket.socket) -> None:
    assert (await viewer.watch("playlist"))["code"] == "unsupported_format"
    with pytest.raises(BlockingIOError):
        trap.accept()


@pytest.mark.parametrize("source", ["text", "sound", "empty", "torn"])
async def test_a_file_that_is_not_a_video_is_refused_with_the_reason(viewer: Viewer, source: str) -> None:
    refusal = await viewer.watch(source)
    assert (refusal["type"], refusal["code"], refusal["temporary"]) == ("error", "unsupported_format", False)
    assert source in refusal["message"]
    assert (await viewer.watch("yard"))["type"] == "watching"


async def test_a_missing_file_is_a_temporary_error(viewer: Viewer) -> None:
    refusal = await viewer.watch("missing")
    assert (refusal["code"], refusal["temporary"]) == ("not_found", True)


BAD: list[tuple[str, dict[str, Any], str]] = [
    ("watch", {"watch": "x", "source": "elsewhere"}, "not_found"),
    ("watch", {"watch": "x", "source": "http://127.0.0.1:1/"}, "not_found"),
    ("watch", {"watch": "x", "source": "yard", "url": "http://127.0.0.1:1/"}, "bad_message"),
    ("watch", {"watch": "w", "source": "yard"}, "bad_message"),
    ("watch", {"watch": "x", "source": "yard", "position": 10.5}, "bad_message"),
    ("watch", {"watch": "x", "source": "yard", "fps": 0}, "bad_message"),
    ("watch", {"watch": "x", "source": "yard", "fps": 1e-320}, "bad_message"),
    ("watch", {"watch": "x", "source": "yard", "width": 0}, "bad_message"),
    ("watch", {"watch": "x", "source": "yard", "quality": 101}, "bad_message"),
    ("watch", {"watch": "x", "source": "yard", "action": "explode"}, "unknown_action"),
    ("watch", {"watch": "x", "source": "yard", "action": "blur", "options": {"radius": -1}}, "bad_options"),
    ("seek", {"watch": "w", "position": 10.001}, "bad_message"),
    ("seek", {"watch": "w", "position": -1}, "bad_message"),
    ("seek", {"watch": "x", "position": 1}, "not_found"),
    ("speed", {"watch": "w", "factor": 0}, "bad_message"),
    ("speed", {"watch": "w", "factor": 1000}, "bad_message"),
    ("pause", {"watch": "x"}, "not_found"),
    ("stop", {"watch": "x"}, "not_found"),
    ("snapshot", {"id": "s", "source": "elsewhere"}, "not_found"),
]


@pytest.mark.parametrize(("type", "members", "code"), BAD)
async def test_bad_input_is_refused_and_changes_nothing(
    viewer: Viewer, type: str, members: dict[str, Any], code: str
) -> None:
    await viewer.watch("yard", paused=True)
    refusal = await viewer.refusal(type, **members)
    assert refusal["code"] == code
    assert {refusal.get("watch"), refusal.get("id")} == {members.get("watch"), members.get("id")}
    await viewer.send("play", watch="w")
    first, second = await viewer.numbers(2)
    assert first < second
