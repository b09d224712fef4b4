"""Pages of other origins get nothing that is not theirs; and nothing we answer can be run, framed or guessed at.

The cookie's SameSite=Strict would not do: a page of another port is of the same site. Seen to fail with each of these
taken out: the check of the Origin, its comparison as a whole, the cookie's need of one (sockets have their own), each
header of web.py and of the console, and with Access-Control-Allow-Origin for any origin.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress

import pytest
from playwright.async_api import Page

from tests.browser.chromium import BROWSER
from tests.reliability.doors import DENY, Answer, ask, bearer, request
from tests.support.client import Client
from tests.support.pictures import small
from tests.support.running import Server, Start, until

OWN, ALLOWED = "http://127.0.0.1", "https://pages.example"
FOREIGN = (
    *("https://evil.example", "null", "", "http://", "http://127.0.0.1.evil.example", "http://127.0.0.1:81"),
    *("http://127.0.0.1@evil.example", "https://evil.example/http://127.0.0.1", "https://evil.pages.example"),
    *(
        "http://pages.example",
        "https://pages.example:444",
        "https://PAGES.example.",
        "https://pages.example/",
        "file://",
    ),
)


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that shows its figures to admins only, so that they are worth asking for with another's cookie."""
    settings = {"metrics_allow": "192.0.2.0/24", "allow_origins": ALLOWED, "connections_per_user": 100}
    running = Server(tmp_path_factory.mktemp("strict"), **settings)
    yield running
    assert running.stop() == 0


def with_cookie(server: Server) -> bytes:
    return b"Cookie: sluice_token=" + server.token(scope="images admin").encode()


def with_bearer(server: Server) -> bytes:
    return bearer(server.token(scope="images admin").encode())[0]


Shown = Callable[..., bytes]
# What a page would like to do in another's name, and the status that says it was done.
DEEDS: dict[str, tuple[Shown, int]] = {
    "open /ws/images": (lambda *headers: request("GET /ws/images", *headers, upgrade=True), 101),
    "work a picture": (lambda *headers: request("POST /process", *headers, body=small()), 200),
    "read the figures": (lambda *headers: request("GET /metrics", *headers), 200),
    "deny a user": (lambda *headers: request("POST /admin/kick", *headers, body=DENY), 204),
}


@pytest.mark.parametrize("deed", DEEDS)
@pytest.mark.parametrize("shown", [with_cookie, with_bearer])
async def test_pages_of_foreign_origins_are_refused(strict: Server, deed: str, shown: Callable[..., bytes]) -> None:
    ask_for, done = DEEDS[deed]
    for origin in FOREIGN:
        answer = await ask(strict, ask_for(shown(strict), b"Origin: " + origin.encode()))
        assert answer.status == 403, origin
        assert b"access-control-allow-origin" not in answer.head.lower(), origin
    for origin in (OWN, ALLOWED):
        answer = await ask(strict, ask_for(shown(strict), b"Origin: " + origin.encode()))
        assert answer.status == done, origin
    assert f"access-control-allow-origin: {ALLOWED}\r\nvary: origin".encode() in answer.head.lower()


async def test_the_older_protocol_refuses_foreign_origins_before_the_upgrade(strict: Server) -> None:
    line = f"GET /ws?query_string={strict.token()}"
    for origin in FOREIGN:
        assert (await ask(strict, request(line, b"Origin: " + origin.encode(), upgrade=True))).status == 403, origin
    for headers in ([], [b"Origin: " + OWN.encode()]):
        assert (await ask(strict, request(line, *headers, upgrade=True))).status == 101


@pytest.mark.parametrize("deed", DEEDS)
@pytest.mark.parametrize("site", ["cross-site", "same-site", "", None])
async def test_a_cookie_without_an_origin_opens_nothing(strict: Server, deed: str, site: str | None) -> None:
    """A picture, a form or a link of another page sends cookies and no Origin; Sec-Fetch-Site tells it from ours."""
    headers = [] if site is None else [b"Sec-Fetch-Site: " + site.encode()]
    assert (await ask(strict, DEEDS[deed][0](with_cookie(strict), *headers))).status == 403


@pytest.mark.parametrize("site", ["same-origin", "none"])
async def test_our_own_pages_and_the_address_bar_read_by_cookie_and_do_no_more(strict: Server, site: str) -> None:
    """Whatever does more than read is said to come from our page by its Origin too, a WebSocket included."""
    for deed, (ask_for, _) in DEEDS.items():
        answer = await ask(strict, ask_for(with_cookie(strict), b"Sec-Fetch-Site: " + site.encode()))
        assert answer.status == (200 if deed == "read the figures" else 403), deed


async def test_programs_need_no_origin(strict: Server) -> None:
    for ask_for, done in DEEDS.values():
        assert (await ask(strict, ask_for(with_bearer(strict)))).status == done


# Every kind of answer there is, and its status. NAME stands for a result.
ANSWERS: dict[str, tuple[bytes, int]] = {
    **{f"page {path}": (request(f"GET {path}"), 200) for path in ("/", "/ws", "/ws/images", "/healthz", "/readyz")},
    **{f"head {path}": (request(f"HEAD {path}"), 405) for path in ("/", "/healthz", "/metrics")},
    **{
        f"file {name}": (request(f"GET /static/{name}"), 200)
        for name in (
            "sluice.js",
            "console/console.js",
            "console/style.css",
            "console/index.html",
            "icon.svg",
            "sample.jpg",
        )
    },
    "icon": (request("GET /favicon.ico"), 200),
    "result": (request("GET /media/NAME"), 200),
    "part of a result": (request("GET /media/NAME", b"Range: bytes=0-9"), 206),
    "no part of a result": (request("GET /media/NAME", b"Range: bytes=9999999-"), 416),
    "result as it was": (request("GET /media/NAME", b'If-None-Match: "NAME"'), 304),
    "head of a result": (request("HEAD /media/NAME"), 200),
    "no result": (request(f"GET /media/{'0' * 32}.jpg"), 404),
    "no file": (request("GET /static/nothing.js"), 404),
    "not a file": (request("GET /static/."), 403),
    "outside": (request("GET /static/../server.py"), 403),
    "nothing": (request("GET /nowhere"), 404),
    "nothing to post to": (request("POST /nowhere"), 404),
    **{
        f"{method} {path}": (request(f"{method} {path}"), 405)
        for method in ("POST", "DELETE", "PATCH", "BREW")
        for path in ("/", "/static/console/console.js", "/media/NAME", "/healthz", "/favicon.ico", "/metrics")
    },
    "process, to be read": (request("GET /process"), 405),
    "process, asked about": (request("OPTIONS /process", b"Origin: " + ALLOWED.encode()), 204),
    "process, no token": (request("POST /process", body=b"x"), 401),
    "process, no picture": (request("POST /process", b"BEARER", body=b"x"), 422),
    "process, empty": (request("POST /process", b"BEARER"), 422),
    "process, unknown": (request("POST /process?x=1", b"BEARER", body=b"x"), 400),
    "process, too large": (b"POST /process HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999\r\nBEARER\r\n\r\n", 413),
    "process, done": (request("POST /process", b"BEARER", body=small()), 200),
    "figures, no token": (request("GET /metrics"), 401),
    "figures, not an admin": (request("GET /metrics", b"BEARER"), 403),
    "socket, JSON": (request("GET /ws/images", b"Accept: application/json"), 426),
    "socket, no token": (request("GET /ws/images", upgrade=True), 401),
    "socket, foreign": (request("GET /ws/images", b"Origin: null", b"BEARER", upgrade=True), 403),
    "socket, wrong version": (
        request("GET /ws/images", b"BEARER", b"Upgrade: websocket", b"Sec-WebSocket-Version: 7"),
        400,
    ),
    "console, with a token": (request("GET /?token=TOKEN"), 302),
    "console, with a bad one": (request("GET /?token=x"), 401),
}


def headers_of(answer: Answer) -> dict[str, str]:
    lines = answer.head.decode("latin-1").split("\r\n")[1:]
    return {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}


@pytest.mark.parametrize("case", ANSWERS)
async def test_no_answer_can_be_run_framed_or_guessed_at(strict: Server, case: str) -> None:
    text, status = ANSWERS[case]
    name = (strict.results() or [await made(strict)])[0]
    token = strict.token().encode()
    for word, put in ((b"NAME", name.encode()), (b"BEARER", bearer(token)[0]), (b"TOKEN", token)):
        text = text.replace(word, put)
    answer = await ask(strict, text)
    headers = headers_of(answer)
    assert answer.status == status
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    policy = dict(rule.strip().partition(" ")[::2] for rule in headers["content-security-policy"].split(";"))
    assert policy["frame-ancestors"] == "'none'"
    assert policy["default-src"] == ("'self'" if case == "page /" else "'none'")
    assert "unsafe" not in headers["content-security-policy"]
    assert "tornado" not in headers.get("server", "").lower()
    if answer.body:
        assert headers["content-type"]
        assert "text/html" not in headers["content-type"] or case in (
            "page /",
            "file console/index.html",
            "socket, wrong version",
        )


async def made(server: Server) -> str:
    """The name of a result."""
    async with await Client.connect(server) as client:
        await client.slice("a", small())
        return str((await client.wait_for("result"))["url"].rpartition("/")[2])


async def blank(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """An empty page, whatever is asked for. A browser opens connections on which it then asks for nothing."""
    try:
        with suppress(EOFError, ConnectionError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(
                b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 15\r\nConnection: close\r\n\r\n"
                b"<!doctype html>"
            )
            await writer.drain()
    finally:
        writer.close()


@asynccontextmanager
async def elsewhere(host: str) -> AsyncIterator[str]:
    """An origin that is not ours. Of 127.0.0.1 another port, it is of the same site: cookies come along."""
    async with await asyncio.start_server(blank, "127.0.0.1", 0) as listening:
        yield f"http://{host}:{listening.sockets[0].getsockname()[1]}"


@asynccontextmanager
async def visitor(server: Server) -> AsyncIterator[Page]:
    """The browser of somebody whom our console knows."""
    async with BROWSER.context() as context:
        page = await context.new_page()
        await page.goto(f"{server.url}/?token={server.token(scope='images admin')}")
        await page.wait_for_selector("#connection[data-state=open]")
        yield page


TRY = """async ([url, token]) => {
    const canvas = new OffscreenCanvas(64, 64);
    canvas.getContext("2d").fillRect(0, 0, 9, 9);
    const body = await canvas.convertToBlob({ type: "image/png" });
    const socket = (path, protocols) => new Promise((done) => {
        const socket = new WebSocket(url.replace("http", "ws") + path, protocols);
        socket.onmessage = ({ data }) => (done("let in"), socket.close());
        socket.onclose = () => done("refused");
    });
    const read = (path, options = {}) =>
        fetch(url + path, options).then((answer) => (answer.ok ? "let in" : "refused"), () => "refused");
    const auth = { Authorization: `Bearer ${token}` };
    return {
        "socket by cookie": await socket("/ws/images", ["sluice.v2"]),
        "socket by token": await socket("/ws/images", ["sluice.v2", `bearer.${token}`]),
        "older socket": await socket(`/ws?query_string=${token}`),
        "picture by cookie": await read("/process", { method: "POST", credentials: "include", body }),
        "picture by token": await read("/process", { method: "POST", headers: auth, body }),
        "figures by cookie": await read("/metrics", { credentials: "include" }),
        "figures by token": await read("/metrics", { headers: auth }),
    };
}"""
WAYS = (
    *("socket by cookie", "socket by token", "older socket", "picture by cookie", "picture by token"),
    *("figures by cookie", "figures by token"),
)
BLIND = """async (url) => {
    const blind = { method: "POST", mode: "no-cors", credentials: "include", body: "x" };
    const answer = await fetch(`${url}/process`, blind);
    const frame = document.createElement("iframe");
    frame.src = url;
    document.body.append(frame);
    return answer.type;
}"""


@pytest.mark.usefixtures("chromium")
async def test_a_page_of_another_origin_gets_nothing_in_a_real_browser(start_here: Start) -> None:
    """It has a good token, and on 127.0.0.1 the browser sends the console's cookie along: still nothing."""
    server = start_here()
    async with visitor(server) as page, elsewhere("127.0.0.1") as near, elsewhere("localhost") as far:
        for origin in (near, far):
            await page.goto(origin)
            refusals = server.metric("sluice_refusals_total", reason="forbidden")
            told = await page.evaluate(TRY, [server.url, server.token(scope="images admin")])
            assert told == dict.fromkeys(WAYS, "refused")
            # What is sent blindly arrives; it is not worked.
            assert await page.evaluate(BLIND, server.url) == "opaque"
            assert server.metric("sluice_refusals_total", reason="forbidden") > refusals
            assert server.metric("sluice_work_seconds_count") == 0
            # Not wait_for_url: it raises the error that is expected here, if the frame fails while it waits.
            await until(lambda: [frame.url for frame in page.frames[1:]] == ["chrome-error://chromewebdata/"])


@pytest.mark.usefixtures("chromium")
async def test_a_page_of_an_allowed_origin_is_let_in_by_its_token(start_here: Start) -> None:
    """Its own token opens what it may use. The cookie is the console's: pages of another site do not even send it."""
    async with elsewhere("127.0.0.1") as near, elsewhere("localhost") as far:
        server = start_here(allow_origins=f"{near},{far}")
        async with visitor(server) as page:
            for origin in (near, far):
                await page.goto(origin)
                told = await page.evaluate(TRY, [server.url, server.token(scope="images admin")])
                let_in = [
                    "socket by token",
                    "older socket",
                    "picture by token",
                    *["socket by cookie"] * (origin == near),
                ]
                assert told == {**dict.fromkeys(WAYS, "refused"), **dict.fromkeys(let_in, "let in")}
