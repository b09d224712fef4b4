"""A client puts a token in every possible place. The server must never repeat it in a log line, an error message, a
page or a metric.

A text contains the token when it contains any twelve characters of its claims or its signature. There is one exception:
the server answers a request for the console with ?token= by setting the token as a cookie. These tests fail when
redact_tokens is removed from the log, from write_error (handlers/core/http.py) or from reply_error
(handlers/core/websocket.py). They also fail when the server repeats an id that is longer than the limit.
"""

import json
from base64 import b64encode
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import websockets

from handlers.core.auth import issue
from tests.reliability.doors import DOORS, ask, bearer, log_of, request
from tests.support.client import Client
from tests.support.pictures import small
from tests.support.running import SECRET, Server

NAME = "canary-in-a-coal-mine"
TOKENS: dict[str, Callable[[], str]] = {
    "valid": lambda: issue(SECRET, NAME, "images admin", 600),
    "signed with another key": lambda: issue("y" * 32, NAME, "images admin", 600),
    "expired": lambda: issue(SECRET, NAME, "images admin", -600),
    "truncated": lambda: issue(SECRET, NAME, "images admin", 600)[:-5],
}
PATHS = (
    "/",
    "/ws/images",
    "/ws",
    "/process",
    "/media/x",
    "/static/console/console.js",
    "/metrics",
    "/healthz",
    "/nowhere",
)


def found(token: str, text: str) -> bool:
    """Returns whether the text contains a part of the token. The header of the token is not secret."""
    secret = token.partition(".")[2]
    return any(secret[at : at + 12] in text for at in range(0, len(secret) - 12, 12))


Place = Callable[[bytes], bytes]


def query(path: str) -> Place:
    return lambda token: request(b"GET " + path.encode() + b"?token=" + token + b"&query_string=" + token)


def header(name: str, path: str = "/ws/images", before: bytes = b"", upgrade: bool = True) -> Place:
    return lambda token: request("GET " + path, name.encode() + b": " + before + token, upgrade=upgrade)


def body(kind: bytes, content: bytes, path: str = "/process") -> Place:
    return lambda token: request(
        "POST " + path, b"Content-Type: " + kind, *bearer(token), body=content.replace(b"TOKEN", token)
    )


def raw(text: bytes) -> Place:
    return lambda token: text.replace(b"TOKEN", token)


FORM = b"application/x-www-form-urlencoded"
PARTS = b'--x\r\nContent-Disposition: form-data; name="TOKEN"; filename="TOKEN"\r\n\r\nTOKEN\r\n--x--\r\n'
HEADERS = (
    *("Authorization", "Proxy-Authorization", "Cookie", "User-Agent", "Referer", "Accept", "X-Token"),
    *("X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host", "Forwarded", "Via", "X-Request-Id", "Expect"),
    *("Range", "If-None-Match", "If-Modified-Since", "Content-Type", "Content-Encoding", "Sec-Fetch-Site"),
)
# The places in an HTTP request where a client can put a token, correctly or by mistake.
PLACES: dict[str, Place] = {
    **{f"{door} (valid place)": show for door, show in DOORS.items()},
    **{f"query of {path}": query(path) for path in PATHS},
    **{f"header {name} of {path}": header(name, path, upgrade=False) for name in HEADERS for path in PATHS[3:6]},
    **{f"header {name} of an upgrade": header(name) for name in HEADERS},
    "origin": header("Origin"),
    "origin as a host": header("Origin", before=b"https://"),
    "origin of /process": header("Origin", "/metrics", b"https://", upgrade=False),
    "host": raw(b"GET /metrics HTTP/1.1\r\nHost: TOKEN\r\n\r\n"),
    "Basic authorization": header("Authorization", before=b"Basic "),
    "cookie of another name": header("Cookie", before=b"session="),
    "name of a cookie": lambda token: request("GET /process", b"Cookie: " + token + b"=1"),
    "subprotocol without a prefix": header("Sec-WebSocket-Protocol"),
    "subprotocol twice": header("Sec-WebSocket-Protocol", before=b"bearer.x, bearer."),
    "extension": header("Sec-WebSocket-Extensions", before=b"permessage-deflate; "),
    "key of the upgrade": header("Sec-WebSocket-Key"),
    "path": lambda token: request(b"GET /" + token),
    "path of a result": lambda token: request(b"GET /media/" + token + b".jpg"),
    "path of a file": lambda token: request(b"GET /static/" + token),
    "path below a socket": lambda token: request(b"GET /ws/images/" + token, upgrade=True),
    "path with encoded dots": lambda token: request(b"GET /" + token.replace(b".", b"%2E")),
    "absolute URL": lambda token: request(b"GET http://" + token + b"/" + token),
    "fragment": lambda token: request(b"GET /#" + token),
    "method": lambda token: request(token + b" /"),
    "name of a parameter": lambda token: request(b"POST /process?" + token + b"=1", *bearer(token), body=b"x"),
    **{
        f"parameter {name}": lambda token, name=name: request(
            b"POST /process?" + name + b"=" + token, *bearer(token), body=small()
        )
        for name in (b"action", b"options", b"zoom", b"fit", b"format", b"respond")
    },
    "name of an option": lambda token: request(
        b'POST /process?options={"' + token + b'":1}', *bearer(token), body=small()
    ),
    "picture": body(b"image/jpeg", b"TOKEN"),
    "form": body(FORM, b"token=TOKEN&TOKEN=%ff", "/"),
    "multipart form": body(b"multipart/form-data; boundary=x", PARTS, "/"),
    "multipart form without parts": body(b"multipart/form-data; boundary=TOKEN", b"TOKEN", "/"),
    "user of a kick": body(b"application/json", b'{"user": "TOKEN", "deny_s": 0}', "/admin/kick"),
    "member of a kick": body(b"application/json", b'{"user": "unknown", "TOKEN": 0}', "/admin/kick"),
    "kick without JSON": body(b"application/json", b"TOKEN", "/admin/kick"),
}
# Malformed requests.
MALFORMED: dict[str, Place] = {
    text.decode(): raw(text)
    for text in (
        *(b"TOKEN\r\n\r\n", b"GET TOKEN\r\n\r\n", b"GET / TOKEN\r\n\r\n", b"TOKEN / HTTP/1.1\r\n\r\n"),
        *(b"GET /TOKEN HTTP/1.0\r\n\r\n", b"GET TOKEN HTTP/1.1\r\nHost: x\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nTOKEN\r\n"),
        *(b"GET / HTTP/1.1\r\nTOKEN\r\n\r\n", b"GET / HTTP/1.1\r\n TOKEN: x\r\n\r\n", b"\x16\x03\x01TOKEN\r\n\r\n"),
        *(b"GET / HTTP/1.1\r\nHost: x\r\nTOKEN: x\r\n\r\n", b"GET / HTTP/1.1\r\nHost: x\r\nX-\x00: TOKEN\r\n\r\n"),
        *(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: TOKEN\r\n\r\n",),
        *(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1, TOKEN\r\n\r\n",),
        *(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: TOKEN\r\n\r\n",),
        *(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nTOKEN\r\n\r\n",),
        *(b"GET / HTTP/1.1\r\nHost: x\r\nHost: TOKEN\r\n\r\n", b"GET /%TOKEN%zz HTTP/1.1\r\nHost: x\r\n\r\n"),
        b"GET /static/%00TOKEN HTTP/1.1\r\nHost: x\r\n\r\n",
    )
}


@pytest.fixture(scope="module")
def talkative(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that logs as much as possible, and shows its metrics to administrators only."""
    running = Server(tmp_path_factory.mktemp("talkative"), log_level="debug", metrics_allow="192.0.2.0/24")
    yield running
    assert running.stop() == 0


async def figures(server: Server) -> str:
    answer = await ask(server, request("GET /metrics", *bearer(server.token("operator", "admin").encode())))
    assert answer.status == 200
    return answer.body.decode()


@pytest.mark.parametrize("kind", TOKENS)
async def test_the_server_never_repeats_a_token_of_a_request(talkative: Server, kind: str) -> None:
    token = TOKENS[kind]()
    leaks = []
    for place, put in {**PLACES, **MALFORMED}.items():
        since = len(talkative.log)
        answer = (await ask(talkative, put(token.encode()))).raw.decode("latin-1")
        kept = [line for line in answer.split("\r\n") if not line.startswith("Set-Cookie: sluice_token=")]
        leaks += [f"{place}: answer {answer}"] if found(token, "\n".join(kept)) else []
        log = await log_of(talkative, since)
        leaks += [f"{place}: log {log}"] if found(token, log) else []
    assert not found(token, await figures(talkative))
    assert leaks == [], "\n\n".join(leaks)


def messages(token: str) -> Iterator[dict[str, Any] | str | bytes]:
    """Messages of /ws/images with the token in every wrong place and in the right place."""
    data = b64encode(small()).decode()
    yield {"type": "token", "token": token}
    yield {"type": "token", "token": token, token: 1}
    yield {"type": "token", "token": [token]}
    yield {"type": token}
    yield {"type": [token]}
    yield {token: token}
    yield {"type": "viewport", "top": token, "height": 1}
    yield {"type": "resume", "session": token, "epoch": token, "after": 0}
    yield {"type": "cancel", "id": token}
    yield {"type": "cancel", "image": token}
    for name in ("id", "image", "action", "fit", "respond", "format", "zoom", "offset_top", token):
        yield {"type": "slice", "id": "1", "offset_top": 0, "data": data, name: token}
    yield {"type": "slice", "id": "2", "offset_top": 0, "data": token}
    yield {"type": "slice", "id": "3", "offset_top": 0, "data": data, "action": "blur", "options": {token: token}}
    yield {"type": "slice", "id": "4", "offset_top": 0, "data": data, "action": "blur", "options": {"radius": token}}
    yield {"type": "slice", "id": "5", "offset_top": 0, "data": b64encode(token.encode()).decode()}
    yield token
    yield json.dumps(token)
    yield token.encode()
    yield b"\0\0\0\x05" + token.encode()
    yield b"\0\0\xff\xff" + token.encode()


@pytest.mark.parametrize("kind", TOKENS)
async def test_the_server_never_repeats_a_token_of_a_message(talkative: Server, kind: str) -> None:
    token = TOKENS[kind]()
    since = len(talkative.log)
    leaks = []
    async with await Client.connect(talkative, NAME) as client:
        for message in messages(token):
            await client.socket.send(json.dumps(message) if isinstance(message, dict) else message)
            await client.send("cancel", id="mark")
            while (answer := await client.receive()).get("id") != "mark":
                leaks += [(message, answer)] if found(token, str(answer)) else []
        await client.socket.ping(token[-100:])
        await client.socket.close(4000, token[-100:])
    assert leaks == []
    assert not found(token, await figures(talkative))
    assert not found(token, await log_of(talkative, since))


@pytest.mark.parametrize("kind", TOKENS)
async def test_the_server_never_repeats_a_token_of_the_150_character_protocol(talkative: Server, kind: str) -> None:
    token = TOKENS[kind]()
    since = len(talkative.log)
    header = json.dumps({"uuid": "mark", "offset_top": 0, "zoom": 1})
    address = f"{talkative.ws}/ws?query_string={talkative.token(NAME)}"
    async with websockets.connect(address, proxy=None) as socket:
        answers = [await socket.recv()]
        for message in (token, header.ljust(150) + token, ('{"uuid": "' + token + '"}').ljust(150), token.encode()):
            await socket.send(message)
            answers.append(await socket.recv())
    assert not [answer for answer in answers if found(token, str(answer))]
    assert not found(token, await log_of(talkative, since))
