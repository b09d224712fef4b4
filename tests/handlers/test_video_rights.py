"""Tests of who may watch which source, how much and how long. No client may learn the address of a source."""

import asyncio
import socket
from contextlib import suppress
from pathlib import Path

import httpx
import websockets

from handlers.core.auth import issue
from tests.support.ports import free_port
from tests.support.running import SECRET, Server, Start, until
from tests.support.streams import Camera
from tests.support.watching import Viewer, sources


async def test_a_source_exists_only_for_users_who_may_watch_it(start_here: Start, clip: Path) -> None:
    named = {"yard": clip, "safe": {"url": str(clip), "users": ["bo*"]}, "vault": {"url": str(clip), "scope": "guard"}}
    server = start_here(sources=sources(**named))

    async def sees(name: str, scope: str) -> set[str]:
        async with await Viewer.enter(server, name, scope) as viewer:
            listed = {source["name"] for source in viewer.hello["sources"]}
            for source in named:
                answer = await viewer.watch(source, source, paused=True)
                assert (answer["type"] == "watching") == (source in listed)
                if answer["type"] == "error":
                    unknown = await viewer.watch("x" * len(source), "x")
                    assert answer["message"].replace(source, "x" * len(source)) == unknown["message"]
                    assert answer["code"] == unknown["code"] == "not_found"
            return listed

    assert await sees("alice", "video") == {"yard"}
    assert await sees("bob", "video") == {"yard", "safe"}
    assert await sees("alice", "video guard") == {"yard", "vault"}


async def test_a_socket_has_at_most_sixteen_watches(start_here: Start, camera: Camera) -> None:
    server = start_here(sources=sources(gate=camera.url))
    async with await Viewer.enter(server) as viewer:
        for number in range(200):
            await viewer.send("watch", watch=f"w{number}", source="gate")
        answers = [await viewer.wait_for("watching", "error") for _ in range(200)]
        refused = [answer for answer in answers if answer["type"] == "error"]
        assert len(refused) == 184
        assert {(answer["code"], answer["temporary"]) for answer in refused} == {("busy", True)}
        assert "video_watches" in refused[0]["message"]
        await viewer.frame("w15")
    await until(lambda: server.metric("sluice_video_watches") == 0)
    assert camera.opened == 1


async def test_the_viewers_of_a_source_are_limited_by_the_setting_and_by_the_source(
    start_here: Start, camera: Camera, clip: Path
) -> None:
    server = start_here(sources=sources(gate=camera.url, yard={"url": str(clip), "viewers": 1}), video_viewers=2)
    async with await Viewer.enter(server) as viewer:
        assert (await viewer.watch("yard", "y1", paused=True))["type"] == "watching"
        refusal = await viewer.watch("yard", "y2", paused=True)
        assert (refusal["code"], "video_viewers" in refusal["message"]) == ("busy", True)
        answers = [(await viewer.watch("gate", f"g{number}"))["type"] for number in range(3)]
        assert answers == ["watching", "watching", "error"]
        await viewer.send("stop", watch="y1")
        assert (await viewer.watch("yard", "y2", paused=True))["type"] == "watching"


async def test_the_watches_of_a_user_are_limited_across_all_sockets(start_here: Start, camera: Camera) -> None:
    server = start_here(sources=sources(gate=camera.url, quay=camera.url), video_viewers=3, video_viewers_per_user=2)
    async with await Viewer.enter(server) as one, await Viewer.enter(server) as two:
        assert (await one.watch("gate"))["type"] == "watching"
        assert (await two.watch("gate"))["type"] == "watching"
        refusal = await two.watch("gate", "more")
        assert (refusal["code"], "video_viewers_per_user" in refusal["message"]) == ("busy", True)
        bearer = {"Authorization": f"Bearer {server.token(scope='video')}"}
        for path in ("snapshot.jpg?max_age=0", "stream.mjpg"):
            assert httpx.get(f"{server.url}/video/gate/{path}", headers=bearer).status_code == 503
        assert (await two.watch("quay", "other"))["type"] == "watching"
        async with await Viewer.enter(server, "bob") as bob:
            assert (await bob.watch("gate"))["type"] == "watching"
        await one.send("stop", watch="w")
        await one.wait_for("stopped", watch="w")
        assert (await two.watch("gate", "more"))["type"] == "watching"


async def test_the_open_recordings_of_a_user_are_limited_across_all_sockets(start_here: Start, clip: Path) -> None:
    server = start_here(sources=sources(yard=clip), video_captures=4, video_captures_per_user=2)
    async with await Viewer.enter(server) as one, await Viewer.enter(server) as two:
        assert (await one.watch("yard", paused=True))["type"] == "watching"
        assert (await two.watch("yard", paused=True))["type"] == "watching"
        refusal = await two.watch("yard", "more", paused=True)
        assert (refusal["code"], refusal["temporary"]) == ("busy", True)
        assert "video_captures_per_user" in refusal["message"]
        bearer = {"Authorization": f"Bearer {server.token(scope='video')}"}
        for path in ("snapshot.jpg", "stream.mjpg"):
            assert httpx.get(f"{server.url}/video/yard/{path}", headers=bearer).status_code == 503
        async with await Viewer.enter(server, "bob") as bob:
            assert (await bob.watch("yard", paused=True))["type"] == "watching"
        await one.send("stop", watch="w")
        await one.wait_for("stopped", watch="w")
        assert (await two.watch("yard", "more", paused=True))["type"] == "watching"


async def test_the_actions_on_a_source_are_limited(start_here: Start, camera: Camera) -> None:
    server = start_here(sources=sources(gate=camera.url), video_actions=1)
    async with await Viewer.enter(server) as viewer:
        await viewer.watch("gate", "a", action="edges")
        await viewer.watch("gate", "b", action="edges")
        assert (await viewer.watch("gate", "c", action="grayscale"))["code"] == "busy"
        await viewer.send("stop", watch="a")
        await viewer.send("stop", watch="b")
        assert (await viewer.watch("gate", "c", action="grayscale"))["type"] == "watching"
        await viewer.frame("c")


def short(server: Server, seconds: int = 2) -> str:
    """Returns a token that expires soon. The expiry time of a token has whole seconds."""
    return issue(SECRET, "alice", "video", seconds)


async def test_an_expired_token_closes_the_socket_and_ends_its_watches(start_here: Start, camera: Camera) -> None:
    server = start_here(sources=sources(gate=camera.url), video_grace=0.01)
    viewer = await Viewer.connect(server, path="/ws/video", token=short(server), max_queue=None)
    with suppress(websockets.ConnectionClosed):
        await viewer.send("watch", watch="w", source="gate")
    assert await viewer.closed() == 4401
    await until(lambda: server.metric("sluice_video_captures") == 0)
    assert server.metric("sluice_video_watches") == 0


async def test_an_expired_token_ends_the_stream(start_here: Start, camera: Camera) -> None:
    server = start_here(sources=sources(gate=camera.url))
    headers = {"Authorization": f"Bearer {short(server)}"}
    async with (
        httpx.AsyncClient(timeout=60) as http,
        http.stream("GET", f"{server.url}/video/gate/stream.mjpg", headers=headers) as answer,
    ):
        body = await answer.aread()
    assert body.endswith(b"--sluice--\r\n")
    await until(lambda: server.metric("sluice_video_watches") == 0)


async def test_a_new_token_without_the_right_ends_the_watch(start_here: Start, clip: Path) -> None:
    server = start_here(sources=sources(vault={"url": str(clip), "scope": "guard"}, yard=clip))
    async with await Viewer.enter(server, scope="video guard") as viewer:
        await viewer.watch("vault", "v", paused=True)
        await viewer.watch("yard", "y", paused=True)
        assert await viewer.numbers(1, "y") == [0]
        await viewer.send("token", token=server.token(scope="video"))
        message = await viewer.wait_for("error")
        assert (message["code"], message["watch"], message["ended"]) == ("forbidden", "v", True)
        await viewer.send("seek", watch="y", position=1.0)
        assert await viewer.numbers(1, "y") == [25]
        assert (await viewer.refusal("play", watch="v"))["code"] == "not_found"


async def test_a_new_token_without_the_right_ends_a_watch_that_is_opening(start_here: Start, clip: Path) -> None:
    """The film is at an address that sends no data until the token has been replaced."""
    with socket.create_server(("127.0.0.1", 0)) as web:
        vault = {"url": f"http://127.0.0.1:{web.getsockname()[1]}/clip.mp4", "kind": "file", "scope": "guard"}
        server = start_here(sources=sources(vault=vault), video_watchdog=60)
        async with await Viewer.enter(server, scope="video guard") as viewer:
            await viewer.send("watch", watch="v", source="vault", paused=True)
            end, _ = await asyncio.to_thread(web.accept)
            await viewer.send("token", token=server.token(scope="video"))
            await viewer.wait_for("renewed")
            with end:
                film = clip.read_bytes()
                head = f"HTTP/1.1 200 OK\r\nContent-Type: video/mp4\r\nContent-Length: {len(film)}\r\n\r\n"
                end.sendall(head.encode() + film)
                assert (await viewer.wait_for("watching", "error"))["type"] == "error"
        await until(lambda: server.metric("sluice_video_captures") == 0)


async def test_the_place_and_password_of_a_source_are_never_sent_or_logged(start: Start) -> None:
    url = f"rtsp://admin:hunter2@127.0.0.1:{free_port()}/secret-path"
    server = start(sources=sources(gate=url), video_retry=0.1, log_level="debug")
    received = []
    async with await Viewer.enter(server) as viewer:
        received.append(viewer.hello)
        received.append(await viewer.watch("gate"))
        for _ in range(4):
            received.append(await viewer.state("reconnecting"))  # noqa: PERF401
        received.append(await viewer.refusal("seek", watch="w", position=1))
    headers = {"Authorization": f"Bearer {server.token(scope='video')}"}
    received.append(httpx.get(f"{server.url}/video/gate/snapshot.jpg?position=1", headers=headers).text)
    received.append(httpx.get(f"{server.url}/metrics").text)
    await until(lambda: any("unreachable" in line for line in server.log))
    for message in (str(received), "".join(server.log)):
        assert not any(word in message for word in ("hunter2", "secret-path", "rtsp://"))


async def test_a_password_on_the_command_line_causes_a_warning(start: Start) -> None:
    server = start(sources="gate=rtsp://admin:hunter2@127.0.0.1:1/")
    assert any("SLUICE_SOURCES" in line for line in server.log)
    assert "hunter2" not in "".join(server.log)
