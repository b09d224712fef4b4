"""Tests which clients may open a socket: tokens, scopes, origins, cookies, connection limits and proxies. Every refusal
happens before the upgrade.
"""

import contextlib
import json
import socket
import struct
from collections.abc import Callable
from typing import Any

import httpx
import pytest
import websockets
from websockets.asyncio.client import ClientConnection

from handlers.core.auth import issue
from tests.support.client import Client, upgrade
from tests.support.pictures import small
from tests.support.running import SECRET, Server, Start, until


async def open_socket(server: Server, headers: dict[str, str] | None = None, **options: Any) -> ClientConnection:
    """Opens a plain connection to /ws/images, or to the given path, with these headers and options."""
    path = options.pop("path", "/ws/images")
    return await websockets.connect(server.ws + path, additional_headers=headers, proxy=None, **options)


async def refusal(server: Server, headers: dict[str, str] | None = None, **options: Any) -> tuple[int, dict[str, str]]:
    """Opens a connection that must be refused, and returns the status and the error of the response."""
    with pytest.raises(websockets.InvalidStatus) as caught:
        await open_socket(server, headers, **options)
    response = caught.value.response
    if response.status_code == 401:
        assert response.headers["WWW-Authenticate"] == "Bearer"
    return response.status_code, json.loads(response.body)["error"]


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


BAD_TOKENS: dict[str, tuple[Callable[[], dict[str, str]], int, str]] = {
    "missing": (dict, 401, "token missing"),
    "empty": (lambda: bearer(""), 401, "token missing"),
    "not a bearer": (lambda: {"Authorization": "Basic YTpi"}, 401, "token missing"),
    "no JWT": (lambda: bearer("open-sesame"), 401, "not a valid JWT"),
    "another key": (lambda: bearer(issue("x" * 32, "alice", "images", 60)), 401, "with this server's key"),
    "expired": (lambda: bearer(issue(SECRET, "alice", "images", -60)), 401, "token expired"),
    "another address": (
        lambda: bearer(issue(SECRET, "alice", "images", 60, ip="192.0.2.1")),
        401,
        "another IP address",
    ),
    "longer than any token": (lambda: bearer("x" * 20_000), 401, "8,192"),
    "no scope": (lambda: bearer(issue(SECRET, "alice", "", 60)), 403, "'images'"),
    "another scope": (lambda: bearer(issue(SECRET, "alice", "chat admin", 60)), 403, "'images'"),
    "a scope that only starts with the right name": (
        lambda: bearer(issue(SECRET, "alice", "images2", 60)),
        403,
        "'images'",
    ),
}


@pytest.mark.parametrize("case", BAD_TOKENS)
async def test_a_bad_token_is_refused_before_the_upgrade(server: Server, case: str) -> None:
    headers, status, word = BAD_TOKENS[case]
    code, error = await refusal(server, headers())
    assert (code, error["code"]) == (status, "forbidden")
    assert word in error["message"]
    token = headers().get("Authorization", "").partition(" ")[2]
    assert not token or token not in error["message"]


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
async def test_the_scheme_of_the_header_may_be_written_in_any_case(server: Server, scheme: str) -> None:
    async with await open_socket(server, {"Authorization": f"{scheme} {server.token()}"}):
        pass


@pytest.mark.parametrize(
    "origin",
    ["http://evil.example", "null", "http://127.0.0.1.evil.example", "http://127.0.0.1", "http://[", "", "http://"],
)
async def test_pages_of_other_origins_are_refused(server: Server, origin: str) -> None:
    status, error = await refusal(server, bearer(server.token()) | {"Origin": origin})
    assert (status, error["code"]) == (403, "forbidden")
    assert "allow_origins" in error["message"]


async def test_pages_of_our_own_and_of_allowed_origins_may_connect(start_here: Start) -> None:
    server = start_here(allow_origins="https://a.example, https://b.example:8443")
    for origin in (server.url, "https://a.example", "https://b.example:8443"):
        async with await open_socket(server, bearer(server.token()) | {"Origin": origin}):
            pass
    others = ["http://a.example", "https://a.example:444", "https://b.example", "https://sub.a.example"]
    for origin in (*others, f"{server.url}.evil.example", server.url.replace("//", "//evil.example.")):
        assert (await refusal(server, bearer(server.token()) | {"Origin": origin}))[0] == 403


async def test_the_token_may_be_a_subprotocol_and_is_never_echoed(server: Server) -> None:
    offered = [websockets.Subprotocol("sluice.v2"), websockets.Subprotocol(f"bearer.{server.token()}")]
    for subprotocols in (offered, offered[::-1]):
        async with await open_socket(server, subprotocols=subprotocols) as opened:
            assert opened.subprotocol == "sluice.v2"
            assert opened.response
            assert server.token() not in str(opened.response.headers)
            assert json.loads(await opened.recv())["user"] == "alice"
    async with await open_socket(server, subprotocols=offered[1:]) as opened:
        assert opened.subprotocol is None
    bad = [websockets.Subprotocol("sluice.v2"), websockets.Subprotocol("bearer.abc.def.ghi")]
    assert (await refusal(server, subprotocols=bad))[0] == 401


async def test_the_console_cookie_opens_a_socket_only_for_pages_of_this_server(server: Server) -> None:
    answer = httpx.get(f"{server.url}/", params={"token": server.token("carol")})
    cookie = {"Cookie": f"sluice_token={answer.cookies['sluice_token']}"}
    async with await open_socket(server, cookie | {"Origin": server.url}) as opened:
        assert json.loads(await opened.recv())["user"] == "carol"
    assert (await refusal(server, cookie))[0] == 403, "without an Origin, the server cannot know which page connects"
    assert (await refusal(server, cookie | {"Origin": "http://evil.example"}))[0] == 403


async def test_a_user_has_a_limit_of_open_connections(start_here: Start) -> None:
    server = start_here(connections_per_user=2)
    first, second = await Client.connect(server, "alice"), await Client.connect(server, "alice")
    status, error = await refusal(server, bearer(server.token("alice")))
    assert (status, error["code"]) == (429, "busy")
    assert "connections_per_user" in error["message"]
    async with await Client.connect(server, "bob"):
        pass
    first.abort()
    await second.socket.close()
    await until(lambda: server.metric("sluice_connections") == 0)
    async with await Client.connect(server, "alice"), await Client.connect(server, "alice"):
        assert server.metric("sluice_connections") == 2


async def test_an_address_has_a_limit_of_open_connections_of_all_users(start_here: Start) -> None:
    server = start_here(connections_per_address=2, trusted_proxies="127.0.0.1")
    async with await Client.connect(server, "alice"), await Client.connect(server, "bob"):
        status, error = await refusal(server, bearer(server.token("carol")))
        assert status == 429
        assert "connections_per_address" in error["message"]
        async with await Client.connect(server, "carol", headers={"X-Forwarded-For": "192.0.2.7"}):
            pass
    await until(lambda: server.metric("sluice_connections") == 0)
    async with await Client.connect(server, "carol"):
        pass


NO_PROXY, PROXY, TWO_PROXIES = "10.0.0.0/8", "127.0.0.0/8", "127.0.0.1 192.0.2.0/24"


@pytest.mark.parametrize(
    ("trusted", "scheme", "addresses"),
    [
        (NO_PROXY, "http", {"192.0.2.7": "127.0.0.1"}),
        (
            PROXY,
            "https",
            {
                "192.0.2.7": "192.0.2.7",
                "203.0.113.9, 192.0.2.7": "192.0.2.7",
                "2001:db8::1": "2001:db8::1",
                "rubbish": "127.0.0.1",
            },
        ),
        (TWO_PROXIES, "https", {"198.51.100.1, 203.0.113.9, 192.0.2.7": "203.0.113.9"}),
    ],
)
async def test_forwarded_headers_count_only_from_trusted_proxies(
    start_here: Start, trusted: str, scheme: str, addresses: dict[str, str]
) -> None:
    server = start_here(trusted_proxies=trusted)
    for forwarded, address in addresses.items():
        headers = {"X-Forwarded-For": forwarded, "X-Forwarded-Proto": "https"}
        async with await Client.connect(server, token=server.token(ip=address), headers=headers) as client:
            await client.slice("a", small())
            url = (await client.wait_for("result"))["url"]
            assert url.startswith(f"{scheme}://127.0.0.1:{server.port}/media/")
        status, error = await refusal(server, bearer(server.token(ip="198.51.100.2")) | headers)
        assert (status, "another IP address" in error["message"]) == (401, True)


@pytest.mark.parametrize(
    ("forwarded", "page", "is_allowed"),
    [("https", "https", True), ("https", "http", False), ("http", "http", True), ("http", "https", True)],
)
async def test_with_tls_an_http_page_of_the_same_host_is_foreign(
    start_here: Start, forwarded: str, page: str, is_allowed: bool
) -> None:
    """Without TLS to the server, the https page is allowed: a proxy may have ended TLS without a header
    that says so.
    """
    server = start_here(trusted_proxies="127.0.0.1")
    headers = bearer(server.token()) | {"X-Forwarded-Proto": forwarded, "Origin": f"{page}://127.0.0.1:{server.port}"}
    if is_allowed:
        await (await open_socket(server, headers)).close()
    else:
        assert (await refusal(server, headers))[0] == 403


@pytest.mark.parametrize("path", ["/ws/images", "/ws"])
async def test_a_plain_get_of_a_socket_url_explains_that_it_is_a_websocket(server: Server, path: str) -> None:
    page = httpx.get(server.url + path)
    assert page.status_code == 200
    assert f"{path} is a WebSocket" in page.text
    answer = httpx.get(server.url + path, headers={"Accept": "application/json"})
    assert answer.status_code == 426
    assert answer.headers["Upgrade"] == "websocket"
    assert answer.json()["error"]["code"] == "bad_message"
    assert ("sluice.v2" in answer.json()["error"]["message"]) == (path == "/ws/images")


async def test_a_connection_that_ends_before_it_is_open_is_not_counted(start: Start) -> None:
    server = start(connections_per_user=1000)
    token = server.token()
    wrong = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "12", **bearer(token)}
    assert httpx.get(f"{server.url}/ws/images", headers=wrong).status_code in (400, 426)
    for path in ("/ws/images", f"/ws?query_string={token}", "/ws?query_string=rubbish"):
        for number in range(20):
            with socket.create_connection(("127.0.0.1", server.port)) as connection:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                connection.sendall(upgrade(path, token))
                if number % 2:
                    connection.recv(1)
    await until(lambda: server.metric("sluice_connections") == 0)
    assert server.stop() == 0
    assert not [line for line in server.log if "error" in line.lower()]


async def test_a_token_is_never_logged_wherever_the_client_sends_it(start: Start) -> None:
    server = start(log_level="debug")
    good, bad = server.token("alice"), issue("y" * 32, "alice", "images", 60)
    for token in (good, bad):
        placed: list[dict[str, Any]] = [
            {"headers": bearer(token)},
            {"subprotocols": [websockets.Subprotocol("sluice.v2"), websockets.Subprotocol(f"bearer.{token}")]},
            {"headers": {"Cookie": f"sluice_token={token}", "Origin": server.url}},
            {"path": f"/ws?query_string={token}"},
            {"path": f"/ws/images?token={token}", "headers": bearer(token)},
        ]
        for options in placed:
            with contextlib.suppress(websockets.InvalidStatus, websockets.ConnectionClosed):
                async with await open_socket(server, **options) as opened:
                    await opened.send(json.dumps({"type": "token", "token": token}))
        for path in ("/", "/process", "/nowhere", "/media/x", "/metrics"):
            httpx.get(server.url + path, params={"token": token, "query_string": token})
        httpx.post(f"{server.url}/process", params={"token": token}, headers=bearer(token), content=b"x")
    assert server.stop() == 0
    log = "".join(server.log)
    assert log.count("/ws/images") > 5, "the log must contain the requests"
    for token in (good, bad):
        assert token.split(".")[2] not in log
        assert token.split(".")[1] not in log
    assert SECRET not in log


async def test_the_log_names_admitted_and_refused_clients(start: Start) -> None:
    server = start()
    async with await Client.connect(server, "alice"):
        pass
    with pytest.raises(websockets.InvalidStatus):
        await Client.connect(server, token=server.token("mallory", scope="chat"))
    await until(lambda: len(server.log) >= 3)
    entries = [json.loads(line) for line in server.log[1:]]
    assert [(line["event"], line.get("user"), line.get("reason")) for line in entries] == [
        ("http.authorized", "alice", None),
        ("http.refused", None, "forbidden"),
    ]
    assert all(line["address"] == "127.0.0.1" and line["path"] == "/ws/images" for line in entries)
