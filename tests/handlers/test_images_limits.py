"""Tests of /ws/images: a client that exceeds a limit gets an error that names the limit. Other clients are not
affected.
"""

import shutil
from collections.abc import Iterator
from contextlib import suppress

import psutil
import pytest
import websockets

from tests.support.client import PLUG, Client, narrow
from tests.support.pictures import encoded, photograph, scan, small
from tests.support.running import Server, Start, until


@pytest.fixture(scope="module")
def tight(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with one worker and low limits."""
    settings = {
        "workers": 1,
        "max_slice_bytes": 90_000,
        "max_pixels": 60_000_000,
        "max_side": 20_000,
        "formats": "jpeg,png",
        "session_tasks": 5,
        "session_bytes": 200_000,
        "queue_bytes": 300_000,
        "slice_timeout": 60,
        "messages_per_second": 50,
        "outbox": 100_000,
    }
    running = Server(tmp_path_factory.mktemp("tight"), **settings)
    yield running
    assert running.process.poll() is None, "the server died:\n" + "".join(running.log)
    running.stop()


async def test_slices_over_session_tasks_are_refused_immediately(tight: Server) -> None:
    async with await Client.connect(tight) as client:
        await client.plug()
        await until(lambda: tight.metric("sluice_running") == 1)
        for number in range(7):
            await client.slice(str(number), small(), 64)
        refused = [await client.wait_for("error") for _ in range(2)]
        assert [error["id"] for error in refused] == ["5", "6"]
        for error in refused:
            assert (error["code"], error["temporary"]) == ("busy", True)
            assert error["retry_after_ms"] >= 50
            assert "session_tasks" in error["message"]
            assert "seq" not in error, "a refused slice has no event that could be resumed"
        await client.send("cancel", id="plug")
        assert [end["type"] for end in await client.ends(6)] == ["error", *["result"] * 5]
        await client.slice("5", small(), 64)
        assert (await client.wait_for("result", "error"))["type"] == "result", "a refused id may be sent again"


async def test_bytes_over_session_bytes_and_queue_bytes_are_refused_immediately(tight: Server) -> None:
    heavy = small() + bytes(80_000)
    async with await Client.connect(tight, "alice") as client, await Client.connect(tight, "bob") as other:
        await client.plug()
        await until(lambda: tight.metric("sluice_running") == 1)
        for number in range(3):
            await client.slice(str(number), heavy, 64)
        error = await client.wait_for("error")
        assert (error["id"], error["code"]) == ("2", "busy")
        assert "session_bytes" in error["message"]
        for number in range(2):
            await other.slice(str(number), heavy)
        error = await other.wait_for("error")
        assert (error["id"], error["code"]) == ("1", "busy")
        assert "queue_bytes" in error["message"]
        await client.send("cancel", id="plug")
        assert len(await client.ends(3)) == 3
        assert len(await other.ends(1)) == 1


async def test_a_slice_that_takes_too_long_is_ended_and_the_next_is_processed(start: Start) -> None:
    server = start(workers=1, slice_timeout=2)
    async with await Client.connect(server) as client:
        await client.slice("plug", small(), **PLUG)
        error = await client.wait_for("error")
        assert (error["id"], error["code"]) == ("plug", "timeout")
        assert "slice_timeout" in error["message"]
        end, number = error, 0
        while end.get("code") == "timeout":  # a busy machine may need two seconds for some slices, but not for all
            number += 1
            await client.slice(f"next {number}", small(), 64)
            end = await client.wait_for("result", "error")
        assert (end["type"], end["id"]) == ("result", f"next {number}")


@pytest.mark.parametrize(
    ("payload", "zoom", "code", "word"),
    [
        (bytes(90_001), 1, "too_large", "90,000"),
        (encoded(scan(), ".webp"), 1, "unsupported_format", "webp"),
        (small(), 100, "too_many_pixels", "60,000,000"),
        (encoded(scan()[:1], ".png"), 60, "too_many_pixels", "20,000"),
    ],
)
async def test_an_error_names_the_exceeded_limit(
    tight: Server, payload: bytes, zoom: float, code: str, word: str
) -> None:
    async with await Client.connect(tight) as client:
        await client.slice("a", payload, zoom=zoom)
        error = await client.wait_for("error", "result")
        assert (error["type"], error.get("code")) == ("error", code)
        assert word in error["message"]
        await client.slice("b", small())
        assert (await client.wait_for("result"))["id"] == "b"


async def test_a_result_too_large_for_a_message_is_refused_with_advice(tight: Server) -> None:
    async with await Client.connect(tight) as client:
        await client.slice("a", encoded(photograph(), quality=60), respond="bytes", format="png")
        error = await client.wait_for("error")
        assert (error["code"], error["id"], error["seq"]) == ("too_large", "a", 1)
        assert "respond=url" in error["message"]


async def test_a_message_larger_than_any_slice_closes_the_connection(tight: Server) -> None:
    async with await Client.connect(tight) as client, await Client.connect(tight) as other:
        with suppress(websockets.ConnectionClosed):
            await client.slice("a", bytes(400_000))
        assert await client.closed() in (1009, 1006), "1006 if the reset arrives before the close frame"
        await other.slice("b", small())
        assert (await other.wait_for("result"))["id"] == "b"


async def test_without_the_media_folder_slices_fail_with_a_temporary_error(tight: Server) -> None:
    async with await Client.connect(tight) as client:
        shutil.rmtree(tight.media)
        await client.slice("a", small())
        error = await client.wait_for("error", "result")
        assert (error["type"], error["code"], error["temporary"]) == ("error", "internal", True)
        assert str(tight.media) not in error["message"]
        tight.media.mkdir()
        await client.slice("b", small())
        assert (await client.wait_for("result"))["id"] == "b"


async def test_too_many_messages_close_the_connection_with_4429(tight: Server) -> None:
    async with await Client.connect(tight) as client, await Client.connect(tight) as other:
        client.flood("viewport", 10_000, top=0, height=0)  # more than 50 messages per second, even on a slow machine
        assert await client.closed() == 4429
        assert "messages_per_second" in str(client.socket.close_reason)
        assert tight.metric("sluice_refusals_total", reason="rate") >= 1
        await other.slice("b", small())
        assert (await other.wait_for("result"))["id"] == "b"


async def test_a_client_that_stops_reading_is_closed_and_costs_little_memory(
    start: Start,
) -> None:
    # The client also answers no pings. The long ping interval prevents a close for this reason.
    server = start(outbox=1 << 20, messages_per_second=100_000, ping_interval=600)
    process = psutil.Process(server.process.pid)
    client = await Client.connect(server, sock=narrow(server), max_queue=1)
    before = process.memory_info().rss
    with suppress(websockets.ConnectionClosed):
        for _ in range(100_000):
            await client.socket.send('{"type": "the client never reads the answer"}')
    await until(lambda: server.metric("sluice_refusals_total", reason="slow_reader") == 1)
    assert process.memory_info().rss - before < 20 << 20, "the answers have about 20 MB in total"
    assert await client.closed() in (4508, 1006), "1006 if the client needs more than 5 s for earlier bytes"
    async with await Client.connect(server) as other:
        await other.slice("b", small())
        assert (await other.wait_for("result"))["id"] == "b"
