"""POST /process: one picture per request; errors have their status; large bodies are refused early."""

import contextlib
import json
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlencode

import httpx
import pytest

from tests.support.client import PLUG
from tests.support.pictures import animated_gif, decoded, encoded, photograph, small
from tests.support.running import Server, Start, until


def post(
    server: Server, content: bytes | Iterator[bytes], headers: dict[str, str] | None = None, **query: Any
) -> httpx.Response:
    bearer = {"Authorization": f"Bearer {server.token()}"}
    return httpx.post(
        f"{server.url}/process", content=content, params=query, headers=bearer | (headers or {}), timeout=60
    )


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server for these tests only, because the files of other tests' slices could appear in its folder."""
    running = Server(tmp_path_factory.mktemp("process"))
    yield running
    assert running.process.poll() is None, "the server died:\n" + "".join(running.log)
    running.stop()


@pytest.mark.parametrize(
    ("query", "size", "type"),
    [
        ({}, (512, 512), "jpeg"),
        ({"zoom": "0.5"}, (256, 256), "jpeg"),
        ({"action": "rl", "zoom": "0.5"}, (256, 256), "jpeg"),
        ({"fit": "100x300"}, (100, 100), "jpeg"),
        ({"fit": "9999x9999"}, (512, 512), "jpeg"),
        ({"format": "png", "zoom": "0.1"}, (51, 51), "png"),
        ({"format": "webp", "zoom": "0.1"}, (51, 51), "webp"),
        ({"action": "blur", "options": '{"radius": 2}', "zoom": "0.1"}, (51, 51), "jpeg"),
        ({"action": "codes", "zoom": "0.1"}, (51, 51), "jpeg"),
        ({"respond": "bytes", "zoom": "0.1"}, (51, 51), "jpeg"),
    ],
)
def test_a_picture_is_returned_as_requested(
    server: Server, query: dict[str, str], size: tuple[int, int], type: str
) -> None:
    before = server.results()
    answer = post(server, encoded(photograph()), **query)
    assert (answer.status_code, answer.headers["Content-Type"]) == (200, f"image/{type}")
    assert decoded(answer.content).shape[1::-1] == size
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert server.results() == before, "nothing is kept"


def test_options_change_the_pixels(server: Server) -> None:
    little, much = (
        post(server, encoded(photograph()), action="blur", options=json.dumps({"radius": radius}), format="png")
        for radius in (1, 20)
    )
    assert decoded(little.content).std() > decoded(much.content).std()


def test_data_are_returned_as_json(server: Server) -> None:
    answer = post(server, small(), action="codes", respond="data")
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.json() == {"codes": []}


@pytest.mark.parametrize(
    ("content", "query", "status", "code", "word"),
    [
        (b"", {}, 422, "bad_image", "empty"),
        (b"Dear reader", {}, 422, "bad_image", "not a picture"),
        (encoded(photograph())[:9000], {}, 422, "bad_image", ""),
        (animated_gif(), {}, 415, "unsupported_format", "GIF"),
        (small(), {"zoom": "1e9"}, 422, "too_many_pixels", "50,000,000"),
        (small(), {"zoom": "1e308"}, 422, "too_many_pixels", "50,000,000"),
        (small(), {"zoom": "0"}, 400, "bad_message", "zoom"),
        (small(), {"zoom": "nan"}, 400, "bad_message", "zoom"),
        (small(), {"zoom": "much"}, 400, "bad_message", "zoom"),
        (small(), {"fit": "0x1"}, 400, "bad_message", "fit"),
        (small(), {"format": "gif"}, 400, "bad_message", "format"),
        (small(), {"respond": "fax"}, 400, "bad_message", "respond"),
        (small(), {"respond": "data"}, 400, "bad_options", "no data"),
        (small(), {"action": "dance"}, 400, "unknown_action", "dance"),
        (small(), {"action": "blur", "options": '{"radius": -1}'}, 400, "bad_options", "radius"),
        (small(), {"options": "{nope"}, 400, "bad_message", "options"),
        (small(), {"options": "[1]"}, 400, "bad_message", "options"),
        (small(), {"options": "[" * 9000}, 400, "bad_message", "options: not JSON"),
        (small(), {"options": '{"radius": true}', "action": "blur"}, 400, "bad_options", "radius"),
        (small(), {"colour": "red"}, 400, "bad_message", "colour"),
        (small(), {"session": "x"}, 400, "bad_message", "session"),
    ],
)
def test_an_error_has_its_status_its_code_and_a_message(
    server: Server, content: bytes, query: dict[str, str], status: int, code: str, word: str
) -> None:
    answer = post(server, content, **query)
    assert answer.status_code == status
    error = answer.json()["error"]
    assert error["code"] == code
    assert word in error["message"]


def test_a_request_without_permission_is_refused_with_the_reason(server: Server) -> None:
    def status(**headers: str) -> int:
        return httpx.post(f"{server.url}/process", content=small(), headers=headers).status_code

    assert status() == 401
    assert status(Authorization="Bearer nope") == 401
    assert status(Authorization=f"Bearer {server.token(scope='chat')}") == 403
    assert status(Authorization=f"Bearer {server.token()}", Origin="http://evil.example") == 403
    assert status(Cookie=f"sluice_token={server.token()}") == 403, "no Origin: perhaps another site's form"
    assert status(Cookie=f"sluice_token={server.token()}", Origin=server.url) == 200
    assert httpx.get(f"{server.url}/process").status_code == 405


def raw(server: Server, *parts: bytes) -> bytes:
    """Returns everything that the server answers to these bytes, until the connection ends."""
    said = b""
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection:
        with contextlib.suppress(ConnectionError):
            for part in parts:
                connection.sendall(part)
        with contextlib.suppress(ConnectionError):
            while piece := connection.recv(65536):
                said += piece
    return said


def head(server: Server, *lines: str) -> bytes:
    first = ["POST /process HTTP/1.1", "Host: x", f"Authorization: Bearer {server.token()}"]
    return "\r\n".join([*first, *lines, "", ""]).encode()


def test_a_body_that_is_too_large_is_refused_before_it_is_read(server: Server) -> None:
    said = raw(server, head(server, "Content-Length: 1000000000", "Expect: 100-continue"))
    assert said.startswith(b"HTTP/1.1 413 ")
    assert b'"code": "too_large"' in said
    assert b"16,777,216" in said


def test_a_bad_token_is_refused_before_the_body_is_read(server: Server) -> None:
    said = raw(server, b"POST /process HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n")
    assert said.startswith(b"HTTP/1.1 401 ")


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def test_a_body_may_be_chunked(server: Server) -> None:
    picture = encoded(photograph())
    pieces = (picture[start : start + 1000] for start in range(0, len(picture), 1000))
    assert decoded(post(server, pieces, zoom=0.5).content).shape == (256, 256, 3)


@pytest.mark.parametrize("size", [1 << 20, 20 << 20])
def test_too_many_chunks_are_refused_with_the_same_error(server: Server, size: int) -> None:
    said = raw(server, head(server, "Transfer-Encoding: chunked"), *[chunk(bytes(size))] * ((20 << 20) // size))
    assert said.startswith(b"HTTP/1.1 413 ")
    assert b'"code": "too_large"' in said


@pytest.mark.parametrize("length", ["abc", "-5", "1e3", ""])
def test_a_length_that_is_not_a_number_is_a_bad_request(server: Server, length: str) -> None:
    assert raw(server, head(server, f"Content-Length: {length}", "Connection: close")).startswith(b"HTTP/1.1 4")


def test_a_page_of_an_allowed_origin_may_post(start_here: Start) -> None:
    server = start_here(allow_origins="https://a.example")
    asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
    answer = httpx.options(f"{server.url}/process", headers={"Origin": "https://a.example", **asked})
    assert answer.status_code == 204
    assert answer.headers["Access-Control-Allow-Origin"] == "https://a.example"
    assert answer.headers["Access-Control-Allow-Methods"] == "POST"
    assert "Authorization" in answer.headers["Access-Control-Allow-Headers"]
    assert post(server, small(), {"Origin": "https://a.example"}).headers["Access-Control-Allow-Origin"]
    other = httpx.options(f"{server.url}/process", headers={"Origin": "https://b.example", **asked})
    assert "Access-Control-Allow-Origin" not in other.headers


async def test_a_busy_server_says_when_to_retry(start: Start) -> None:
    server = start(workers=1, queue_bytes=len(small()) + 10)
    await until(server.children)
    (decoder,) = server.children()
    with ThreadPoolExecutor() as pool:
        decoder.suspend()  # the first one is still being processed when the others arrive, on any machine
        running = pool.submit(post, server, small())
        await until(lambda: server.metric("sluice_running") == 1)
        waiting = pool.submit(post, server, small())
        await until(lambda: server.metric("sluice_queue_depth") == 1)
        busy = post(server, small())
        assert (busy.status_code, busy.json()["error"]["code"]) == (503, "busy")
        assert int(busy.headers["Retry-After"]) >= 1
        decoder.resume()
        assert [each.result().status_code for each in (running, waiting)] == [200, 200]


def test_a_slow_task_is_answered_with_a_timeout(start: Start) -> None:
    answer = post(start(workers=1, slice_timeout=1), small(), **_endless())
    assert (answer.status_code, answer.json()["error"]["code"]) == (504, "timeout")


def _endless() -> dict[str, Any]:
    """Returns the query of a request that takes much longer than any test."""
    return {**PLUG, "options": json.dumps(PLUG["options"])}


async def test_the_task_of_a_client_that_leaves_is_cancelled(start: Start) -> None:
    server = start(workers=1, slice_timeout=60)
    asked = f"/process?{urlencode(_endless())}".encode()
    line = head(server, f"Content-Length: {len(small())}").replace(b"/process", asked, 1)
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.sendall(line + small())
        await until(lambda: server.metric("sluice_running") == 1)
    await until(lambda: server.metric("sluice_running") == 0)
    assert server.metric("sluice_child_deaths_total", reason="cancelled") == 1
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.sendall(line + small()[:100])
    assert server.stop() == 0
    assert not [line for line in server.log if '"status": 500' in line], "half a body is no fault of the server"
