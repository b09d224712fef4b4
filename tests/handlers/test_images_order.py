"""Tests of /ws/images: slices are processed in the order in which a person sees them, sessions take turns, and
cancelled slices are not processed.
"""

import itertools
import random
from collections.abc import Iterator
from typing import Any

import psutil
import pytest

from tests.support.client import Client
from tests.support.pictures import small
from tests.support.running import Server, until

BAND = 64


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with one worker, so that there is a single order. Its limits allow for a thousand slices."""
    settings = {"workers": 1, "session_tasks": 1000, "messages_per_second": 10_000, "slice_timeout": 200}
    running = Server(tmp_path_factory.mktemp("single"), **settings)
    yield running
    assert running.process.poll() is None, "the server died:\n" + "".join(running.log)
    running.stop()


async def send_shuffled(client: Client, tops: list[int], **members: Any) -> None:
    """Sends one slice for each offset in random order, which is the same in every run. The id of a slice is
    its offset.
    """
    for top in random.Random(2).sample(tops, len(tops)):
        await client.slice(str(top), small(), top, height=BAND, zoom=0.1, **members)
    await client.wait_for("accepted", id=str(top))


def inversions(offsets: list[float], viewport: tuple[float, float] = (0, 0)) -> int:
    """Returns how often a slice was directly followed by a slice with a better rank."""
    top, height = viewport

    def rank(offset: float) -> tuple[float, float]:
        return max(top - (offset + BAND), offset - (top + height), 0), offset

    ranks = [rank(offset) for offset in offsets]
    return sum(first > second for first, second in itertools.pairwise(ranks))


def offsets(ends: list[dict[str, Any]]) -> list[float]:
    assert {end["type"] for end in ends} == {"result"}
    return [end["offset_top"] for end in ends]


def processed_at(server: Server, result: dict[str, Any]) -> int:
    """Returns when the result was written, in nanoseconds. These times show the order in which the worker processed
    slices.
    """
    return (server.media / result["url"].rsplit("/", 1)[1]).stat().st_mtime_ns


async def test_300_slices_in_random_order_are_processed_from_the_top(single: Server) -> None:
    async with await Client.connect(single) as client:
        await client.plug()
        await send_shuffled(client, [number * BAND for number in range(1, 301)])
        await client.send("cancel", id="plug")
        await client.wait_for("error", id="plug", code="cancelled")
        order = offsets(await client.ends(300))
        assert len(set(order)) == 300
        assert inversions(order) <= 1


async def test_the_order_follows_a_viewport_that_moves_while_slices_wait(single: Server) -> None:
    viewport = (220 * BAND, 4 * BAND)
    async with await Client.connect(single) as client:
        await client.plug()
        await send_shuffled(client, [number * BAND for number in range(1, 151)])
        await client.plug("half way", 150.5 * BAND)
        await send_shuffled(client, [number * BAND for number in range(151, 301)])
        await client.send("cancel", id="plug")
        await client.wait_for("error", id="plug")
        above = offsets(await client.ends(150))
        await client.send("viewport", top=viewport[0], height=viewport[1])
        await client.send("cancel", id="half way")
        await client.wait_for("error", id="half way")
        below = offsets(await client.ends(150))
        assert max(above) < min(below)
        assert inversions(above) <= 1
        assert inversions(below, viewport) <= 1
        assert below[:2] == [219 * BAND, 220 * BAND], "the slice that touches the viewport from above is visible first"


async def test_each_picture_has_a_separate_viewport(single: Server) -> None:
    async with await Client.connect(single) as client:
        await client.plug()
        await client.send("viewport", image="b", top=40 * BAND, height=BAND)
        tops = [number * BAND for number in range(1, 41)]
        for image in "ab":
            for top in random.Random(3).sample(tops, len(tops)):
                await client.slice(f"{image}{top}", small(), top, height=BAND, image=image, zoom=0.1)
        await client.send("cancel", id="plug")
        await client.wait_for("error", id="plug")
        ends = await client.ends(80)
        of = {image: offsets([end for end in ends if end["image"] == image]) for image in "ab"}
        assert inversions(of["a"]) <= 1
        assert inversions(of["b"], (40 * BAND, BAND)) <= 1
        assert of["b"][-1] == BAND


async def test_a_session_of_1000_slices_does_not_delay_another(single: Server) -> None:
    async with await Client.connect(single, "alice") as first, await Client.connect(single, "bob") as second:
        await first.plug()
        await send_shuffled(first, [number * BAND for number in range(1, 1000)])
        await second.slice("other", small(), 90_000, zoom=0.1)
        await second.wait_for("accepted")
        await first.send("cancel", id="plug")
        other = await second.wait_for("result")
        many = [end for end in await first.ends(1000) if end["type"] == "result"]
        assert len(many) == 999
        earlier = [end for end in many if processed_at(single, end) < processed_at(single, other)]
        assert len(earlier) == 0, "only a running slice may precede the first slice of another session"


async def test_a_cancelled_slice_is_never_processed(single: Server) -> None:
    async with await Client.connect(single) as client:
        before = set(single.results())
        await client.plug()
        await client.slice("unwanted", small(), 64)
        await client.slice("wanted", small(), 128)
        await client.send("cancel", id="unwanted")
        error = await client.wait_for("error")
        assert (error["id"], error["code"], error["temporary"]) == ("unwanted", "cancelled", False)
        await client.send("cancel", id="plug")
        result = await client.wait_for("result")
        assert result["id"] == "wanted"
        assert len(set(single.results()) - before) == 1


async def test_cancelling_a_picture_does_not_affect_other_pictures(single: Server) -> None:
    async with await Client.connect(single) as client:
        await client.plug()
        for number in range(1, 11):
            await client.slice(f"gone {number}", small(), number, image="gone")
            await client.slice(f"kept {number}", small(), number, image="kept")
        await client.send("cancel", image="gone")
        cancelled = await client.ends(10)
        assert {(end["image"], end["code"]) for end in cancelled} == {("gone", "cancelled")}
        await client.send("cancel", id="plug")
        results = [end for end in await client.ends(11) if end["type"] == "result"]
        assert [end["id"] for end in results] == [f"kept {number}" for number in range(1, 11)]


async def test_a_session_cannot_cancel_slices_of_another_session(single: Server) -> None:
    async with await Client.connect(single) as client, await Client.connect(single) as other:
        await client.plug()
        await client.slice("a", small(), 64)
        await other.send("cancel", id="a")
        assert (await other.wait_for("error"))["code"] == "not_found"
        await client.send("cancel", id="plug")
        assert (await client.wait_for("result"))["id"] == "a"


async def current_decoder(client: Client) -> psutil.Process:
    """Returns the decoder child that will process the next slice of this session.

    Decoders that earlier tests have killed may need a long time to end.
    """
    await client.slice("before", small())
    await client.ends(1)
    await until(lambda: len(client.server.children()) == 1)
    (child,) = client.server.children()
    return child


async def test_a_slice_is_retried_after_its_decoder_was_killed(single: Server) -> None:
    async with await Client.connect(single) as client:
        child = await current_decoder(client)
        deaths = single.metric("sluice_child_deaths_total", reason="crashed")
        child.suspend()  # stops the child, so that it cannot finish the slice before it is killed
        await client.slice("a", small(), zoom=15)
        await until(lambda: single.metric("sluice_running") == 1)
        child.kill()
        (end,) = await client.ends(1)
        assert (end["type"], end["id"], end["width"]) == ("result", "a", 128 * 15)
        assert single.metric("sluice_child_deaths_total", reason="crashed") == deaths + 1


async def test_a_killed_decoder_affects_no_other_slice(single: Server) -> None:
    async with await Client.connect(single) as client:
        child = await current_decoder(client)
        await client.plug()
        for number in range(1, 21):
            await client.slice(str(number), small(), number)
        child.kill()
        await client.send("cancel", id="plug")
        ends = await client.ends(21)
        assert sorted(int(end["id"]) for end in ends if end["type"] == "result") == list(range(1, 21))


async def test_a_slice_whose_decoder_ends_three_times_fails(single: Server) -> None:
    async with await Client.connect(single) as client:
        child = await current_decoder(client)
        await client.plug()
        await client.slice("next", small(), 64)
        child.kill()
        killed = {child}
        for _ in range(2):
            await until(lambda: set(single.children()) - killed)
            (child,) = set(single.children()) - killed
            killed.add(child)
            child.kill()
        error = await client.wait_for("error", id="plug")
        assert (error["code"], error["temporary"]) == ("crashed", False)
        assert (await client.wait_for("result"))["id"] == "next"
