"""POST /upload and GET /upload/NAME over real connections: permissions, streaming, refusals and safe serving."""

import json
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import httpx
import psutil
import pytest

from tests.support.films import film, sound
from tests.support.pictures import decoded, encoded, photograph, small, tall
from tests.support.running import Server, Start, until

MIB = 1 << 20
HTML = b"<!DOCTYPE html><script>alert(1)</script>"


def post(
    server: Server, content: bytes | Iterator[bytes], name: str = "alice", path: str = "/upload", **headers: str
) -> httpx.Response:
    bearer = {"Authorization": f"Bearer {server.token(name, 'chat')}"}
    return httpx.post(server.url + path, content=content, headers=bearer | headers, timeout=60)


def sent(server: Server, content: bytes) -> dict[str, Any]:
    answer = post(server, content)
    assert answer.status_code == 201, answer.text
    return dict(answer.json())


def test_the_name_of_a_file_is_not_shown_to_other_users(server: Server) -> None:
    answer = post(server, encoded(photograph()), path="/upload?name=private%20affairs.jpg")
    assert answer.status_code == 201
    assert "private" not in answer.text + str(answer.headers) + str(uploads(server))
    assert post(server, small(), path="/upload?name=%ff%fe").status_code == 400


def uploads(server: Server) -> list[str]:
    """Returns the names in the folder of uploads, incomplete ones included."""
    return sorted(os.listdir(server.folder / "var" / "uploads"))


def head(server: Server, *lines: str) -> bytes:
    first = ["POST /upload HTTP/1.1", "Host: x", f"Authorization: Bearer {server.token(scope='chat')}"]
    return "\r\n".join([*first, *lines, "", ""]).encode()


def raw(server: Server, *parts: bytes) -> bytes:
    """Returns everything that the server answers to these bytes, until the connection ends."""
    said = b""
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection:
        with suppress(ConnectionError):
            for part in parts:
                connection.sendall(part)
        with suppress(ConnectionError):
            while piece := connection.recv(65536):
                said += piece
    return said


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def test_the_answer_to_a_picture_has_its_url_and_its_thumbnail(server: Server) -> None:
    picture = encoded(tall()[:900], ".png")
    answer = post(server, picture)
    upload = answer.json()
    assert (answer.status_code, answer.headers["Location"]) == (201, upload["url"])
    assert upload["url"] == f"{server.url}/upload/{upload['id']}.png"
    assert len(bytes.fromhex(upload["id"])) == 16
    wanted = {"type": "image/png", "kind": "image", "size": len(picture), "width": 800, "height": 900}
    assert {name: upload[name] for name in wanted} == wanted
    assert httpx.get(upload["url"]).content == picture
    assert decoded(httpx.get(upload["thumbnail"]).content).shape[:2] == (512, 455)


@pytest.mark.parametrize(
    ("content", "type"), [(film(".mp4"), "video/mp4"), (film(".webm"), "video/webm"), (sound(".m4a"), "audio/mp4")]
)
def test_audio_and_video_are_served_with_their_types(server: Server, content: bytes, type: str) -> None:
    upload = sent(server, content)
    assert set(upload) == {"id", "url", "type", "kind", "size"}
    served = httpx.get(upload["url"])
    assert (served.headers["Content-Type"], served.content) == (type, content)


def test_a_range_of_a_film_is_served_as_requested(server: Server) -> None:
    content = film(".mp4")
    url = sent(server, content)["url"]
    for asked, given in (("bytes=0-9", content[:10]), ("bytes=100-", content[100:]), ("bytes=-7", content[-7:])):
        part = httpx.get(url, headers={"Range": asked})
        assert (part.status_code, part.content, part.headers["Content-Type"]) == (206, given, "video/mp4")
        assert part.headers["Content-Range"].endswith(f"/{len(content)}")


@pytest.mark.parametrize("name", ["picture.png", "page.html", "../../etc/passwd", "\u263a.svg"])
def test_the_type_does_not_depend_on_the_name_of_the_file(server: Server, name: str) -> None:
    headers = {"Content-Disposition": json.dumps(name), "Content-Type": "text/html"}
    upload = post(server, small(), path=f"/upload?name={name}", **headers).json()
    assert upload["url"].endswith(f"/{upload['id']}.jpg")
    assert post(server, HTML, path=f"/upload?name={name}").json()["error"]["code"] == "unsupported_format"


def test_a_picture_with_a_page_after_it_is_a_picture_and_runs_nothing(server: Server) -> None:
    """Each of these headers alone would be enough for a polyglot (a file that is valid in two formats)."""
    url = sent(server, small() + HTML)["url"]
    served = httpx.get(url)
    assert served.content.endswith(HTML)
    assert served.headers["Content-Type"] == "image/jpeg"
    assert served.headers["X-Content-Type-Options"] == "nosniff"
    assert served.headers["Content-Disposition"] == f'inline; filename="{url.rpartition("/")[2]}"'
    assert "sandbox" in served.headers["Content-Security-Policy"]
    assert "default-src 'none'" in served.headers["Content-Security-Policy"]
    assert "immutable" in served.headers["Cache-Control"]


def test_only_files_are_served_and_not_their_records(server: Server) -> None:
    id = sent(server, small())["id"]
    assert f"{id}.draft" in uploads(server)
    for name in (f"{id}.draft", f"{id}.kept", id, f".{id}.part", f"{id}.mp4", f"{id}-small.jpg", "..%2fsluice.db", ""):
        answer = httpx.get(f"{server.url}/upload/{name}")
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")
        assert str(server.folder) not in answer.text


@pytest.mark.parametrize(
    ("content", "status", "code"),
    [
        (b"", 400, "bad_message"),
        (HTML, 415, "unsupported_format"),
        (b'<svg xmlns="http://www.w3.org/2000/svg"/>', 415, "unsupported_format"),
        (film(".mov"), 415, "unsupported_format"),
        (encoded(photograph())[:9000], 422, "bad_image"),
    ],
)
def test_a_refused_upload_gets_its_status_and_leaves_no_files(
    server: Server, content: bytes, status: int, code: str
) -> None:
    before = uploads(server)
    answer = post(server, content)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert [name for name in uploads(server) if name not in before] == []


def test_a_request_without_permission_is_refused_with_the_reason(server: Server) -> None:
    def status(**headers: str) -> int:
        return httpx.post(f"{server.url}/upload", content=small(), headers=headers).status_code

    token = server.token(scope="chat")
    assert status() == 401
    assert status(Authorization=f"Bearer {server.token()}") == 403
    assert status(Authorization=f"Bearer {token}", Origin="http://evil.example") == 403
    assert status(Cookie=f"sluice_token={token}") == 403, "no Origin: perhaps another site's form"
    assert status(Cookie=f"sluice_token={token}", Origin=server.url) == 201
    assert httpx.get(f"{server.url}/upload").status_code == 405


@pytest.mark.parametrize("length", [str(33 * MIB), "9" * 17, "9" * 18, "9" * 5000])
def test_a_body_with_a_too_large_declared_length_is_refused_before_it_is_read(server: Server, length: str) -> None:
    """The last value is longer than Python parses. Without the limit of digits it caused an internal error."""
    said = raw(server, head(server, f"Content-Length: {length}", "Connection: close"))
    assert said.startswith(b"HTTP/1.1 413 ")
    assert b"33,554,432" in said


def test_a_body_that_becomes_too_large_is_refused_at_once(start_here: Start) -> None:
    """A chunked body, so its length is not known before. Without the check of each chunk it would be accepted."""
    server = start_here(upload_bytes=MIB)
    said = raw(server, head(server, "Transfer-Encoding: chunked"), *[chunk(bytes(MIB // 2))] * 4)
    assert said.startswith(b"HTTP/1.1 413 ")
    assert b'"code": "too_large"' in said
    assert b"upload_bytes" in said
    assert uploads(server) == []


def test_a_body_may_be_chunked(server: Server) -> None:
    content = film(".webm")
    upload = post(server, (content[start : start + 100] for start in range(0, len(content), 100))).json()
    assert httpx.get(upload["url"]).content == content


async def test_a_large_body_is_never_in_memory_as_a_whole(start: Start) -> None:
    """24 MiB of audio. If the server collected it, its memory would grow by at least as much."""
    server = start()
    content = sound(".wav") + bytes(24 * MIB)
    sent(server, sound(".wav"))
    process = psutil.Process(server.process.pid)
    before = process.memory_info().rss
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection:
        connection.sendall(head(server, f"Content-Length: {len(content)}", "Connection: close") + content[:-1])
        await until(
            lambda: sum(path.stat().st_size for path in (server.folder / "var/uploads").glob("*.part")) > 23 * MIB
        )
        assert process.memory_info().rss - before < 12 * MIB
        connection.sendall(content[-1:])
        assert connection.recv(65536).startswith(b"HTTP/1.1 201 ")


@pytest.mark.parametrize("ending", ["Content-Length: 900000", "Transfer-Encoding: chunked"])
async def test_an_incomplete_body_leaves_no_files(start: Start, ending: str) -> None:
    """Without ``discard`` at the close, the part would stay for an hour and use one of the user's places."""
    server = start(uploads_per_user=1)
    half = bytes(300_000) if "Length" in ending else chunk(bytes(300_000))
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.sendall(head(server, ending) + half)
        await until(lambda: uploads(server))
        assert post(server, sound(".wav")).status_code == 503, "one at a time"
    await until(lambda: not uploads(server))
    await until(lambda: post(server, sound(".wav")).status_code == 201)
    assert server.stop() == 0
    assert "Traceback" not in "".join(server.log)


async def test_a_body_that_stalls_is_ended_by_a_timeout(start_here: Start) -> None:
    server = start_here(upload_timeout=0.5)
    assert raw(server, head(server, "Content-Length: 900000") + bytes(300_000)) == b""
    await until(lambda: not uploads(server))

    def is_taken() -> bool:
        with suppress(httpx.TransportError):  # a busy machine may need half a second itself, but not every time
            return post(server, sound(".wav")).status_code == 201
        return False

    await until(is_taken)


async def test_a_busy_server_says_when_to_retry_and_stores_nothing(start_here: Start) -> None:
    server = start_here(queue_bytes=len(small()))
    answer = post(server, encoded(photograph()))
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "busy")
    assert int(answer.headers["Retry-After"]) >= 1
    await until(lambda: not uploads(server))
    assert post(server, small()).status_code == 201


@pytest.mark.chaos
async def test_uploads_survive_a_restart_and_a_kill_and_are_deleted_without_a_reference(start: Start) -> None:
    server = start()
    url = sent(server, film(".mp4"))["url"]
    server.stop(signal.SIGKILL)
    again = start(port=server.port)
    assert httpx.get(url).content == film(".mp4")
    again.stop()
    last = start(port=server.port, upload_grace=0.001)
    await until(lambda: not uploads(last))
    assert httpx.get(url).status_code == 404


def test_a_page_of_an_allowed_origin_may_post(start_here: Start) -> None:
    server = start_here(allow_origins="https://a.example")
    asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
    answer = httpx.options(f"{server.url}/upload", headers={"Origin": "https://a.example", **asked})
    assert answer.status_code == 204
    assert answer.headers["Access-Control-Allow-Origin"] == "https://a.example"
    assert answer.headers["Access-Control-Allow-Methods"] == "POST"
    assert "Authorization" in answer.headers["Access-Control-Allow-Headers"]
    assert post(server, small(), Origin="https://a.example").headers["Access-Control-Allow-Origin"]
