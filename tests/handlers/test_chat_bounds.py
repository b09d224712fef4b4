"""Limits of chat, and the rooms of a token: pages of history, requests that wait for the event store,
renewed tokens.
"""

import asyncio

from tests.support.chats import Chatter
from tests.support.redis import Redis, url_in
from tests.support.running import Server, Start

# As JSON, each of these characters takes twelve bytes.
LONG = "\U0001f40c" * 4000


async def test_a_page_of_long_messages_is_shorter_and_fits_into_an_outbox(start_here: Start) -> None:
    server = start_here(chat_rate=1000, outbox=300_000)
    async with await Chatter.enter(server, "alice") as alice:
        await alice.join("harbour")
        for number in range(1, 11):
            await alice.say(LONG, str(number), room="harbour")
        pages: list[list[int]] = []
        before: dict[str, int] = {}
        while not pages or pages[0][0] > 1:
            await alice.send("history", stream="room/harbour", limit=100, **before)
            answer = await alice.wait_for("history")
            pages.insert(0, [message["offset"] for message in answer["messages"]])
            assert answer["more"] == (pages[0][0] > 1)
            before = {"before": pages[0][0]}
        assert [offset for page in pages for offset in page] == list(range(1, 11))
        assert len(pages[-1]) == 3  # messages of 48 KB each, which together have half an outbox


async def test_requests_that_wait_for_the_event_store_are_limited(redis: Redis, start_here: Start) -> None:
    server = start_here(chat_rate=5000, events=url_in(redis.folder.parent))
    async with await Chatter.enter(server, "alice") as alice:
        await alice.join("harbour")
        redis.pause()
        try:
            for _ in range(150):
                await alice.send("presence", room="harbour")
            async with asyncio.timeout(60):
                refused = await alice.wait_for("error", code="busy")
        finally:
            redis.go_on()
        assert (refused["room"], refused["temporary"]) == ("harbour", True)
        assert "100 requests" in refused["message"]
        await alice.send("history", stream="room/harbour")
        async with asyncio.timeout(60):
            while (answer := await alice.wait_for("history", "error"))["type"] == "error":
                assert answer["temporary"]
                await alice.send("history", stream="room/harbour")
        assert answer["messages"] == []


async def test_a_new_token_ends_membership_in_rooms_that_it_does_not_name(server: Server) -> None:
    both, one = ["renewed-a", "renewed-b", "renewed-c"], ["renewed-b"]
    async with await Chatter.enter(server, "dora", rooms=both) as dora:
        await dora.join("renewed-c")  # from now on it is counted
    async with await Chatter.enter(server, "dora", rooms=both) as dora, await Chatter.enter(server, "eve") as eve:
        for room in both:
            await eve.join(room)
        for room in both[:2]:
            await dora.join(room)
        await dora.send("token", token=server.token("dora", "chat", rooms=one))
        answer = await dora.wait_for("error")
        assert (answer["code"], answer["room"], "renewed-a" in answer["message"]) == ("forbidden", "renewed-a", True)
        dora.counts.clear()
        assert await eve.wait_for("presence", left="dora", room="renewed-a")
        await dora.send("send", room="renewed-a", client_id="1", text="still here?")
        assert (await dora.wait_for("error"))["code"] == "not_found"
        await dora.send("join", room="renewed-a")
        assert (await dora.wait_for("error"))["code"] == "forbidden"
        for room in ("renewed-a", "renewed-c", "renewed-b"):
            await eve.say(f"in {room}", room=room)
        assert await dora.hear(1) == [(1, "in renewed-b")]
        await eve.say("to you", to="dora")
        await dora.counted("direct/eve", 1)
        assert not {"room/renewed-a", "room/renewed-c"} & set(dora.counts)
    async with await Chatter.enter(server, "dora", rooms=one) as dora:
        assert set(dora.unread) == {"direct/eve", "room/renewed-b"}
