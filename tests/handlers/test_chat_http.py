"""Chat for back ends: /chat/publish, /chat/broadcast, /chat/presence."""

from typing import Any

import httpx
import pytest

from tests.support.chats import Chatter
from tests.support.running import Server, Start


@pytest.fixture
def server(start_here: Start) -> Server:
    return start_here()


async def ask(server: Server, path: str, body: dict[str, Any] | None = None, scope: str = "admin") -> httpx.Response:
    headers = {"Authorization": f"Bearer {server.token('backend', scope)}"}
    async with httpx.AsyncClient(base_url=server.url, headers=headers) as http:
        return await (http.get(path) if body is None else http.post(path, json=body))


async def test_a_back_end_sends_to_a_room_and_to_a_user_who_is_offline(server: Server) -> None:
    async with await Chatter.enter(server, "alice") as alice:
        await alice.join("harbour")
        answer = await ask(server, "/chat/publish", {"room": "harbour", "text": "a ship", "from": "radar"})
        assert answer.json() == {"stream": "room/harbour", "offset": 1}
        said = await alice.wait_for("message")
        assert (said["from"], said["text"]) == ("radar", "a ship")
    for _ in range(2):
        answer = await ask(server, "/chat/publish", {"to": "bob", "text": "your scan is ready", "client_id": "job-1"})
        assert answer.json() == {"stream": "direct/bob", "offset": 1}
    async with await Chatter.enter(server, "bob") as bob:
        assert bob.unread == {"direct/server": 1}
        assert await bob.hear(1) == [(1, "your scan is ready")]


async def test_a_message_in_the_name_of_a_user_moves_their_mark_only_where_they_have_one(
    server: Server,
) -> None:
    async with await Chatter.enter(server, "alice") as alice:
        await alice.join("harbour")
        await alice.send("leave", room="harbour")
        await alice.counted("room/harbour", None)
        await alice.join("vault")
    for room in ("harbour", "vault", "nowhere"):
        await ask(server, "/chat/publish", {"room": room, "text": "x", "from": "alice"})
    async with await Chatter.enter(server, "alice") as alice:
        assert alice.unread == {"room/vault": 0}


async def test_a_back_end_sends_an_announcement_and_reads_presence(server: Server) -> None:
    async with await Chatter.enter(server, "alice") as alice:
        await alice.join("harbour")
        assert (await ask(server, "/chat/broadcast", {"text": "closing soon"})).status_code == 204
        assert (await alice.wait_for("announcement"))["text"] == "closing soon"
        assert (await ask(server, "/chat/presence?room=harbour")).json() == {"room": "harbour", "present": ["alice"]}
    assert (await ask(server, "/chat/presence?room=nowhere")).json()["present"] == []


@pytest.mark.parametrize("path", ["/chat/publish", "/chat/broadcast", "/chat/presence?room=harbour"])
async def test_only_an_administrator_may_publish(server: Server, path: str) -> None:
    body = None if "presence" in path else {"room": "harbour", "text": "x"}
    assert (await ask(server, path, body, scope="chat images")).status_code == 403


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"text": "x"}, "either room or to"),
        ({"text": "x", "room": "a", "to": "b"}, "either room or to"),
        ({"text": "", "room": "a"}, "text"),
        ({"text": "x" * 4001, "room": "a"}, "text"),
        ({"text": "x", "room": "a/b"}, "room"),
        ({"text": "x", "room": "a", "from": 3}, "from"),
        ({"text": "x", "room": "a", "colour": "red"}, "colour"),
    ],
)
async def test_an_invalid_publication_is_refused_with_the_reason(
    server: Server, body: dict[str, Any], said: str
) -> None:
    answer = await ask(server, "/chat/publish", body)
    assert answer.status_code == 400
    assert said in answer.json()["error"]["message"]
