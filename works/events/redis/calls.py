"""The calls of one process to Redis, one after another: those made while one round trip is under way go out together.

A call whose answer is lost is made again, before any later one, until its caller's patience ends. That is why every
script gives the same answer when it is sent twice, and why order is kept through an outage.
"""

import asyncio
import itertools
import secrets
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from works.background import BackgroundTasks

# Calls in one round trip: enough to fill it, and few enough that their answers, read whole, stay small.
_GROUP = 256
# Seconds between attempts while Redis does not answer: the first, and the longest.
_PAUSE, _LONGEST_PAUSE = 0.05, 1.0

Argument = str | int | float


@dataclass(eq=False, slots=True)
class RedisCall:
    """One script with its arguments. The caller may cancel ``done``; then the call is not made again."""

    script: str
    arguments: tuple[bytes | int | float, ...]
    done: "asyncio.Future[Any]"


class RedisCalls:
    """``execute`` returns the answer to each of some calls, in order, an OSError where there is none.

    ``patience``: seconds after which a caller gets an OSError. ``process`` names this process among those that share
    Redis. ``fault`` is why Redis last gave no answer.
    """

    def __init__(
        self,
        execute: Callable[[Sequence[RedisCall]], Awaitable[list[Any]]],
        patience: float,
        background: BackgroundTasks,
    ) -> None:
        self.patience = patience
        self.process = secrets.token_hex(8)
        self.fault = "Redis does not answer"
        self._execute = execute
        self._numbers = itertools.count()
        self._waiting: deque[RedisCall] = deque()
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._closed = False
        self._sender = background.start("event sender", self._send_all)

    def new_id(self) -> str:
        """A name for a call, which no other call of any process has."""
        return f"~{self.process}:{next(self._numbers)}"

    async def call(self, script: str, *arguments: Argument, forever: bool = False, done: str = "written") -> Any:
        """The answer. Raises OSError when there is none in time; with ``forever`` it waits without an end."""
        future = self.send(script, *arguments)
        try:
            async with asyncio.timeout(None if forever else self.patience):
                return await future
        except TimeoutError:
            raise OSError(f"events cannot be {done}: {self.fault}") from None

    def send(self, script: str, *arguments: Argument) -> "asyncio.Future[Any]":
        """As ``call``, but its place in the order is taken now. It is tried until the future is cancelled."""
        if self._closed:
            raise OSError("the event log is closed")
        # Encoded here, so that the caller gets the ValueError of a string that cannot be.
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
            async with asyncio.timeout(self.patience):
                await self._idle.wait()
        except TimeoutError:
            pass
        self._sender.cancel()
        await asyncio.gather(self._sender, return_exceptions=True)
        for call in self._waiting:
            if not call.done.done():
                call.done.set_exception(OSError(f"events cannot be written: {self.fault}"))
                call.done.exception()  # marked as retrieved: the caller may have gone

    async def _send_all(self) -> None:
        pause = _PAUSE
        if self._waiting:  # it was started again
            self._wake.set()
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
        """Makes the calls that have waited longest; False when one of them has to be made again."""
        # They stay in the queue until they are answered, so that ``close`` finds them there.
        oldest = list(itertools.islice(self._waiting, _GROUP))
        group = [call for call in oldest if not call.done.done()]
        answers = await self._execute(group) if group else []
        again = []
        for call, answer in zip(group, answers, strict=True):
            if isinstance(answer, OSError):
                self.fault = str(answer)
                again.append(call)
            elif not call.done.done():
                call.done.set_result(answer)
        for _ in oldest:
            self._waiting.popleft()
        self._waiting.extendleft(reversed(again))
        return not again
