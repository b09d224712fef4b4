"""The console's page, its files, and the move of a token from its URL to a cookie."""

import httpx
import pytest

from handlers.core.auth import issue
from tests.support.running import SECRET, Server


def test_the_console_is_a_page_that_loads_its_own_files_only(server: Server) -> None:
    page = httpx.get(f"{server.url}/")
    assert page.status_code == 200
    assert page.headers["Content-Type"] == "text/html; charset=utf-8"
    policy = page.headers["Content-Security-Policy"]
    assert "default-src 'self'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert "*" not in policy
    assert page.headers["X-Content-Type-Options"] == "nosniff"
    assert page.headers["Referrer-Policy"] == "no-referrer"


def test_a_token_in_the_url_becomes_a_cookie_that_no_script_can_read(server: Server) -> None:
    token = server.token(ttl=600)
    answer = httpx.get(f"{server.url}/", params={"token": token})
    assert (answer.status_code, answer.headers["Location"]) == (302, "/")
    cookie = answer.headers["Set-Cookie"]
    assert cookie.startswith(f"sluice_token={token};")
    parts = {part.strip().lower() for part in cookie.split(";")[1:]}
    assert {"httponly", "samesite=strict", "path=/"} <= parts
    assert "secure" not in parts, "this server is reached over plain HTTP"
    (age,) = [int(part.removeprefix("max-age=")) for part in parts if part.startswith("max-age=")]
    assert 500 < age <= 600
    assert answer.headers["Referrer-Policy"] == "no-referrer"
    assert answer.headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize(
    "token", ["", "rubbish", issue(SECRET, "alice", "images", -60), issue("x" * 32, "alice", "images", 60)]
)
def test_a_bad_token_does_not_become_a_cookie(server: Server, token: str) -> None:
    answer = httpx.get(f"{server.url}/", params={"token": token})
    assert answer.status_code == 401
    assert "Set-Cookie" not in answer.headers
    assert answer.json()["error"]["code"] == "forbidden"
    assert not token or token not in answer.text


def test_the_files_of_the_console_are_served_with_their_types(server: Server) -> None:
    script = httpx.get(f"{server.url}/static/sluice.js")
    head = httpx.head(f"{server.url}/static/sluice.js")
    assert (head.status_code, head.headers["Etag"], head.content) == (200, script.headers["Etag"], b"")
    assert script.status_code == 200
    assert "javascript" in script.headers["Content-Type"]
    assert script.headers["Access-Control-Allow-Origin"] == "*", "pages of other origins import the module"
    assert script.headers["X-Content-Type-Options"] == "nosniff"
    assert (
        httpx.get(f"{server.url}/static/sluice.js", headers={"If-None-Match": script.headers["Etag"]}).status_code
        == 304
    )
    assert httpx.get(f"{server.url}/static/sample.jpg").headers["Content-Type"] == "image/jpeg"
    assert httpx.get(f"{server.url}/favicon.ico").headers["Content-Type"] == "image/svg+xml"


@pytest.mark.parametrize(
    "path",
    ["/static/", "/static/none.js", "/static/..%2fserver.py", "/static/%2e%2e/config.py", "/nowhere", "/index.html"],
)
def test_an_unknown_page_gets_an_error_as_json(server: Server, path: str) -> None:
    answer = httpx.get(server.url + path)
    assert answer.status_code in (403, 404)
    assert answer.headers["Content-Type"] == "application/json"
    assert set(answer.json()["error"]) == {"code", "message"}
    assert answer.headers["Content-Security-Policy"].startswith("default-src 'none'")
