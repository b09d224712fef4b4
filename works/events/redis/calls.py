"""The calls of one process to Redis, one after another: those made while one round trip is under way go out together.

A call whose answer is lost is made again, before any later one, until somebody loses patience. That is why every
script gives the same answer when it is sent twice, and why order is kept through an outage.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

# Seconds after which who asked is told that Redis does not answer. Long enough for its restart or a failover, and
# short enough to tell a person who waits.
PATIENCE = 5.0
# Calls in one round trip: enough to fill it, and few enough that their answers, read whole, stay small.
_GROUP = 256
# Seconds between attempts while Redis does not answer: the first, and the longest.
_PAUSE, _LONGEST_PAUSE = 0.05, 1.0

Argument = str | int | float


@dataclass(eq=False, slots=True)
class RedisCall:
    """One script with its arguments. ``done`` may be given up by who asked; then it is not made again."""

    script: str
    arguments: tuple[bytes | int | float, ...]
    done: "asyncio.Future[Any]"


class RedisCalls:
    """``ask`` gives the answer to each of some calls, in order, an OSError where there is none."""

    def __init__(self, ask: Callable[[Sequence[RedisCall]], Awaitable[list[Any]]]) -> None:
        self._ask = ask
        self._waiting: deque[RedisCall] = deque()
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._closed = False
        self._fault = "Redis does not answer"
        self._sender = asyncio.get_running_loop().create_task(self._send_all())

    async def call(
        self, script: str, *arguments: Argument, patience: float | None = PATIENCE, done: str = "written"
    ) -> Any:
        """Raises OSError when there is no answer in time; with patience None it waits for ever."""
        future = self.send(script, *arguments)
        try:
            async with asyncio.timeout(patience):
                return await future
        except TimeoutError:
            raise OSError(f"events cannot be {done}: {self._fault}") from None

    def send(self, script: str, *arguments: Argument) -> "asyncio.Future[Any]":
        """As ``call``, in its turn from now on. The future is made good until somebody cancels it."""
        if self._closed:
            raise OSError("the event log is closed")
        # Here, where it concerns who asked: some strings cannot be encoded.
        encoded = tuple(each.encode() if isinstance(each, str) else each for each in arguments)
        call = RedisCall(script, encoded, asyncio.get_running_loop().create_future())
        self._waiting.append(call)
        self._idle.clear()
        self._wake.set()
        return call.done

    async def close(self) -> None:
        """Accepts no more, and waits for what is under way as long as patience lasts."""
        self._closed = True
        try:
            async with asyncio.timeout(PATIENCE):
                await self._idle.wait()
        except TimeoutError:
            pass
        self._sender.cancel()
        await asyncio.gather(self._sender, return_exceptions=True)
        for call in self._waiting:
            if not call.done.done():
                call.done.set_exception(OSError(f"events cannot be written: {self._fault}"))
                call.done.exception()  # now it may also be that nobody asks

    async def _send_all(self) -> None:
        pause = _PAUSE
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._waiting:
                if await self._send_group():
                    pause = _PAUSE
                else:
                    await asyncio.sleep(pause)
                    pause = min(2 * pause, _LONGEST_PAUSE)
            self._idle.set()

    async def _send_group(self) -> bool:
        """Makes the calls that have waited longest; False when one of them has to wait on."""
        # They stay where they are until they are answered: who closes meanwhile finds them there.
        oldest = list(islice(self._waiting, _GROUP))
        group = [call for call in oldest if not call.done.done()]
        answers = await self._ask(group) if group else []
        again = []
        for call, answer in zip(group, answers, strict=True):
            if isinstance(answer, OSError):
                self._fault = str(answer)
                again.append(call)
            elif not call.done.done():
                call.done.set_result(answer)
        for _ in oldest:
            self._waiting.popleft()
        self._waiting.extendleft(reversed(again))
        return not again
