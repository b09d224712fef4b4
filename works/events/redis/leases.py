"""Leases in Redis, with the clock of Redis."""

from works.events.redis.calls import RedisCalls


class RedisLeases:
    def __init__(self, calls: RedisCalls) -> None:
        self._calls = calls

    async def hold(self, lease: str, holder: str, seconds: float) -> bool:
        return bool(await self._calls.call("hold", lease, holder, seconds))

    async def release(self, lease: str, holder: str) -> None:
        await self._calls.call("release", lease, holder)
