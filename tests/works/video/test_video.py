"""Tests of live video without a socket: the setting of sources, the frame rate, actions on frames, and recordings."""

import asyncio
import itertools
import json
import socket
import subprocess
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.support.running import until
from tests.support.streams import Camera, make_clip, number_in
from works.errors import Busy, WorkError
from works.imaging.task import Result, Task
from works.metrics import Metrics
from works.processes.channel import LENGTHS
from works.processes.forkserver import Forkserver
from works.queue.order import Viewport
from works.video.capture_child import CaptureSettings
from works.video.capture_process import CaptureGone, CaptureProcess
from works.video.feed import ActionFeed
from works.video.frame import Frame
from works.video.frame_rate import FrameRate
from works.video.media_reader import VideoFile
from works.video.placeholder import placeholder
from works.video.service import VideoService
from works.video.settings import VideoSettings
from works.video.source import parse_sources

PLACE = "rtsp://admin:hunter2@10.0.0.7/stream1"


def test_sources_can_be_written_as_words() -> None:
    named = parse_sources(f" yard=clip.mp4  gate={PLACE}\ncam=/dev/video0 a=file:b.mp4 ")
    kinds = {name: (source.url, source.kind) for name, source in named.items()}
    assert kinds == {
        "yard": (str(Path("clip.mp4").absolute()), "file"),
        "gate": (PLACE, "live"),
        "cam": ("/dev/video0", "live"),
        "a": (str(Path("b.mp4").absolute()), "file"),
    }
    assert parse_sources("") == {}


def test_a_film_in_memory_is_not_a_device() -> None:
    assert parse_sources("film=/dev/shm/clip.mp4")["film"].kind == "file"


def test_a_path_is_relative_to_the_folder_in_which_the_server_was_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert parse_sources("yard=clips/a.mp4")["yard"].url == str(tmp_path / "clips" / "a.mp4")


def test_sources_can_be_written_as_json_or_in_a_json_file(tmp_path: Path) -> None:
    text = json.dumps(
        {
            "gate": {"url": PLACE, "users": ["al*"], "scope": "guard", "viewers": 3, "transport": "udp"},
            "film": {"url": "https://films.example/a.mp4", "kind": "file"},
            "yard": "a clip.mp4",
        }
    )
    (tmp_path / "sources.json").write_text(text)
    for text_or_path in (text, str(tmp_path / "sources.json")):
        named = parse_sources(text_or_path)
        assert [source.kind for source in named.values()] == ["live", "file", "file"]
        gate = named["gate"]
        assert (gate.viewers, gate.transport) == (3, "udp")
        assert gate.open_to("alice", frozenset({"video", "guard"}))
        assert not gate.open_to("alice", frozenset({"video"}))
        assert not gate.open_to("bob", frozenset({"video", "guard"}))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("yard", "word 1"),
        ("=clip.mp4", "a name must"),
        ("a/b=clip.mp4", "a name must"),
        ("a=1.mp4 a=2.mp4", "used twice"),
        ("a=gopher://admin:hunter2@x/", "gopher is unknown; use rtsp"),
        ("{", "not a valid JSON object"),
        ('{"a": 1}', "a: "),
        ('{"a": {}}', "url"),
        ('{"a": {"url": "rtsp://admin:hunter2@x/", "kind": "file"}}', "kind"),
        ('{"a": {"url": "clip.mp4", "kind": "live"}}', "kind"),
        ('{"a": {"url": "clip.mp4", "viewers": 0}}', "viewers"),
        ('{"a": {"url": "rtsp://admin:hunter2@x/", "pasword": "hunter2"}}', "pasword"),
        ("missing.json", "cannot be read"),
    ],
)
def test_an_invalid_setting_names_the_mistake_but_not_the_place(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why) as caught:
        parse_sources(text)
    assert "hunter2" not in str(caught.value)


def test_the_repr_of_a_source_does_not_contain_its_place() -> None:
    assert "hunter2" not in repr(parse_sources(f"gate={PLACE}"))


@pytest.mark.parametrize(("source_fps", "wanted"), [(30, 30), (30, 60), (30, 15), (30, 20), (25, 10), (30, 1)])
def test_frames_are_reduced_evenly_to_the_wanted_rate(source_fps: int, wanted: int) -> None:
    rate = FrameRate(wanted)
    # Frames arrive like those of a camera: each up to a fifth of an interval early or late.
    times = [(number + 0.2 * (number % 3 - 1)) / source_fps for number in range(20 * source_fps)]
    taken = [time for time in times if rate.due(time)]
    expected = 20 * min(source_fps, wanted)
    assert expected * 0.97 <= len(taken) <= expected * 1.03 + 1
    assert max(later - earlier for earlier, later in pairwise(taken)) < 2.5 / min(source_fps, wanted)


def test_missed_frames_are_not_sent_later() -> None:
    rate = FrameRate(10)
    assert rate.due(0.0)
    assert rate.due(5.0)
    assert not rate.due(5.01)
    assert rate.due(5.1)


def test_the_placeholder_has_the_requested_shape() -> None:
    assert placeholder(320, 180)[:2] == (320, 180)
    assert placeholder(3840, 2160)[:2] == (1280, 720)
    assert placeholder(1, 1)[2].startswith(b"\xff\xd8")


def test_a_film_can_be_sought_by_time(clip: Path) -> None:
    film = VideoFile(str(clip))
    assert (film.duration, film.fps, film.size) == (10.0, 25.0, (320, 180))
    for position, found in ((0.0, 0.0), (9.99, 9.96), (4.0, 4.0), (2.52, 2.52), (0.0, 0.0)):
        film.seek(position)
        assert film.advance() == pytest.approx(found)
        assert film.picture() is not None
    assert film.advance() == pytest.approx(0.04)


def test_a_film_without_timestamps_is_shown_at_its_frame_rate(clip: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare.h264"
    subprocess.run(["ffmpeg", "-v", "error", "-i", str(clip), "-c", "copy", str(bare)], check=True, timeout=60)
    film = VideoFile(str(bare))
    assert film.duration is None
    for _ in range(2):
        assert [film.advance() for _ in range(4)] == pytest.approx([0.0, 0.04, 0.08, 0.12])
        film.seek(0.0)


async def receive_until_gone(process: CaptureProcess) -> None:
    """Receives messages of a capture until it is gone."""
    while True:
        await process.receive(60)


async def test_a_failing_thread_of_a_capture_ends_the_process(camera: Camera) -> None:
    forkserver = CaptureSettings(memory=1 << 30, most_width=1920).forkserver()
    process = CaptureProcess(forkserver)
    try:
        await process.open({"kind": "live", "url": camera.url, "transport": "tcp", "beat": 1.0})
        process.send({"want": [[0, 320, 80, 0.0]]})  # a frame rate of zero causes a division by zero in the child
        with pytest.raises(CaptureGone):
            await receive_until_gone(process)
    finally:
        process.kill()
        await asyncio.to_thread(forkserver.close)


class ForkserverWithoutChild(Forkserver):
    """A forkserver without a child: the test itself sends messages through the other end of the socket."""

    def fork(self) -> tuple[int, socket.socket]:
        ours, self.child = socket.socketpair()
        ours.setblocking(False)
        return 1, ours


@pytest.mark.parametrize("message", [b"[]", b"7", b"{", b"[" * 100_000])
async def test_a_capture_that_sends_an_invalid_message_counts_as_gone(message: bytes) -> None:
    forkserver = ForkserverWithoutChild([], {}, "")
    process = CaptureProcess(forkserver)
    await process.open({})
    with forkserver.child as child:
        await asyncio.to_thread(child.sendall, LENGTHS.pack(len(message), 0) + message)
        with pytest.raises(CaptureGone):
            await process.receive(60)
    process.kill()


class Queue:
    """A WorkQueue whose tasks end when the test sets their results."""

    def __init__(self) -> None:
        self.given: list[tuple[Task, asyncio.Future[Result]]] = []
        self.forgotten: list[str] = []
        self.full = False

    def submit(self, task: Task) -> "asyncio.Future[Result]":
        if self.full:
            raise Busy("full", 100)
        self.given.append((task, asyncio.get_running_loop().create_future()))
        return self.given[-1][1]

    def forget(self, session: str) -> None:
        self.forgotten.append(session)
        for task, future in self.given:
            if task.session == session and not future.done():
                future.set_exception(WorkError("cancelled", "forgotten"))

    async def start(self) -> None: ...
    def rerank(self, session: str, image: str, viewport: Viewport) -> None: ...
    def cancel(self, session: str, *, id: str | None = None, image: str | None = None) -> int:
        return 0

    def ready(self) -> bool:
        return True

    async def close(self, deadline: float) -> None: ...


class Receiver:
    fps, paused = 30.0, False

    def __init__(self) -> None:
        self.frames: list[Frame] = []
        self.errors: list[str] = []

    def offer(self, frame: Frame) -> None:
        self.frames.append(frame)

    def action_failed(self, error: WorkError, action: str) -> None:
        self.errors.append(f"{action} {error.code}")


def shot(seq: int, **members: Any) -> Frame:
    return Frame("gate", seq, seq / 30, 1000 * seq, 320, 180, b"%d" % seq, **members)


def action_feed() -> tuple[Queue, ActionFeed, Receiver]:
    queue, receiver = Queue(), Receiver()
    feed = ActionFeed(queue, "video/gate/0/1", "edges", "{}")
    feed.receivers[receiver] = None
    return queue, feed, receiver


async def tick() -> None:
    for _ in range(3):
        await asyncio.sleep(0)


async def test_an_action_processes_one_frame_at_a_time_in_the_background_and_then_the_newest() -> None:
    queue, feed, receiver = action_feed()
    for seq in range(1, 6):
        feed.offer(shot(seq))
    assert [task.payload for task, _ in queue.given] == [b"1"]
    task, future = queue.given[0]
    assert (task.background, task.deliver, task.format, task.session) == (True, "inline", "jpeg", "video/gate/0/1")
    future.set_result(Result(320, 180, "jpeg", payload=b"one"))
    await tick()
    assert [task.payload for task, _ in queue.given] == [b"1", b"5"]
    assert [(frame.seq, frame.jpeg) for frame in receiver.frames] == [(1, b"one")]


async def test_an_error_of_an_action_is_reported_once_and_the_next_frame_is_tried() -> None:
    queue, feed, receiver = action_feed()
    for seq in range(1, 4):
        feed.offer(shot(seq))
        queue.given[-1][1].set_exception(WorkError("timeout", "too long"))
        await tick()
    assert receiver.errors == ["edges timeout"]
    queue.full = True
    feed.offer(shot(4))
    assert receiver.errors == ["edges timeout", "edges busy"]
    queue.full = False
    feed.offer(shot(5))
    queue.given[-1][1].set_result(Result(320, 180, "jpeg", payload=b"five"))
    await tick()
    assert [frame.jpeg for frame in receiver.frames] == [b"five"]


async def test_a_placeholder_is_not_processed_and_no_older_frame_follows_it() -> None:
    queue, feed, receiver = action_feed()
    feed.offer(shot(1))
    feed.offer(shot(2))
    feed.offer(shot(3, placeholder=True))
    queue.given[0][1].set_result(Result(320, 180, "jpeg", payload=b"one"))
    await tick()
    assert [frame.seq for frame in receiver.frames] == [3]
    assert len(queue.given) == 1


async def test_the_queue_forgets_an_action_without_receivers() -> None:
    queue, feed, receiver = action_feed()
    feed.offer(shot(1))
    feed.offer(shot(2))
    feed.close()
    await tick()
    assert queue.forgotten == ["video/gate/0/1"]
    assert len(queue.given) == 1
    assert receiver.frames == []
    assert receiver.errors == []


def test_a_picture_without_a_number_is_recognized() -> None:
    with pytest.raises(AssertionError):
        number_in(placeholder(320, 180)[2])


def failing_once(fork: Callable[[Forkserver], tuple[int, socket.socket]]) -> Callable[[Forkserver], Any]:
    """Returns a fork function that fails the first time, with an unexpected error."""
    tries = itertools.count()

    def fork_or_fail(forkserver: Forkserver) -> tuple[int, socket.socket]:
        if next(tries) == 0:
            raise RuntimeError("not expected")
        return fork(forkserver)

    return fork_or_fail


@pytest.mark.parametrize("kind", ["live", "file"])
async def test_a_capture_that_fails_unexpectedly_ends_its_watches_and_the_next_watch_opens_another(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Forkserver, "fork", failing_once(Forkserver.fork))
    clip = make_clip(tmp_path / "clip.mp4", 50)
    camera = Camera(clip).start()
    settings = VideoSettings.model_validate({"sources": f"yard={camera.url if kind == 'live' else clip}"})
    service = VideoService(settings, Queue(), Metrics())
    source = service.find("yard", "alice", frozenset({"video"}))
    request = service.make_request(source, "alice", width=None, quality=80, position=0)
    messages: list[dict[str, Any]] = []
    try:
        if kind == "file":
            with pytest.raises(WorkError, match="this source failed"):
                await service.watch(source, request, lambda: None, messages.append)
        else:
            await service.watch(source, request, lambda: None, messages.append)
            await until(lambda: messages)
            assert (messages[-1]["code"], messages[-1]["temporary"], messages[-1]["ended"]) == ("internal", True, True)
            (listed,) = service.list_sources("alice", frozenset({"video"}))
            assert listed["state"] == "idle"
        watch = await service.watch(source, request, lambda: None, messages.append)
        await until(lambda: watch.newest)
        watch.close()
    finally:
        await service.close()
        camera.lose()
