"""Tests of snapshots and streams over plain HTTP: for ``<img>``, and for programs that do not know sluice.v2."""

import re
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest

from tests.support.client import Client
from tests.support.running import Server, Start, until
from tests.support.streams import Camera, number_in
from tests.support.watching import Viewer, sources

PART = re.compile(rb"--sluice\r\nContent-Type: image/jpeg\r\nContent-Length: (\d+)\r\nX-Captured-At: \d+\r\n\r\n")


def bearer(server: Server, scope: str = "video") -> dict[str, str]:
    return {"Authorization": f"Bearer {server.token(scope=scope)}"}


def get(server: Server, path: str) -> httpx.Response:
    return httpx.get(server.url + path, headers=bearer(server), timeout=60)


async def pictures(answer: httpx.Response) -> AsyncIterator[bytes]:
    """Yields the pictures of a stream, by the lengths in their headers."""
    body = b""
    async for chunk in answer.aiter_raw():
        body += chunk
        while (part := PART.match(body)) and len(body) >= part.end() + int(part[1]) + 2:
            end = part.end() + int(part[1])
            yield body[part.end() : end]
            body = body[end + 2 :]


@pytest.fixture(scope="module")
def files(clip: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with a file, and a camera that does not exist."""
    named = sources(yard=clip, gate="http://127.0.0.1:1/")
    running = Server(tmp_path_factory.mktemp("files"), sources=named, connections_per_user=100)
    yield running
    running.stop()


@pytest.fixture
def server(start_here: Start, camera: Camera, clip: Path) -> Server:
    return start_here(sources=sources(gate=camera.url, yard=clip), connections_per_user=2, video_captures=4)


async def test_a_snapshot_is_a_picture_with_its_age(server: Server, camera: Camera) -> None:
    answer = get(server, "/video/gate/snapshot.jpg?width=160")
    assert answer.headers["Content-Type"] == "image/jpeg"
    assert answer.headers["Cache-Control"] == "no-store"
    assert 0 <= int(answer.headers["Age"]) <= 60
    assert number_in(answer.content) >= 0

    def kept() -> bytes:
        return get(server, "/video/gate/snapshot.jpg?width=160&max_age=3600").content

    # frames that were captured together with the first snapshot are newer than it
    await until(lambda: kept() == kept())
    assert camera.opened == 1


async def test_a_snapshot_with_max_age_0_is_a_new_one(server: Server, camera: Camera) -> None:
    numbers = [number_in(get(server, "/video/gate/snapshot.jpg?max_age=0").content) for _ in range(3)]
    assert numbers == sorted(set(numbers))
    assert camera.opened == 1


async def test_a_snapshot_of_a_file_is_taken_at_the_requested_position(files: Server) -> None:
    for position in (3.0, 8.0, 3.0):
        answer = get(files, f"/video/yard/snapshot.jpg?position={position}")
        assert number_in(answer.content) == position * 25
    assert files.metric("sluice_video_encoded_total", source="yard") == 2
    await until(lambda: files.metric("sluice_video_captures") == 0)


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/video/elsewhere/snapshot.jpg", 404, "not_found"),
        ("/video/elsewhere/stream.mjpg", 404, "not_found"),
        ("/video/gate/snapshot.jpg?position=3", 400, "bad_message"),
        ("/video/yard/snapshot.jpg?position=11", 400, "bad_message"),
        ("/video/yard/snapshot.jpg?max_age=-1", 400, "bad_message"),
        ("/video/yard/snapshot.jpg?quality=high", 400, "bad_message"),
        ("/video/yard/snapshot.jpg?url=http://127.0.0.1:1/", 400, "bad_message"),
        ("/video/yard/stream.mjpg?fps=0", 400, "bad_message"),
        ("/video/yard/stream.mjpg?position=11", 400, "bad_message"),
    ],
)
async def test_bad_requests_are_refused(files: Server, path: str, status: int, code: str) -> None:
    answer = get(files, path)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert files.metric("sluice_video_watches") == 0


async def test_a_stream_sends_picture_after_picture_and_ends_with_the_file(files: Server) -> None:
    url = f"{files.url}/video/yard/stream.mjpg?position=9"
    async with httpx.AsyncClient(timeout=60) as http, http.stream("GET", url, headers=bearer(files)) as answer:
        assert answer.headers["Content-Type"] == "multipart/x-mixed-replace; boundary=sluice"
        numbers = [number_in(picture) async for picture in pictures(answer)]
    assert numbers[0] >= 225, "the newest: a busy server may pass over the first"
    assert numbers[-1] == 249
    assert numbers == sorted(set(numbers))


async def test_streams_and_sockets_share_a_live_capture(server: Server, camera: Camera) -> None:
    url = f"{server.url}/video/gate/stream.mjpg"
    async with (
        await Viewer.enter(server) as viewer,
        httpx.AsyncClient(timeout=60) as http,
        http.stream("GET", url, headers=bearer(server)) as answer,
    ):
        await viewer.watch("gate")
        shown = pictures(answer)
        assert number_in(await anext(shown)) < number_in(await anext(shown))
        await viewer.frame()
        assert camera.opened == 1
        refused = await http.get(url, headers=bearer(server))
        assert refused.status_code == 429
        assert "connections_per_user" in refused.json()["error"]["message"]
        await shown.aclose()
    await until(lambda: server.metric("sluice_video_watches") == 0)
    await until(lambda: server.metric("sluice_connections") == 0)


async def test_a_stream_shows_a_placeholder_while_the_source_is_lost(server: Server, camera: Camera) -> None:
    url = f"{server.url}/video/gate/stream.mjpg?fps=5"
    async with httpx.AsyncClient(timeout=60) as http, http.stream("GET", url, headers=bearer(server)) as answer:
        shown = pictures(answer)
        await anext(shown)
        camera.lose()
        while True:
            try:
                number_in(await anext(shown))
            except AssertionError:  # a grey placeholder shows no number
                break
        camera.start()
        async for picture in shown:
            try:
                number_in(picture)
            except AssertionError:
                continue
            break
        await shown.aclose()


@pytest.mark.parametrize("path", ["/video/yard/snapshot.jpg", "/video/yard/stream.mjpg"])
async def test_a_token_without_the_scope_is_refused(files: Server, path: str) -> None:
    for headers, status in ((bearer(files, "images chat"), 403), ({}, 401)):
        assert httpx.get(files.url + path, headers=headers).status_code == status


async def test_an_image_on_a_page_of_the_server_is_authorized_by_the_cookie(files: Server) -> None:
    cookie = {"Cookie": f"sluice_token={files.token(scope='video')}"}
    for path in ("snapshot.jpg", "stream.mjpg?position=9.9"):
        url = f"{files.url}/video/yard/{path}"
        assert httpx.get(url, headers=cookie | {"Sec-Fetch-Site": "same-origin"}, timeout=60).status_code == 200
        for site in ({"Sec-Fetch-Site": "cross-site"}, {"Sec-Fetch-Site": "same-site"}, {}):
            assert httpx.get(url, headers=cookie | site).status_code == 403


async def test_an_administrator_ends_a_stream(server: Server) -> None:
    url = f"{server.url}/video/gate/stream.mjpg"
    async with httpx.AsyncClient(timeout=60) as http, http.stream("GET", url, headers=bearer(server)) as answer:
        kicked = await http.post(f"{server.url}/admin/kick", headers=bearer(server, "admin"), json={"user": "alice"})
        assert kicked.status_code < 300
        assert (await answer.aread()).endswith(b"--sluice--\r\n")


async def test_during_a_shutdown_a_stream_is_refused_like_a_socket(start: Start, clip: Path) -> None:
    server = start(sources=sources(yard=clip), workers=1, slice_timeout=60, drain_timeout=60, header_timeout=60)
    async with (
        await Client.connect(server) as client,
        httpx.AsyncClient(
            base_url=server.url,
            headers=bearer(server),
            timeout=60,
            # the default of five seconds may be too short on a busy machine
            limits=httpx.Limits(keepalive_expiry=None),
        ) as kept,
    ):
        await kept.get("/healthz")
        await client.plug()
        server.process.send_signal(signal.SIGTERM)
        await until(lambda: any("server.draining" in line for line in server.log))
        answer = await kept.get("/video/yard/stream.mjpg")
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "5")
        assert "restarting" in answer.json()["error"]["message"]
        await client.send("cancel", id="plug")
        assert await client.closed() == 1012
