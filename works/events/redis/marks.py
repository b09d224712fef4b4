"""Marks in Redis."""

from works.events.marks import Mark
from works.events.redis.calls import RedisCalls


class RedisMarks:
    def __init__(self, calls: RedisCalls) -> None:
        self._calls = calls

    async def set(self, stream: str, reader: str, offset: int) -> Mark:
        return Mark(*await self._calls.call("mark", stream, reader, offset))

    async def advance(self, stream: str, reader: str, offset: int) -> bool:
        return bool(await self._calls.call("mark", stream, reader, offset, "known"))

    async def remove(self, stream: str, reader: str) -> None:
        await self._calls.call("unmark", stream, reader)

    async def of_reader(self, reader: str) -> dict[str, Mark]:
        found = await self._calls.call("marks", reader, done="read")
        return {stream: Mark(*mark) for stream, *mark in zip(*[iter(found)] * 3, strict=True)}
