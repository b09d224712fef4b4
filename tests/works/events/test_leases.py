"""The contract of Leases, checked with every implementation: a lease has at most one holder at a time."""

import asyncio
from pathlib import Path

import pytest

from tests.support.event_stores import every_kind, opened


@every_kind
async def test_a_lease_has_one_holder_until_it_is_released(tmp_path: Path, kind: str) -> None:
    async with opened(kind, tmp_path) as store:
        assert await store.leases.hold("l", "one", 3600)
        assert not await store.leases.hold("l", "other", 3600)
        assert await store.leases.hold("another", "other", 3600)
        assert await store.leases.hold("l", "one", 3600)
        await store.leases.release("l", "other")
        assert not await store.leases.hold("l", "other", 3600)
        await store.leases.release("l", "one")
        assert await store.leases.hold("l", "other", 3600)
        assert not await store.leases.hold("l", "one", 3600)


@every_kind
async def test_a_lease_that_is_not_renewed_expires(tmp_path: Path, kind: str) -> None:
    async with opened(kind, tmp_path) as store:
        assert await store.leases.hold("l", "one", 0.05)
        async with asyncio.timeout(60):
            held = False
            while not held:
                held = await store.leases.hold("l", "other", 3600)
                await asyncio.sleep(0.01)
        assert not await store.leases.hold("l", "one", 0.05)


@every_kind
async def test_a_renewed_lease_lasts_for_its_new_duration(tmp_path: Path, kind: str) -> None:
    async with opened(kind, tmp_path) as store:
        assert await store.leases.hold("l", "one", 0.05)
        assert await store.leases.hold("l", "one", 3600)
        await asyncio.sleep(0.1)
        assert not await store.leases.hold("l", "other", 1)


@pytest.mark.parametrize("kind", ["redis"], indirect=True)
async def test_a_lease_in_redis_excludes_another_process(tmp_path: Path, kind: str) -> None:
    async with opened(kind, tmp_path) as one, opened(kind, tmp_path) as other:
        assert await one.leases.hold("l", "one", 3600)
        assert not await other.leases.hold("l", "other", 3600)
        await one.leases.release("l", "one")
        assert await other.leases.hold("l", "other", 3600)
