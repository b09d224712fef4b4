"""The attempts to process one task. It is tried again when its decoder dies, and ended by its deadline or a cancel."""

import asyncio
from collections.abc import Callable
from typing import Protocol

from works.errors import WorkError
from works.imaging.task import Result, Task

ATTEMPTS = 3
"""How often a task may crash its decoder before it fails."""
# Seconds that a cancelled task may still run before its child is killed. Most tasks end sooner.
STOP_GRACE = 0.25


class DecoderCrashed(Exception):
    """The decoder died before it answered."""


class Decoder(Protocol):
    """Processes one task at a time. Cancelling ``process`` stops the task."""

    def start(self) -> None: ...

    async def process(self, task: Task) -> Result:
        """Processes a task. Raises WorkError when the task fails, DecoderCrashed when the decoder died during it."""

    def kill(self) -> None: ...


class Attempts:
    """``timeout``: seconds for all attempts together. ``died`` is called with the reason when a decoder has died."""

    def __init__(self, task: Task, timeout: float, died: Callable[[str], None]) -> None:
        self.task = task
        self.started = asyncio.get_running_loop().time()
        self.stopped = False
        self._timeout, self._died = timeout, died
        self._until = self.started + timeout
        self._deadline: asyncio.Timeout | None = None

    def stop(self) -> None:
        """Stops the task soon, because its result is no longer needed."""
        self.stopped = True
        self._until = min(self._until, self.started + STOP_GRACE)
        if self._deadline and not self._deadline.expired():
            self._deadline.reschedule(self._until)

    async def run(self, decoder: Decoder) -> Result:
        """Returns the result. Raises WorkError: that of the task, or ``timeout``, ``crashed`` or ``cancelled``."""
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
                raise WorkError("timeout", f"slice not finished within {self._timeout:g} s (slice_timeout)") from None
        if self.stopped:
            raise WorkError("cancelled", "stopped")
        raise WorkError("crashed", f"this picture crashed its decoder {ATTEMPTS} times; it is probably damaged")
