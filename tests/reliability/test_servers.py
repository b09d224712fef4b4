"""Two servers on one Redis are one service: rooms, presence, conversations, unread counts, sessions, kicks."""

import asyncio
import signal

import httpx
import pytest

from tests.support.chats import Chatter
from tests.support.client import Client
from tests.support.pictures import small
from tests.support.redis import Redis, url_in
from tests.support.running import Server, Start, until

Two = tuple[Server, Server]


@pytest.fixture
def two(redis: Redis, start: Start) -> Two:
    events = url_in(redis.folder.parent)
    return start(events=events), start(events=events)


async def test_people_on_two_servers_share_rooms_presence_and_conversations(two: Two) -> None:
    async with await Chatter.enter(two[0], "alice") as alice, await Chatter.enter(two[1], "bob") as bob:
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
    async with await Chatter.enter(two[1], "alice") as alice:
        assert alice.unread["direct/bob"] == 1
        await alice.join("harbour")
        while await alice.present("harbour") != ["alice"]:  # noqa: ASYNC110 - who has closed has left in a moment
            await asyncio.sleep(0.2)


@pytest.mark.chaos
async def test_who_loses_a_server_goes_on_with_the_other(two: Two) -> None:
    """Nothing acknowledged is lost, nothing comes twice, and what was not acknowledged can be said again."""
    async with await Chatter.enter(two[0], "alice") as alice, await Chatter.enter(two[1], "bob") as bob:
        await bob.join("harbour")
        joined = await alice.join("harbour")
        await alice.say("before", room="harbour")
        two[0].stop(signal.SIGKILL)
        await bob.say("while alice is away", room="harbour")
        async with await Chatter.enter(two[1], "alice") as again:
            rejoined = await again.join("harbour", after=1, epoch=joined["epoch"])
            assert rejoined["recovered"]
            assert await again.hear(1) == [(2, "while alice is away")]
            assert await again.say("before", room="harbour") == 1
        await bob.send("history", stream="room/harbour")
        kept = (await bob.wait_for("history"))["messages"]
        assert [message["text"] for message in kept] == ["before", "while alice is away"]


async def test_a_session_of_slices_is_resumed_on_the_other_server(two: Two) -> None:
    async with await Client.connect(two[0]) as client:
        for number in range(3):
            await client.slice(str(number), small(), number)
        ends = await client.ends(2)
        place = {"session": client.hello["session"], "epoch": client.hello["epoch"], "after": ends[0]["seq"]}
        await client.ends(1)
        client.abort()
    async with await Client.connect(two[1]) as client:
        await client.send("resume", **place)
        assert (await client.wait_for("resumed"))["recovered"] is True
        assert [end["seq"] for end in await client.ends(2)] == [2, 3]


@pytest.mark.chaos
async def test_who_resumes_while_redis_is_away_is_asked_to_come_back(two: Two, redis: Redis) -> None:
    """1012, after which clients try again: any other code below 4500 is final, and the page would give up."""
    async with await Client.connect(two[0]) as alice, await Client.connect(two[1]) as again:
        redis.kill()
        await again.send("resume", session=alice.hello["session"], epoch=alice.hello["epoch"], after=0)
        assert await again.closed() == 1012
    assert "Traceback" not in "".join(two[1].log)


@pytest.mark.chaos
async def test_a_server_whose_redis_is_gone_for_good_ends_when_it_is_told_to(two: Two, redis: Redis) -> None:
    """What it would still say, as what became of a slice, waits for Redis as long as the server runs.

    Hangs without the bounds of drain in works/services.py; without those of close by chance, when Redis goes as
    somebody leaves a room."""
    async with await Client.connect(two[0]) as client, await Chatter.enter(two[0], "alice") as alice:
        await alice.join("harbour")
        await client.plug()
        redis.pause()
        await client.send("cancel", id="plug")
        await until(lambda: two[0].metric("sluice_running") == 0)
        client.abort()  # it may come back
    redis.kill()
    assert await asyncio.to_thread(two[0].stop) == 0


@pytest.mark.chaos
async def test_a_kick_reaches_both(two: Two) -> None:
    headers = {"Authorization": f"Bearer {two[0].token('root', 'admin')}"}
    async with await Client.connect(two[1], "mallory") as mallory:
        async with httpx.AsyncClient(headers=headers) as http:
            body = {"user": "mallory", "deny_s": 60}
            assert (await http.post(f"{two[0].url}/admin/kick", json=body)).status_code == 204
        assert await mallory.closed() == 4403


@pytest.mark.chaos
async def test_while_redis_is_away_the_error_is_temporary_and_then_all_goes_on(two: Two, redis: Redis) -> None:
    async with await Chatter.enter(two[0], "alice") as alice, await Chatter.enter(two[1], "bob") as bob:
        await alice.join("harbour")
        await bob.join("harbour")
        assert await alice.say("before", room="harbour") == 1
        redis.kill()
        await alice.send("send", room="harbour", client_id="during", text="during")
        error = await alice.wait_for("error", client_id="during")
        assert (error["code"], error["temporary"]) == ("internal", True)
        redis.start()
        again: dict[str, object] = {"type": "error", "temporary": True}
        while again["type"] == "error" and again["temporary"]:  # until the server has found out that Redis is back
            await alice.send("send", room="harbour", client_id="during", text="during")
            again = await alice.wait_for("ack", "error", client_id="during")
        assert (again["type"], again["offset"]) == ("ack", 2)
        assert await alice.say("after", room="harbour") == 3
        assert await bob.hear(3) == [(1, "before"), (2, "during"), (3, "after")]
