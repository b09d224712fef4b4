"""The EventLog's fences and leases: what must not follow an event, and what only one may have."""

import asyncio
from pathlib import Path

import pytest

from tests.support.event_logs import OPENERS, event, fill, numbered, opened
from works.events import Fenced

every_kind = pytest.mark.parametrize("kind", OPENERS, indirect=True)


@every_kind
async def test_nothing_is_appended_behind_an_event_that_it_must_not_follow(tmp_path: Path, kind: str) -> None:
    async with opened(kind, tmp_path) as log:
        assert await log.append("s", event(1), id="x", unless=("end",)) == 1
        assert await log.append("s", event(2), id="end") == 2
        with pytest.raises(Fenced):
            await log.append("s", event(3), id="y", unless=("end",))
        with pytest.raises(Fenced):
            await log.append("s", event(3), unless=("no such", "end"))
        assert await log.append("another", event(1), unless=("end",)) == 1
        assert await log.read("s", 0, 10) == numbered(1, 2)
    async with opened(kind, tmp_path) as log:
        with pytest.raises(Fenced):
            await log.append("s", event(3), unless=("end",))
        assert await log.append("s", event(3)) == 3


@every_kind
async def test_what_was_appended_before_the_fence_is_still_the_same_event(tmp_path: Path, kind: str) -> None:
    async with opened(kind, tmp_path) as log:
        await log.append("s", event(1), id="x", unless=("end",))
        await log.append("s", event(2), id="end")
        assert await log.append("s", event(99), id="x", unless=("end",)) == 1


@every_kind
async def test_of_many_at_once_none_comes_behind_the_fence(tmp_path: Path, kind: str) -> None:
    async with opened(kind, tmp_path) as log:
        before = (log.append("s", event(1), id=f"{number}", unless=("end",)) for number in range(20))
        after = (log.append("s", event(1), id=f"late {number}", unless=("end",)) for number in range(20))
        done = await asyncio.gather(*before, log.append("s", event(1), id="end"), *after, return_exceptions=True)
        assert done[:21] == list(range(1, 22))
        assert all(isinstance(each, Fenced) for each in done[21:])
        assert (await log.position("s")).offset == 21


@every_kind
async def test_a_volatile_stream_takes_no_fences(tmp_path: Path, kind: str) -> None:
    async with opened(kind, tmp_path) as log:
        await fill(log, "s", 1, durable=False)
        with pytest.raises(ValueError, match="no ids"):
            await log.append("s", event(2), unless=("end",), durable=False)


@every_kind
async def test_a_lease_has_one_holder_until_it_lets_go(tmp_path: Path, kind: str) -> None:
    async with opened(kind, tmp_path) as log:
        assert await log.hold("l", "one", 3600)
        assert not await log.hold("l", "other", 3600)
        assert await log.hold("another", "other", 3600)
        assert await log.hold("l", "one", 3600)
        await log.let_go("l", "other")
        assert not await log.hold("l", "other", 3600)
        await log.let_go("l", "one")
        assert await log.hold("l", "other", 3600)
        assert not await log.hold("l", "one", 3600)


@every_kind
async def test_a_lease_that_is_not_renewed_runs_out(tmp_path: Path, kind: str) -> None:
    async with opened(kind, tmp_path) as log:
        assert await log.hold("l", "one", 0.05)
        async with asyncio.timeout(60):
            held = False
            while not held:
                held = await log.hold("l", "other", 3600)
                await asyncio.sleep(0.01)
        assert not await log.hold("l", "one", 0.05)


@every_kind
async def test_a_lease_lasts_as_long_as_it_was_renewed_for(tmp_path: Path, kind: str) -> None:
    async with opened(kind, tmp_path) as log:
        assert await log.hold("l", "one", 0.05)
        assert await log.hold("l", "one", 3600)
        await asyncio.sleep(0.1)
        assert not await log.hold("l", "other", 1)


@pytest.mark.parametrize("kind", ["redis"], indirect=True)
async def test_a_lease_in_redis_keeps_another_process_out(tmp_path: Path, kind: str) -> None:
    async with opened(kind, tmp_path) as one, opened(kind, tmp_path) as other:
        assert await one.hold("l", "one", 3600)
        assert not await other.hold("l", "other", 3600)
        await one.let_go("l", "one")
        assert await other.hold("l", "other", 3600)
