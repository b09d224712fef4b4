"""Servers behind a real nginx with the configuration in deploy/: sockets, files, uploads, and servers that start and
stop.
"""

import asyncio
import base64
import json
import logging
import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
import websockets

from config import SETTINGS
from tests.support.client import Client
from tests.support.films import film
from tests.support.nginx import SHIPPED, Nginx, nginx_before
from tests.support.pictures import decoded, encoded, photograph, small
from tests.support.running import GUARD, ROOT, Server, Start, until

HELD = {"trusted_proxies": "127.0.0.1", "accel_redirect": "/_files/"}


@pytest.fixture(scope="module")
def behind(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    running = Server(tmp_path_factory.mktemp("behind"), ping_interval=7, pong_timeout=7, **HELD)
    yield running
    running.stop()


@pytest.fixture(scope="module")
def nginx(behind: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nginx]:
    folder = behind.folder
    with nginx_before(
        tmp_path_factory.mktemp("before"), [behind.port], behind.media, folder / "var/uploads"
    ) as running:
        yield running


async def through(nginx: Nginx, server: Server, **options: Any) -> Client:
    """Connects a client to the server through nginx."""
    stand_in: Any = SimpleNamespace(ws=nginx.ws, token=server.token, metric=server.metric)
    return await Client.connect(stand_in, **options)


def stored(server: Server, suffix: str, data: bytes) -> str:
    name = os.urandom(16).hex() + suffix
    (server.media / name).write_bytes(data)
    return name


def test_nginx_accepts_the_configuration(nginx: Nginx) -> None:
    said = nginx.check()
    assert "test is successful" in said
    assert "[warn]" not in said.replace('the "user" directive makes sense only', "")


def default(name: str) -> Any:
    """Returns the default of a setting."""
    return SETTINGS[name][1].default


def test_the_limits_of_nginx_are_higher_than_those_of_the_server(nginx: Nginx) -> None:
    """With shorter times or sizes, nginx would close healthy sockets, or refuse bodies that the server would accept."""
    text = SHIPPED.read_text()
    (waits,) = {int(found) for found in re.findall(r"^    proxy_(?:read|send)_timeout (\d+)s;", text, re.MULTILINE)}
    assert waits > default("ping_interval") + default("pong_timeout")
    (taken,) = re.findall(r"client_max_body_size (\d+)m;", text)
    assert int(taken) << 20 > max(default("upload_bytes"), default("max_slice_bytes"))
    (kept,) = re.findall(r"^    keepalive_timeout (\d+)s;", text, re.MULTILINE)
    assert int(kept) < default("header_timeout")
    (upload,) = re.findall(r"location = /upload \{[^}]*proxy_read_timeout (\d+)s;", text)
    assert int(upload) >= default("upload_timeout")


async def test_slices_pass_through_and_result_urls_have_the_host_of_nginx(nginx: Nginx, behind: Server) -> None:
    async with await through(nginx, behind) as client:
        await client.slice("a", encoded(photograph(), ".png"))
        await client.slice("b", small(), respond="bytes")
        first, second = sorted(await client.ends(2), key=lambda end: str(end["id"]))
        assert first["url"].startswith(f"{nginx.url}/media/")
        assert decoded(httpx.get(first["url"]).content).shape == (512, 512, 3)
        assert decoded(second["payload"]).shape == (64, 128, 3)


async def test_the_150_character_protocol_passes_through(nginx: Nginx, behind: Server) -> None:
    async with websockets.connect(f"{nginx.ws}/ws?query_string={behind.token()}", proxy=None) as page:
        assert json.loads(await page.recv()) == {"text": "{}"}
        header = json.dumps({"uuid": "u", "offset_top": 0, "zoom": 1})
        await page.send(header.ljust(150) + base64.b64encode(small()).decode())
        answer = json.loads(json.loads(await page.recv())["text"])
        assert (answer["uuid"], httpx.get(answer["url"]).status_code) == ("u", 200)


@pytest.mark.chaos
async def test_pings_pass_through_in_both_directions(nginx: Nginx, behind: Server) -> None:
    seen: list[str] = []
    wire = logging.Logger("wire", logging.DEBUG)
    wire.addHandler(logging.NullHandler())
    wire.addFilter(lambda record: bool(seen.append(record.getMessage())) or True)
    async with await through(nginx, behind, logger=wire) as client:
        # The server pings every 7 s. A second ping means that the client has answered the first in time.
        await until(lambda: sum("< PING" in line for line in seen) >= 2)
        await (await client.socket.ping())
        await client.slice("a", small())
        assert (await client.wait_for("result"))["id"] == "a"


def test_nginx_sends_a_complete_file_with_the_headers_of_the_server(nginx: Nginx, behind: Server) -> None:
    data = os.urandom(300_000)
    for suffix, type in ((".webm", "video/webm"), (".csv", "text/csv; charset=utf-8"), (".jpg", "image/jpeg")):
        name = stored(behind, suffix, data)
        answer = httpx.get(f"{nginx.url}/media/{name}")
        assert (answer.status_code, answer.content == data, answer.headers["Server"]) == (200, True, "nginx")
        assert answer.headers["Content-Type"] == type
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Content-Security-Policy"].startswith("default-src 'none'")
        assert answer.headers["Cache-Control"] == "private, max-age=86400, immutable"
        assert answer.headers["Access-Control-Allow-Origin"] == "*"
        assert answer.headers.get("Content-Disposition", "").startswith("attachment" if suffix == ".csv" else "")
        assert "X-Accel-Redirect" not in answer.headers
        head = httpx.head(f"{nginx.url}/media/{name}")
        assert (head.status_code, int(head.headers["Content-Length"])) == (200, len(data))


def test_nginx_answers_range_and_conditional_requests(nginx: Nginx, behind: Server) -> None:
    data = os.urandom(100_000)
    url = f"{nginx.url}/media/{stored(behind, '.mp4', data)}"
    for asked, given in (("bytes=0-9", data[:10]), ("bytes=99990-", data[99990:]), ("bytes=-7", data[-7:])):
        part = httpx.get(url, headers={"Range": asked})
        assert (part.status_code, part.content, part.headers["Content-Type"]) == (206, given, "video/mp4")
        assert part.headers["Content-Range"].endswith("/100000")
    tag = httpx.get(url).headers["Etag"]
    assert httpx.get(url, headers={"If-None-Match": tag}).status_code == 304


def test_clients_cannot_reach_the_internal_paths_of_files(nginx: Nginx, behind: Server) -> None:
    """Without ``internal`` in the configuration, the first path would give 200."""
    name = stored(behind, ".jpg", b"x")
    (behind.media / "secret.txt").write_text("secret")
    (behind.media / ("e" * 32 + ".jpg")).symlink_to(behind.folder / "var" / "sluice.db")
    paths = (f"/_files/media/{name}", "/_files/media/secret.txt", "/_files/upload/", f"/media/{'e' * 32}.jpg")
    for path in (*paths, "/media/secret.txt", f"/media/{'0' * 32}.jpg", "/metrics", "/readyz"):
        answer = httpx.get(nginx.url + path)
        assert answer.status_code in (403, 404), path
        assert b"secret" not in answer.content
        assert str(behind.folder) not in answer.text


def test_a_client_that_connects_directly_gets_the_file_from_the_server(start_here: Start) -> None:
    """The server sends X-Accel-Redirect to trusted proxies only. Any other client cannot use it."""
    server = start_here(trusted_proxies="127.0.0.5", accel_redirect="/_files/")
    name = stored(server, ".jpg", b"hello")
    answer = httpx.get(f"{server.url}/media/{name}", headers={"X-Forwarded-For": "127.0.0.5"})
    assert (answer.content, "X-Accel-Redirect" in answer.headers) == (b"hello", False)


def test_servers_trust_the_client_address_from_nginx_and_not_from_the_client(nginx: Nginx, behind: Server) -> None:
    """The token is bound to an address. The client connects from that address, and then from another one with a false
    header.
    """

    def status(address: str, **headers: str) -> int:
        with httpx.Client(transport=httpx.HTTPTransport(local_address=address)) as client:
            bearer = {"Authorization": f"Bearer {behind.token(ip='127.0.0.2')}"}
            return client.post(f"{nginx.url}/process", content=small(), headers=bearer | headers).status_code

    assert status("127.0.0.2") == 200
    assert status("127.0.0.3") == 401
    assert status("127.0.0.3", **{"X-Forwarded-For": "127.0.0.2"}) == 401


async def test_an_upload_reaches_the_server_while_it_is_still_being_sent(nginx: Nginx, behind: Server) -> None:
    """With buffering, nginx would store the upload until its end, and a refusal would arrive after 32 MiB instead of
    before.
    """
    content = film(".mp4") + bytes(1 << 20)
    lines = ["POST /upload HTTP/1.1", "Host: x", f"Authorization: Bearer {behind.token(scope='chat')}"]
    head = "\r\n".join([*lines, f"Content-Length: {len(content)}", "Connection: close", "", ""]).encode()
    with socket.create_connection(("127.0.0.1", nginx.port), timeout=GUARD) as sender:
        sender.sendall(head + content[:-1])
        parts = behind.folder / "var/uploads"
        await until(lambda: sum(path.stat().st_size for path in parts.glob(".*.part")) > len(content) // 2)
        sender.sendall(content[-1:])
        said = b""
        while piece := await asyncio.to_thread(sender.recv, 65536):
            said += piece
    assert said.startswith(b"HTTP/1.1 201 ")
    answer = json.loads(said[said.index(b"{") : said.rindex(b"}") + 1])
    served = httpx.get(f"{nginx.url}/upload/{answer['id']}.mp4")
    assert (served.content == content, served.headers["Server"], served.headers["Content-Type"]) == (
        True,
        "nginx",
        "video/mp4",
    )
    assert "sandbox" in served.headers["Content-Security-Policy"]
    assert httpx.get(f"{nginx.url}/upload/{answer['id']}.draft").status_code == 404


@pytest.mark.chaos
async def test_nginx_skips_a_killed_server_and_a_reload_closes_no_socket(tmp_path: Path) -> None:
    servers = []
    for number in (1, 2):
        (tmp_path / str(number)).mkdir()
        servers.append(Server(tmp_path / str(number), media=f"file:{tmp_path}/media", **HELD))
    one, two = servers
    try:
        with nginx_before(tmp_path, [one.port, two.port], tmp_path / "media", tmp_path / "uploads") as nginx:
            clients = [await through(nginx, one) for _ in range(4)]
            assert [server.metric("sluice_connections") for server in servers] == [2.0, 2.0], (
                "nginx must choose the server with the fewest connections"
            )
            nginx.reload()
            for client in clients:
                await client.slice("a", small())
                url = (await client.wait_for("result"))["url"]
                assert httpx.get(nginx.url + httpx.URL(url).path).status_code == 200, (
                    "each server must deliver the result"
                )
            one.stop(9)
            assert [httpx.get(f"{nginx.url}/healthz").status_code for _ in range(20)] == [200] * 20
            async with await through(nginx, two) as client:
                await client.slice("b", small())
                await client.wait_for("result")
            nginx.configure([two.port])
            nginx.reload()
            await until(lambda: httpx.get(f"{nginx.url}/healthz").status_code == 200)
            for client in clients:
                client.abort()
    finally:
        for server in servers:
            if server.process.poll() is None:
                server.stop()


def test_the_settings_named_in_the_configuration_exist() -> None:
    flags = set(re.findall(r"--([a-z][a-z-]+)", SHIPPED.read_text()))
    assert flags <= {name.replace("_", "-") for name in SETTINGS}
    assert (ROOT / "deploy").is_dir()
