"""Two servers with the same Redis are one service. They share rooms, presence, conversations, unread counts, sessions
and kicks.
"""

import asyncio
import signal

import httpx
import pytest

from tests.support.chats import Chatter
from tests.support.client import Client
from tests.support.pictures import small
from tests.support.redis import Redis, url_in
from tests.support.running import Server, Start, until

TwoServers = tuple[Server, Server]


@pytest.fixture
def two_servers(redis: Redis, start: Start) -> TwoServers:
    events = url_in(redis.folder.parent)
    return start(events=events), start(events=events)


async def test_users_on_two_servers_share_rooms_presence_and_conversations(two_servers: TwoServers) -> None:
    async with await Chatter.enter(two_servers[0], "alice") as alice, await Chatter.enter(two_servers[1], "bob") as bob:
        await alice.join("harbour")
        assert (await bob.join("harbour"))["present"] == ["alice", "bob"]
        assert (await alice.wait_for("presence", entered="bob"))["room"] == "harbour"
        for number in range(1, 6):
            assert await alice.say(f"m{number}", room="harbour") == number
        assert await bob.hear(5) == [(number, f"m{number}") for number in range(1, 6)]
        await bob.say("to you alone", to="alice")
        assert await alice.hear(1, "direct/bob") == [(1, "to you alone")]
        await alice.send("typing", to="bob")
        assert await bob.wait_for("typing", **{"from": "alice"})
    async with await Chatter.enter(two_servers[1], "alice") as alice:
        assert alice.unread["direct/bob"] == 1
        await alice.join("harbour")
        while await alice.present("harbour") != ["alice"]:  # noqa: ASYNC110 - a closed client leaves the room a moment later
            await asyncio.sleep(0.2)


@pytest.mark.chaos
async def test_a_client_whose_server_dies_continues_on_the_other_server(two_servers: TwoServers) -> None:
    """No acknowledged message is lost, no message is received twice, and a message without acknowledgement can be sent
    again.
    """
    async with await Chatter.enter(two_servers[0], "alice") as alice, await Chatter.enter(two_servers[1], "bob") as bob:
        await bob.join("harbour")
        joined = await alice.join("harbour")
        await alice.say("before", room="harbour")
        two_servers[0].stop(signal.SIGKILL)
        await bob.say("while alice is away", room="harbour")
        async with await Chatter.enter(two_servers[1], "alice") as reconnected:
            rejoined = await reconnected.join("harbour", after=1, epoch=joined["epoch"])
            assert rejoined["recovered"]
            assert await reconnected.hear(1) == [(2, "while alice is away")]
            assert await reconnected.say("before", room="harbour") == 1
        await bob.send("history", stream="room/harbour")
        messages = (await bob.wait_for("history"))["messages"]
        assert [message["text"] for message in messages] == ["before", "while alice is away"]


async def test_a_session_of_slices_is_resumed_on_the_other_server(two_servers: TwoServers) -> None:
    async with await Client.connect(two_servers[0]) as client:
        for number in range(3):
            await client.slice(str(number), small(), number)
        ends = await client.ends(2)
        position = {"session": client.hello["session"], "epoch": client.hello["epoch"], "after": ends[0]["seq"]}
        await client.ends(1)
        client.abort()
    async with await Client.connect(two_servers[1]) as client:
        await client.send("resume", **position)
        assert (await client.wait_for("resumed"))["recovered"] is True
        assert [end["seq"] for end in await client.ends(2)] == [2, 3]


@pytest.mark.chaos
async def test_a_resume_without_redis_closes_with_a_code_for_reconnecting(
    two_servers: TwoServers, redis: Redis
) -> None:
    """The close code must be 1012, after which clients reconnect. Every other code below 4500 would make the page give
    up.
    """
    async with await Client.connect(two_servers[0]) as alice, await Client.connect(two_servers[1]) as reconnected:
        redis.kill()
        await reconnected.send("resume", session=alice.hello["session"], epoch=alice.hello["epoch"], after=0)
        assert await reconnected.closed() == 1012
    assert "Traceback" not in "".join(two_servers[1].log)


@pytest.mark.chaos
async def test_a_server_without_redis_still_ends_when_it_is_stopped(two_servers: TwoServers, redis: Redis) -> None:
    """Messages that the server still has to write, such as the outcome of a slice, wait for Redis while the server
    runs.

    Without the time limit in drain (works/services.py), the server never ends. Without the time limit in close, it
    sometimes does not end: when Redis stops while a user leaves a room.
    """
    async with await Client.connect(two_servers[0]) as client, await Chatter.enter(two_servers[0], "alice") as alice:
        await alice.join("harbour")
        await client.plug()
        redis.pause()
        await client.send("cancel", id="plug")
        await until(lambda: two_servers[0].metric("sluice_running") == 0)
        client.abort()  # the client may still return, so the server must keep its session
    redis.kill()
    assert await asyncio.to_thread(two_servers[0].stop) == 0


@pytest.mark.chaos
async def test_a_kick_reaches_both_servers(two_servers: TwoServers) -> None:
    headers = {"Authorization": f"Bearer {two_servers[0].token('root', 'admin')}"}
    async with await Client.connect(two_servers[1], "mallory") as mallory:
        async with httpx.AsyncClient(headers=headers) as http:
            body = {"user": "mallory", "deny_s": 60}
            assert (await http.post(f"{two_servers[0].url}/admin/kick", json=body)).status_code == 204
        assert await mallory.closed() == 4403


@pytest.mark.chaos
async def test_errors_without_redis_are_temporary_and_messages_work_afterwards(
    two_servers: TwoServers, redis: Redis
) -> None:
    async with await Chatter.enter(two_servers[0], "alice") as alice, await Chatter.enter(two_servers[1], "bob") as bob:
        await alice.join("harbour")
        await bob.join("harbour")
        assert await alice.say("before", room="harbour") == 1
        redis.kill()
        await alice.send("send", room="harbour", client_id="during", text="during")
        error = await alice.wait_for("error", client_id="during")
        assert (error["code"], error["temporary"]) == ("internal", True)
        redis.start()
        reply: dict[str, object] = {"type": "error", "temporary": True}
        # repeats until the server has noticed that Redis is back
        while reply["type"] == "error" and reply["temporary"]:
            await alice.send("send", room="harbour", client_id="during", text="during")
            reply = await alice.wait_for("ack", "error", client_id="during")
        assert (reply["type"], reply["offset"]) == ("ack", 2)
        assert await alice.say("after", room="harbour") == 3
        assert await bob.hear(3) == [(1, "before"), (2, "during"), (3, "after")]
