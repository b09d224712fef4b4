"""Bans reach every server that follows them, even when the event store fails for a time."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

from structlog.testing import capture_logs

from tests.support.event_stores import HASTY, every_kind, opened, opened_redis, persist
from tests.support.redis import Redis, redis_in
from tests.support.running import until
from works.bans import Bans
from works.events.broker import Broker, Event


class Failing:
    """A broker that fails while ``is_unavailable`` is true. ``before_append`` is called once before the next append."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self.is_unavailable = False
        self.failures = 0
        self.before_append: Callable[[], object] | None = None

    def __getattr__(self, name: str) -> Any:
        return self._fail if self.is_unavailable else getattr(self._broker, name)

    async def _fail(self, *_: object, **__: object) -> None:
        self.failures += 1
        raise OSError("the broker is not available")

    async def subscribe(self, stream: str, after: int) -> AsyncIterator[list[Event]]:
        if self.is_unavailable:
            await self._fail()
        async for events in self._broker.subscribe(stream, after):
            yield events

    async def append(self, *arguments: Any, **options: Any) -> int:
        if self.before_append:
            self.before_append, do = None, self.before_append
            do()
        return await self._broker.append(*arguments, **options)


@asynccontextmanager
async def following(bans: Bans) -> AsyncIterator[list[str]]:
    """Follows the bans and yields the list of users who are kicked. Checks at the end that the follower still runs."""
    kicked: list[str] = []
    task = asyncio.create_task(bans.follow(kicked.append))
    try:
        yield kicked
        assert not task.done()
    finally:
        task.cancel()
        await asyncio.wait({task})


def quick(broker: "Broker | Failing") -> Bans:
    """Returns Bans that retry after 1 to 10 ms."""
    return Bans(cast(Broker, broker), pause=0.001, longest_pause=0.01)


def in_an_hour() -> float:
    return time.time() + 3600


@every_kind
async def test_a_ban_reaches_every_follower_and_is_in_force_after_a_restart(tmp_path: Path, kind: str) -> None:
    async with opened(kind, tmp_path) as store:
        bans, other = Bans(store.broker), Bans(store.broker)
        await bans.load()
        async with following(bans) as kicked:
            await other.deny("mallory", in_an_hour())
            await other.deny("eve", time.time())
            await until(lambda: kicked == ["mallory", "eve"])
            assert (bans.until("mallory") > time.time(), bans.until("eve"), bans.until("alice")) == (True, 0, 0)
    async with opened(kind, tmp_path) as store:
        bans = Bans(store.broker)
        await bans.load()
        assert (bans.until("mallory") > time.time(), bans.until("eve")) == (True, 0)


@every_kind
async def test_a_ban_is_lifted_by_a_past_time(tmp_path: Path, kind: str) -> None:
    async with opened(kind, tmp_path) as store:
        bans = Bans(store.broker)
        await bans.deny("mallory", in_an_hour())
        await bans.load()
        async with following(bans):
            assert bans.until("mallory")
            await bans.deny("mallory", time.time())
            await until(lambda: not bans.until("mallory"))


async def test_an_expired_ban_is_not_published_again(tmp_path: Path) -> None:
    async with opened("sqlite", tmp_path) as store:
        bans, other = Bans(store.broker), Bans(store.broker)
        await other.deny("mallory", time.time())
        await bans.load()
        async with following(bans) as kicked:
            await other.load()  # A server calls ``load`` when it starts.
            await other.deny("eve", in_an_hour())
            await until(lambda: kicked == ["eve"])


async def test_a_follower_behind_the_retained_events_kicks_no_known_user_again(tmp_path: Path) -> None:
    async with opened("sqlite", tmp_path, keep=50) as store:
        bans, other = Bans(store.broker), Bans(store.broker)
        await other.deny("known", time.time())
        await bans.load()
        for number in range(100):
            await other.deny(f"{number}", time.time())
        async with following(bans) as kicked:
            await until(lambda: kicked[-50:] == [f"{number}" for number in range(50, 100)])
            assert "known" not in kicked


@every_kind
async def test_a_follower_retries_while_the_event_store_fails_and_logs_one_warning(tmp_path: Path, kind: str) -> None:
    async with opened(kind, tmp_path) as store:
        broker = Failing(store.broker)
        bans = quick(broker)
        await bans.load()
        broker.is_unavailable = True
        with capture_logs() as logs:
            async with following(bans) as kicked:
                await until(lambda: broker.failures > 3)
                await Bans(store.broker).deny("mallory", in_an_hour())
                broker.is_unavailable = False
                await until(lambda: kicked == ["mallory"])
        entries = [(each["log_level"], each["event"], each.get("reason")) for each in logs]
        assert entries == [
            ("warning", "bans.unavailable", "the broker is not available"),
            ("info", "bans.recovered", None),
        ]


async def test_a_ban_reaches_the_follower_after_redis_was_stopped_during_the_recovery(tmp_path: Path) -> None:
    """The first restart of Redis loses all data. The follower then publishes its bans again, and Redis is stopped a
    second time during this recovery.
    """
    with redis_in(tmp_path, appendonly=False) as redis:
        async with opened_redis(tmp_path, HASTY) as store, opened_redis(tmp_path) as patient:
            broker, other = Failing(store.broker), Bans(patient.broker)
            bans = quick(broker)
            await persist(bans.load)
            async with following(bans) as kicked:
                await other.deny("mallory", in_an_hour())
                await until(lambda: kicked == ["mallory"])
                broker.before_append = redis.kill
                with capture_logs() as logs:
                    redis.kill()
                    redis.start()
                    await until(lambda: any(each["event"] == "bans.unavailable" for each in logs))
                    await asyncio.to_thread(redis.start)
                    await other.deny("eve", in_an_hour())
                    await until(lambda: "eve" in kicked)
                assert (bans.until("mallory") > time.time(), bans.until("eve") > time.time()) == (True, True)
                # The bans that the follower knew are in force again for every server.
                await until_loaded(Bans(patient.broker), "mallory")


async def test_bans_that_could_not_be_published_again_are_published_later(redis: Redis, tmp_path: Path) -> None:
    def fail() -> None:
        raise OSError("the broker is not available")

    async with opened_redis(tmp_path) as store:
        broker = Failing(store.broker)
        bans = quick(broker)
        await bans.load()
        async with following(bans) as kicked:
            await bans.deny("mallory", in_an_hour())
            await until(lambda: kicked == ["mallory"])
            broker.before_append = fail
            redis.ask("FLUSHALL")
            await Bans(store.broker).deny("eve", in_an_hour())
            await until_loaded(Bans(store.broker), "mallory")
            assert broker.before_append is None


async def until_loaded(bans: Bans, user: str) -> None:
    async with asyncio.timeout(60):
        while not bans.until(user):
            await bans.load()


async def test_a_ban_from_a_time_when_the_follower_could_not_read_is_not_missed(redis: Redis, tmp_path: Path) -> None:
    async with opened_redis(tmp_path) as store:
        broker = Failing(store.broker)
        bans = quick(broker)
        await bans.load()
        async with following(bans) as kicked:
            await Bans(store.broker).deny("mallory", in_an_hour())
            await until(lambda: kicked == ["mallory"])
            broker.is_unavailable = True
            redis.ask("FLUSHALL")
            await Bans(store.broker).deny("eve", in_an_hour())
            await until(lambda: broker.failures > 3)
            broker.is_unavailable = False
            await until(lambda: "eve" in kicked)
