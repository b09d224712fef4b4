"""/media: results under names that cannot be guessed, safe to show and cacheable. No other files of the folder."""

import http.client
import os

import httpx
import pytest

from tests.support.client import Client
from tests.support.pictures import decoded, small
from tests.support.running import Server


async def result(server: Server, **members: object) -> str:
    """Returns the URL of a result."""
    async with await Client.connect(server) as client:
        await client.slice("a", small(), **members)
        return str((await client.wait_for("result"))["url"])


def raw(server: Server, path: str, method: str = "GET") -> tuple[int, bytes]:
    """Requests a path without any normalisation. Returns status and body."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    connection.putrequest(method, path)
    connection.endheaders()
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer.status, body


@pytest.mark.parametrize(("format", "type"), [("jpeg", "image/jpeg"), ("png", "image/png"), ("webp", "image/webp")])
async def test_a_result_is_served_with_headers_that_make_it_safe_and_cacheable(
    server: Server, format: str, type: str
) -> None:
    answer = httpx.get(await result(server, format=format))
    assert answer.status_code == 200
    assert decoded(answer.content).shape == (64, 128, 3)
    assert answer.headers["Content-Type"] == type
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Content-Security-Policy"].startswith("default-src 'none'")
    assert "immutable" in answer.headers["Cache-Control"]
    assert "private" in answer.headers["Cache-Control"]
    assert answer.headers["Access-Control-Allow-Origin"] == "*"
    assert answer.headers["Cross-Origin-Resource-Policy"] == "cross-origin"
    assert answer.headers["Server"] == "Sluice"


async def test_no_token_is_required_because_names_cannot_be_guessed(server: Server) -> None:
    first, second = await result(server), await result(server)
    assert first != second
    assert httpx.get(first).content == httpx.get(second).content


@pytest.mark.parametrize(
    ("suffix", "type"),
    [
        (".webm", "video/webm"),
        (".mp4", "video/mp4"),
        (".zip", "application/zip"),
        (".csv", "text/csv; charset=utf-8"),
        (".json", "application/json"),
    ],
)
def test_other_results_have_the_type_of_their_suffix_and_are_saved_if_a_browser_cannot_show_them(
    server: Server, suffix: str, type: str
) -> None:
    name = "c" * 32 + suffix
    (server.media / name).write_bytes(b"<script>alert(1)</script>")
    answer = httpx.get(f"{server.url}/media/{name}")
    assert (answer.status_code, answer.content) == (200, b"<script>alert(1)</script>")
    assert answer.headers["Content-Type"] == type
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    shown = type.startswith("video/")
    assert answer.headers.get("Content-Disposition") == (None if shown else f'attachment; filename="{name}"')
    part = httpx.get(f"{server.url}/media/{name}", headers={"Range": "bytes=7-12"})
    assert (part.status_code, part.content, part.headers["Accept-Ranges"]) == (206, b">alert", "bytes")


async def test_head_returns_only_the_headers(server: Server) -> None:
    url = await result(server)
    head = httpx.head(url)
    assert (head.status_code, head.content) == (200, b"")
    assert int(head.headers["Content-Length"]) == len(httpx.get(url).content)


async def test_a_range_is_served_as_requested(server: Server) -> None:
    url = await result(server)
    whole = httpx.get(url).content
    for asked, given in (("bytes=0-9", whole[:10]), ("bytes=10-", whole[10:]), ("bytes=-5", whole[-5:])):
        part = httpx.get(url, headers={"Range": asked})
        assert (part.status_code, part.content) == (206, given)
        assert part.headers["Content-Range"].endswith(f"/{len(whole)}")
    assert httpx.get(url, headers={"Range": f"bytes={len(whole)}-"}).status_code == 416
    assert httpx.get(url, headers={"Range": "lines=1-2"}).content == whole


async def test_a_cached_result_is_not_sent_again(server: Server) -> None:
    url = await result(server)
    tag = httpx.get(url).headers["Etag"]
    again = httpx.get(url, headers={"If-None-Match": tag})
    assert (again.status_code, again.content) == (304, b"")
    assert httpx.get(url, headers={"If-None-Match": '"other"'}).status_code == 200
    assert httpx.get(await result(server)).headers["Etag"] != tag


@pytest.mark.parametrize(
    "path",
    [
        "/media/",
        "/media/0123456789abcdef0123456789abcdef.jpg",
        "/media/0123456789abcdef0123456789abcdef.gif",
        "/media/0123456789ABCDEF0123456789ABCDEF.jpg",
        "/media/0123456789abcdef0123456789abcdef.jpg/",
        "/media/secret.txt",
        "/media/.0123456789abcdef0123456789abcdef.jpg.part",
        "/media/../var/sluice.db",
        "/media/..%2fvar%2fsluice.db",
        "/media/%2e%2e/var/sluice.db",
        "/media//etc/passwd",
        "/media/%00.jpg",
        "/media/0123456789abcdef0123456789abcdef.jpg%00",
        "/var/sluice.db",
        "/media/0123456789abcdef0123456789abcdef.jpg%0a",
    ],
)
def test_any_other_name_is_not_found(server: Server, path: str) -> None:
    (server.media / "secret.txt").write_text("secret")
    (server.media / ".0123456789abcdef0123456789abcdef.jpg.part").write_text("half")
    status, body = raw(server, path)
    os.unlink(server.media / "secret.txt")
    os.unlink(server.media / ".0123456789abcdef0123456789abcdef.jpg.part")
    assert status == 404
    assert b'"code": "not_found"' in body
    assert str(server.folder).encode() not in body


async def test_a_folder_or_a_link_with_a_good_name_is_not_served(server: Server) -> None:
    folder, link = server.media / f"{'a' * 32}.jpg", server.media / f"{'b' * 32}.jpg"
    folder.mkdir()
    link.symlink_to(server.folder / "var" / "sluice.db")
    try:
        assert [raw(server, f"/media/{name}.jpg")[0] // 100 for name in ("a" * 32, "b" * 32)] == [4, 4]
    finally:
        folder.rmdir()
        link.unlink()


def test_results_can_only_be_read(server: Server) -> None:
    for method in ("POST", "PUT", "DELETE", "PATCH"):
        assert raw(server, "/media/0123456789abcdef0123456789abcdef.jpg", method)[0] == 405
