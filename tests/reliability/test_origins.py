"""Pages of other origins must not use the server, and browsers must not run, frame or guess the type of any response.

The attribute SameSite=Strict of the cookie is not sufficient, because a page on another port of the same host is of the
same site. These tests fail when one of these defences is removed: the check of the Origin, the comparison of the
complete Origin, the rule that the cookie needs an Origin (sockets have a separate rule), each header of
handlers/core/http.py and of the console. They also fail when Access-Control-Allow-Origin is sent to any origin.
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
    """A server that shows its metrics to administrators only, so that a page could gain something with a foreign
    cookie.
    """
    settings = {"metrics_allow": "192.0.2.0/24", "allow_origins": ALLOWED, "connections_per_user": 100}
    running = Server(tmp_path_factory.mktemp("strict"), **settings)
    yield running
    assert running.stop() == 0


def with_cookie(server: Server) -> bytes:
    return b"Cookie: sluice_token=" + server.token(scope="images admin").encode()


def with_bearer(server: Server) -> bytes:
    return bearer(server.token(scope="images admin").encode())[0]


Credential = Callable[..., bytes]
# The actions that a page could try with the token or cookie of a user, and the status that shows success.
ACTIONS: dict[str, tuple[Credential, int]] = {
    "open /ws/images": (lambda *headers: request("GET /ws/images", *headers, upgrade=True), 101),
    "process a picture": (lambda *headers: request("POST /process", *headers, body=small()), 200),
    "read the metrics": (lambda *headers: request("GET /metrics", *headers), 200),
    "deny a user": (lambda *headers: request("POST /admin/kick", *headers, body=DENY), 204),
}


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("credential", [with_cookie, with_bearer])
async def test_pages_of_foreign_origins_are_refused(
    strict: Server, action: str, credential: Callable[..., bytes]
) -> None:
    request_with, done = ACTIONS[action]
    for origin in FOREIGN:
        answer = await ask(strict, request_with(credential(strict), b"Origin: " + origin.encode()))
        assert answer.status == 403, origin
        assert b"access-control-allow-origin" not in answer.head.lower(), origin
    for origin in (OWN, ALLOWED):
        answer = await ask(strict, request_with(credential(strict), b"Origin: " + origin.encode()))
        assert answer.status == done, origin
    assert f"access-control-allow-origin: {ALLOWED}\r\nvary: origin".encode() in answer.head.lower()


async def test_the_older_protocol_refuses_foreign_origins_before_the_upgrade(strict: Server) -> None:
    line = f"GET /ws?query_string={strict.token()}"
    for origin in FOREIGN:
        assert (await ask(strict, request(line, b"Origin: " + origin.encode(), upgrade=True))).status == 403, origin
    for headers in ([], [b"Origin: " + OWN.encode()]):
        assert (await ask(strict, request(line, *headers, upgrade=True))).status == 101


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("site", ["cross-site", "same-site", "", None])
async def test_a_cookie_without_an_origin_opens_nothing(strict: Server, action: str, site: str | None) -> None:
    """A picture, a form or a link on a foreign page sends cookies but no Origin.

    The header Sec-Fetch-Site distinguishes these requests from requests of our own page.
    """
    headers = [] if site is None else [b"Sec-Fetch-Site: " + site.encode()]
    assert (await ask(strict, ACTIONS[action][0](with_cookie(strict), *headers))).status == 403


@pytest.mark.parametrize("site", ["same-origin", "none"])
async def test_without_an_origin_a_cookie_can_only_read_from_our_own_pages(strict: Server, site: str) -> None:
    """Every request that does more than read must have an Origin, even from our own page. This includes WebSockets."""
    for action, (request_with, _) in ACTIONS.items():
        answer = await ask(strict, request_with(with_cookie(strict), b"Sec-Fetch-Site: " + site.encode()))
        assert answer.status == (200 if action == "read the metrics" else 403), action


async def test_programs_need_no_origin(strict: Server) -> None:
    for request_with, done in ACTIONS.values():
        assert (await ask(strict, request_with(with_bearer(strict)))).status == done


# All kinds of responses and their statuses. NAME stands for the name of a result.
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
    "result that is unchanged": (request("GET /media/NAME", b'If-None-Match: "NAME"'), 304),
    "head of a result": (request("HEAD /media/NAME"), 200),
    "no result": (request(f"GET /media/{'0' * 32}.jpg"), 404),
    "no file": (request("GET /static/nothing.js"), 404),
    "not a file": (request("GET /static/."), 403),
    "outside": (request("GET /static/../server.py"), 403),
    "nothing": (request("GET /nowhere"), 404),
    "no endpoint for POST": (request("POST /nowhere"), 404),
    **{
        f"{method} {path}": (request(f"{method} {path}"), 405)
        for method in ("POST", "DELETE", "PATCH", "BREW")
        for path in ("/", "/static/console/console.js", "/media/NAME", "/healthz", "/favicon.ico", "/metrics")
    },
    "process, with GET": (request("GET /process"), 405),
    "process, with OPTIONS": (request("OPTIONS /process", b"Origin: " + ALLOWED.encode()), 204),
    "process, no token": (request("POST /process", body=b"x"), 401),
    "process, no picture": (request("POST /process", b"BEARER", body=b"x"), 422),
    "process, empty": (request("POST /process", b"BEARER"), 422),
    "process, unknown": (request("POST /process?x=1", b"BEARER", body=b"x"), 400),
    "process, too large": (b"POST /process HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999\r\nBEARER\r\n\r\n", 413),
    "process, done": (request("POST /process", b"BEARER", body=small()), 200),
    "metrics, no token": (request("GET /metrics"), 401),
    "metrics, not an admin": (request("GET /metrics", b"BEARER"), 403),
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
async def test_no_response_can_be_run_framed_or_guessed_at(strict: Server, case: str) -> None:
    text, status = ANSWERS[case]
    name = (strict.results() or [await new_result(strict)])[0]
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


async def new_result(server: Server) -> str:
    """Creates a result and returns its name."""
    async with await Client.connect(server) as client:
        await client.slice("a", small())
        return str((await client.wait_for("result"))["url"].rpartition("/")[2])


async def serve_empty_page(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answers any request with an empty page. Handles connections without a request too, because browsers open such
    connections.
    """
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
async def other_origin(host: str) -> AsyncIterator[str]:
    """Serves an origin that is not our own. With the host 127.0.0.1 only the port differs, so it is of the same site
    and the browser sends our cookies.
    """
    async with await asyncio.start_server(serve_empty_page, "127.0.0.1", 0) as listening:
        yield f"http://{host}:{listening.sockets[0].getsockname()[1]}"


@asynccontextmanager
async def signed_in_page(server: Server) -> AsyncIterator[Page]:
    """Opens a browser page that already has the console's cookie."""
    async with BROWSER.context() as context:
        page = await context.new_page()
        await page.goto(f"{server.url}/?token={server.token(scope='images admin')}")
        await page.wait_for_selector("#connection[data-state=open]")
        yield page


TRY_ALL = """async ([url, token]) => {
    const canvas = new OffscreenCanvas(64, 64);
    canvas.getContext("2d").fillRect(0, 0, 9, 9);
    const body = await canvas.convertToBlob({ type: "image/png" });
    const socket = (path, protocols) => new Promise((done) => {
        const socket = new WebSocket(url.replace("http", "ws") + path, protocols);
        socket.onmessage = ({ data }) => (done("allowed"), socket.close());
        socket.onclose = () => done("refused");
    });
    const read = (path, options = {}) =>
        fetch(url + path, options).then((answer) => (answer.ok ? "allowed" : "refused"), () => "refused");
    const auth = { Authorization: `Bearer ${token}` };
    return {
        "socket by cookie": await socket("/ws/images", ["sluice.v2"]),
        "socket by token": await socket("/ws/images", ["sluice.v2", `bearer.${token}`]),
        "older socket": await socket(`/ws?query_string=${token}`),
        "picture by cookie": await read("/process", { method: "POST", credentials: "include", body }),
        "picture by token": await read("/process", { method: "POST", headers: auth, body }),
        "metrics by cookie": await read("/metrics", { credentials: "include" }),
        "metrics by token": await read("/metrics", { headers: auth }),
    };
}"""
REQUESTS = (
    *("socket by cookie", "socket by token", "older socket", "picture by cookie", "picture by token"),
    *("metrics by cookie", "metrics by token"),
)
SEND_BLINDLY = """async (url) => {
    const blind = { method: "POST", mode: "no-cors", credentials: "include", body: "x" };
    const answer = await fetch(`${url}/process`, blind);
    const frame = document.createElement("iframe");
    frame.src = url;
    document.body.append(frame);
    return answer.type;
}"""


@pytest.mark.usefixtures("chromium")
async def test_a_page_of_another_origin_is_refused_in_a_real_browser(start_here: Start) -> None:
    """The page has a valid token, and for 127.0.0.1 the browser also sends the console's cookie. Still everything is
    refused.
    """
    server = start_here()
    async with (
        signed_in_page(server) as page,
        other_origin("127.0.0.1") as same_site,
        other_origin("localhost") as other_site,
    ):
        for origin in (same_site, other_site):
            await page.goto(origin)
            refusals = server.metric("sluice_refusals_total", reason="forbidden")
            outcomes = await page.evaluate(TRY_ALL, [server.url, server.token(scope="images admin")])
            assert outcomes == dict.fromkeys(REQUESTS, "refused")
            # A request in mode no-cors reaches the server, but the server does not process it.
            assert await page.evaluate(SEND_BLINDLY, server.url) == "opaque"
            assert server.metric("sluice_refusals_total", reason="forbidden") > refusals
            assert server.metric("sluice_work_seconds_count") == 0
            # wait_for_url is not used: if the frame fails while it waits, it raises the error that this test expects.
            await until(lambda: [frame.url for frame in page.frames[1:]] == ["chrome-error://chromewebdata/"])


@pytest.mark.usefixtures("chromium")
async def test_a_page_of_an_allowed_origin_connects_with_its_token(start_here: Start) -> None:
    """The token of the page opens the endpoints of its scopes. The console's cookie helps only a page of the same site:
    a browser does not send it for pages of other sites.
    """
    async with other_origin("127.0.0.1") as same_site, other_origin("localhost") as other_site:
        server = start_here(allow_origins=f"{same_site},{other_site}")
        async with signed_in_page(server) as page:
            for origin in (same_site, other_site):
                await page.goto(origin)
                outcomes = await page.evaluate(TRY_ALL, [server.url, server.token(scope="images admin")])
                allowed = [
                    "socket by token",
                    "older socket",
                    "picture by token",
                    *["socket by cookie"] * (origin == same_site),
                ]
                assert outcomes == {**dict.fromkeys(REQUESTS, "refused"), **dict.fromkeys(allowed, "allowed")}
