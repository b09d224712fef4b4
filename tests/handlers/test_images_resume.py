"""Tests of /ws/images: a client that reconnects loses nothing. Each slice has exactly one answer, and the sequence
numbers have no gaps.
"""

import asyncio
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.client import Client, narrow
from tests.support.pictures import encoded, photograph, small
from tests.support.running import Server, Start, until


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with one worker. Its long timeouts ensure that only a cancel stops a running slice."""
    running = Server(tmp_path_factory.mktemp("single"), workers=1, slice_timeout=200, session_grace=200)
    yield running
    assert running.process.poll() is None, "the server died:\n" + "".join(running.log)
    running.stop()


async def resume(server: Server, hello: dict[str, Any], after: int, **connect: Any) -> tuple[Client, dict[str, Any]]:
    """Opens a new connection, requests to resume the session of ``hello``, and returns the connection and
    the answer.
    """
    client = await Client.connect(server, **connect)
    await client.send("resume", session=hello["session"], epoch=hello["epoch"], after=after)
    return client, await client.wait_for("resumed", "error")


async def until_idle(server: Server) -> None:
    await until(lambda: server.metric("sluice_queue_depth") == 0 and server.metric("sluice_running") == 0)


async def test_a_resumed_session_has_no_gaps_and_no_duplicates(single: Server) -> None:
    client = await Client.connect(single)
    for number in range(1, 31):
        await client.slice(f"{number}", small(), number)
    await client.plug("half way", 30.5)
    for number in range(31, 60):
        await client.slice(f"{number}", small(), number)
    await client.wait_for("accepted", id="59")
    seen = await client.ends(0)
    client.abort()
    await until(lambda: single.metric("sluice_queue_depth") == 29 and single.metric("sluice_running") == 1)

    client, resumed = await resume(single, client.hello, len(seen))
    async with client:
        assert (resumed["recovered"], resumed["replayed"]) == (True, 30 - len(seen))
        assert set(resumed["pending"]) == {"half way", *map(str, range(31, 60))}
        await client.send("cancel", id="half way")
        ends = await client.ends(60)
        assert [end["seq"] for end in ends] == list(range(1, 61))
        assert len({end["id"] for end in ends}) == 60
        assert [end["id"] for end in ends if end["type"] == "error"] == ["half way"]


async def test_a_client_that_reconnects_repeatedly_gets_each_answer_once(server: Server) -> None:
    client = await Client.connect(server)
    for number in range(60):
        await client.slice(f"{number}", small(), number)
    ends: list[dict[str, Any]] = []
    hello = client.hello
    for _ in range(6):
        ends += await client.ends(8)
        client.abort()
        client, resumed = await resume(server, hello, ends[-1]["seq"])
        assert resumed["recovered"]
    async with client:
        ends += await client.ends(12)
    assert [end["seq"] for end in ends] == list(range(1, 61))
    assert sorted(int(end["id"]) for end in ends) == list(range(60))


async def test_a_resumed_session_accepts_new_slices_and_remembers_used_ids(server: Server) -> None:
    client = await Client.connect(server)
    await client.slice("a", small())
    await client.ends(1)
    client.abort()
    client, _ = await resume(server, client.hello, 1)
    async with client:
        await client.slice("a", small())
        assert (await client.wait_for("error"))["code"] == "bad_message"
        await client.slice("b", small())
        assert [(end["seq"], end["id"]) for end in await client.ends(1)] == [(2, "b")]


async def test_many_events_are_replayed_no_faster_than_the_client_reads(start_here: Start) -> None:
    server = start_here(outbox=1 << 20, stall_timeout=200)
    client = await Client.connect(server)
    for number in range(30):
        await client.slice(str(number), encoded(photograph()), number, respond="bytes", format="png", zoom=0.9)
        await client.wait_for("result")
    client.abort()
    client, resumed = await resume(server, client.hello, 0, sock=narrow(server), max_queue=1)
    async with client:
        assert resumed["replayed"] == 30
        async with await Client.connect(server, "bob") as other:
            for number in range(30):
                await other.slice(str(number), small())
            await other.ends(30)
        ends = await client.ends(30)
        assert [end["id"] for end in ends if end["type"] == "result"] == [str(number) for number in range(30)]
        assert sum(len(end["payload"]) for end in ends) > 7 << 20, (
            "more than fits into the outbox and the buffers of the system"
        )


@pytest.mark.parametrize(
    ("change", "user"),
    [
        ({"epoch": "0123456789abcdef"}, "alice"),
        ({"session": "0" * 32}, "alice"),
        ({"session": "../../etc/passwd"}, "alice"),
        ({"session": ""}, "alice"),
        ({}, "bob"),
        ({"after": 2}, "alice"),
        ({"after": 10**30}, "alice"),
    ],
    ids=["epoch", "session", "path", "empty", "another user", "future", "far future"],
)
async def test_a_session_that_cannot_be_resumed_is_reported_and_a_new_one_works(
    server: Server, change: dict[str, Any], user: str
) -> None:
    client = await Client.connect(server, "alice")
    await client.slice("a", small())
    await client.ends(1)
    client.abort()
    request = {"session": client.hello["session"], "epoch": client.hello["epoch"], "after": 0} | change
    async with await Client.connect(server, user) as other:
        await other.send("resume", **request)
        assert await other.receive() == {"type": "resumed", "recovered": False, "replayed": 0, "pending": []}
        await other.slice("a", small())
        assert [(end["seq"], end["id"]) for end in await other.ends(1)] == [(1, "a")]


async def test_resume_is_refused_after_a_slice(server: Server) -> None:
    async with await Client.connect(server) as client:
        await client.slice("a", small())
        await client.ends(1)
        members = {"session": client.hello["session"], "epoch": client.hello["epoch"], "after": 0}
        await client.send("resume", **members)
        assert (await client.wait_for("error"))["code"] == "bad_message"


async def test_resuming_closes_the_old_connection_and_drops_nothing(single: Server) -> None:
    old = await Client.connect(single)
    await old.plug()
    for number in range(1, 21):
        await old.slice(f"{number}", small(), number)
    await old.wait_for("accepted", id="20")
    new, resumed = await resume(single, old.hello, 0)
    async with new:
        assert resumed["recovered"]
        assert len(resumed["pending"]) == 21
        assert await old.closed() == 1001
        await until(lambda: single.metric("sluice_connections") == 1)
        await new.send("cancel", id="plug")
        ends = await new.ends(21)
        assert [end["seq"] for end in ends] == list(range(1, 22))
        assert [end["id"] for end in ends if end["type"] == "error"] == ["plug"]


async def test_a_clean_close_cancels_the_waiting_slices(single: Server) -> None:
    client = await Client.connect(single)
    await client.plug()
    for number in range(20):
        await client.slice(f"{number}", small(), 1 + number)
    await client.wait_for("accepted", id="19")
    dropped = single.metric("sluice_slices_total", outcome="cancelled")
    await client.socket.close()
    await until_idle(single)
    assert single.metric("sluice_slices_total", outcome="cancelled") - dropped == 21


async def test_slices_of_a_lost_connection_are_cancelled_after_session_grace(start: Start) -> None:
    server = start(workers=1, session_grace=0.2, slice_timeout=60)
    client = await Client.connect(server)
    await client.plug()
    await client.slice("a", small(), 1)
    await client.wait_for("accepted", id="a")
    client.abort()
    await until_idle(server)
    assert server.metric("sluice_slices_total", outcome="cancelled") == 2
    client, resumed = await resume(server, client.hello, 0)
    async with client:
        assert (resumed["recovered"], resumed["replayed"], resumed["pending"]) == (True, 2, [])
        assert {(end["id"], end["code"], end["temporary"]) for end in await client.ends(2)} == {
            ("plug", "cancelled", True),
            ("a", "cancelled", True),
        }


@pytest.mark.chaos
async def test_a_session_survives_a_graceful_restart(start: Start) -> None:
    server = start(workers=1, drain_timeout=0.2)
    client = await Client.connect(server)
    for number in range(5):
        await client.slice(f"done {number}", small(), number)
    seen = await client.ends(5)
    await client.plug()
    for number in range(20):
        await client.slice(f"{number}", small(), number)
    await client.wait_for("accepted", id="19")
    status, code = await asyncio.gather(asyncio.to_thread(server.stop), client.closed())
    assert (status, code) == (0, 1012)

    restarted = start(port=server.port, workers=1)
    client, resumed = await resume(restarted, client.hello, seen[-1]["seq"])
    async with client:
        assert (resumed["recovered"], resumed["replayed"], resumed["pending"]) == (True, 21, [])
        ends = await client.ends(21)
        assert [end["seq"] for end in ends] == list(range(6, 27))
        assert {(end["type"], end["code"], end["temporary"]) for end in ends} == {("error", "cancelled", True)}
        await client.slice("0 again", small())
        assert [(end["seq"], end["type"]) for end in await client.ends(1)] == [(27, "result")]


async def test_after_a_crash_the_client_learns_that_its_session_is_lost(start: Start) -> None:
    server = start()
    client = await Client.connect(server)
    await client.slice("a", small())
    (end,) = await client.ends(1)
    await asyncio.to_thread(server.stop, signal.SIGKILL)
    await client.closed()
    client, resumed = await resume(start(port=server.port), client.hello, end["seq"])
    async with client:
        assert resumed["recovered"] is False
