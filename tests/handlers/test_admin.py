"""Tests of /admin/kick: a kicked user loses all connections immediately. A banned user cannot return, not even after a
restart. Other users are not affected.
"""

import asyncio

import httpx
import pytest
import websockets

from tests.support.client import Client
from tests.support.pictures import small
from tests.support.running import Server, Start, until


async def kick(server: Server, scope: str = "admin", **body: object) -> httpx.Response:
    async with httpx.AsyncClient() as http:
        token = server.token("root", scope)
        headers = {"Authorization": f"Bearer {token}"}
        return await http.post(f"{server.url}/admin/kick", json=body, headers=headers)


async def test_a_kicked_user_is_disconnected_immediately_and_others_stay(start: Start) -> None:
    server = start()
    async with (
        await Client.connect(server, "mallory") as first,
        await Client.connect(server, "mallory") as second,
        await Client.connect(server, "alice") as alice,
    ):
        assert (await kick(server, user="mallory")).status_code == 204
        assert [await first.closed(), await second.closed()] == [4403, 4403]
        await alice.slice("a", small())
        assert await alice.wait_for("result")
    async with await Client.connect(server, "mallory"):
        pass  # without deny_s, the user is disconnected but not banned
    await until(lambda: any("kicked" in line and "mallory" in line and "root" in line for line in server.log))


@pytest.mark.chaos
async def test_a_banned_user_is_refused_over_http_too_and_after_a_crash(start: Start) -> None:
    server = start()
    assert (await kick(server, user="mallory", deny_s=3600)).status_code == 204
    for running in (server, None):
        if running is None:
            server.process.kill()
            server.stop()
            running = start()
        with pytest.raises(websockets.InvalidStatus) as refused:
            await Client.connect(running, "mallory")
        assert refused.value.response.status_code == 403
        headers = {"Authorization": f"Bearer {running.token('mallory')}"}
        answer = await asyncio.to_thread(httpx.post, f"{running.url}/process", content=small(), headers=headers)
        assert answer.status_code == 403
        assert "banned until" in answer.json()["error"]["message"]
        async with await Client.connect(running, "alice"):
            pass


async def test_a_ban_can_be_lifted(start_here: Start) -> None:
    server = start_here()
    await kick(server, user="mallory", deny_s=3600)
    await kick(server, user="mallory", deny_s=0)
    async with await Client.connect(server, "mallory"):
        pass


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"user": ""},
        {"user": "a", "deny_s": -1},
        {"user": "a", "deny_s": "soon"},
        {"user": "a", "more": 1},
        {"user": "a", "deny_s": True},
    ],
)
async def test_a_request_with_a_wrong_member_is_refused(server: Server, body: dict[str, object]) -> None:
    answer = await kick(server, **body)
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "bad_message"


@pytest.mark.parametrize("body", ["", "nope", "[]", "[" * 9000])
def test_a_body_that_is_not_an_object_is_refused_as_a_whole(server: Server, body: str) -> None:
    headers = {"Authorization": f"Bearer {server.token('root', 'admin')}"}
    answer = httpx.post(f"{server.url}/admin/kick", content=body, headers=headers)
    assert answer.status_code == 400
    assert answer.json()["error"]["message"].startswith("the body: ")


async def test_only_administrators_may_kick(server: Server) -> None:
    assert (await kick(server, "images chat video jobs", user="alice")).status_code == 403
    assert httpx.post(f"{server.url}/admin/kick", json={"user": "alice"}).status_code == 401
