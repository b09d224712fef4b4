"""The attempts at one task: tried again when its child dies, ended by its deadline or when nobody wants it."""

import asyncio
from collections.abc import Callable
from typing import Protocol

from works.errors import WorkError
from works.imaging.task import Result, Task

ATTEMPTS = 3
"""How often a task may end its decoder before it is given up."""
# A task that is stopped after it has run this long, in seconds, has its child killed; most end sooner by themselves.
STOP_GRACE = 0.25


class DecoderCrashed(Exception):
    """The child ended before it answered."""


class Decoder(Protocol):
    """Does one task at a time, and can be stopped in the middle by cancelling it."""

    def start(self) -> None: ...

    async def process(self, task: Task) -> Result:
        """Raises WorkError, or DecoderCrashed when nothing can be said but that it died over the task."""

    def kill(self) -> None: ...


class Attempts:
    """``timeout`` is for all attempts together, in seconds; ``died`` is told why a child had to end."""

    def __init__(self, task: Task, timeout: float, died: Callable[[str], None]) -> None:
        self.task = task
        self.started = asyncio.get_running_loop().time()
        self.stopped = False
        self._timeout, self._died = timeout, died
        self._until = self.started + timeout
        self._deadline: asyncio.Timeout | None = None

    def stop(self) -> None:
        """Nobody wants the result any more."""
        self.stopped = True
        self._until = min(self._until, self.started + STOP_GRACE)
        if self._deadline and not self._deadline.expired():
            self._deadline.reschedule(self._until)

    async def run(self, decoder: Decoder) -> Result:
        """The result. Raises WorkError: the task's own, ``timeout``, ``crashed``, or ``cancelled`` once stopped."""
        for _ in range(ATTEMPTS):
            try:
                async with asyncio.timeout_at(self._until) as self._deadline:
                    return await decoder.process(self.task)
            except DecoderCrashed:
                self._died("crashed")
                if self.stopped:
                    break
            except TimeoutError:
                self._died("cancelled" if self.stopped else "timeout")
                if self.stopped:
                    break
                raise WorkError("timeout", f"not done within {self._timeout:g} s (slice_timeout)") from None
        if self.stopped:
            raise WorkError("cancelled", "stopped")
        raise WorkError("crashed", f"this picture ended its decoder {ATTEMPTS} times")
