"""The calls of one process to Redis, in order. Calls that are made during a round trip are sent together in the next
one.

A call whose answer is lost is sent again before all later calls, until its caller's patience ends. So the order is kept
during an outage. Every script gives the same answer when it is sent twice.
"""

import asyncio
import itertools
import secrets
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from works.background import BackgroundTasks

# Maximum number of calls in one round trip: enough to fill it, few enough that all answers, which are read together,
# stay small.
_GROUP = 256
# Seconds between attempts while Redis does not answer: the first pause and the longest.
_PAUSE, _LONGEST_PAUSE = 0.05, 1.0

Argument = str | int | float


@dataclass(eq=False, slots=True)
class RedisCall:
    """A script with its arguments. The caller may cancel ``done``; then the call is not sent again."""

    script: str
    arguments: tuple[bytes | int | float, ...]
    done: "asyncio.Future[Any]"


class RedisCalls:
    """``execute`` returns the answer of each call, in order, with an OSError for each call without an answer.

    ``patience``: seconds after which a caller gets an OSError. ``process``: a name of this process, unique in this
    Redis. ``fault``: why Redis last gave no answer.
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
        """Returns a name for a call that no other call of any process has."""
        return f"~{self.process}:{next(self._numbers)}"

    async def call(self, script: str, *arguments: Argument, forever: bool = False, done: str = "written") -> Any:
        """Returns the answer. Raises OSError when there is none in time. With ``forever`` it waits without a limit."""
        future = self.send(script, *arguments)
        try:
            async with asyncio.timeout(None if forever else self.patience):
                return await future
        except TimeoutError:
            raise OSError(f"events cannot be {done}: {self.fault}") from None

    def send(self, script: str, *arguments: Argument) -> "asyncio.Future[Any]":
        """Queues a call like ``call``, immediately and without waiting. It is tried until the future is cancelled.

        Raises OSError when the store is closed.
        """
        if self._closed:
            raise OSError("the event store is closed")
        # Encoded here, so that the caller gets the ValueError of a string that cannot be encoded.
        encoded = tuple(each.encode() if isinstance(each, str) else each for each in arguments)
        call = RedisCall(script, encoded, asyncio.get_running_loop().create_future())
        self._waiting.append(call)
        self._idle.clear()
        self._wake.set()
        return call.done

    async def close(self) -> None:
        """Accepts no more calls, and waits for pending ones until their patience ends."""
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
                call.done.exception()  # marks the exception as retrieved, because the caller may have gone

    async def _send_all(self) -> None:
        pause = _PAUSE
        if self._waiting:  # the task was started again
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
        """Sends the oldest calls. Returns False when some of them must be sent again."""
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
