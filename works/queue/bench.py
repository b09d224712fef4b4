"""The bench of a worker on another machine: its decoders, one for each slice that it works at once.

The same isolation as in a server: a slice that crashes, hangs or swells its child costs that child alone. What a
picture may be, and where results go, is the worker's own setting, never said by a message.
"""

import asyncio
import json
from collections.abc import Hashable

import structlog

from works.errors import WorkError
from works.imaging.task import Result
from works.queue.attempts import Performer, Run
from works.queue.serialization import answer, task_of
from works.storage.results import MediaStore

log = structlog.get_logger()


class Bench:
    """``performers`` are its decoders; ``timeout`` in seconds a slice."""

    def __init__(self, performers: list[Performer], media: MediaStore, timeout: float) -> None:
        self._performers, self._media, self._timeout = performers, media, timeout
        self._runs: dict[Hashable, Run] = {}
        self._free: asyncio.LifoQueue[Performer] = asyncio.LifoQueue()

    def __len__(self) -> int:
        return len(self._performers)

    @property
    def at_work(self) -> int:
        """How many slices it is at."""
        return len(self._runs)

    def start(self) -> None:
        for performer in self._performers:
            performer.start()
            self._free.put_nowait(performer)

    async def work(self, key: Hashable, header: bytes, payload: bytes) -> tuple[bytes, bytes]:
        """The answer to a question of works.queue.serialization; an error is an answer too."""
        performer = await self._free.get()
        self._runs[key] = run = Run(task_of(json.loads(header), payload), self._timeout, _died)
        try:
            return answer(await self._end(run, performer))
        except WorkError as error:
            return answer(error)
        finally:
            del self._runs[key]
            self._free.put_nowait(performer)

    async def _end(self, run: Run, performer: Performer) -> Result:
        result = await run.end(performer)
        if run.stopped and result.name:
            await asyncio.to_thread(self._media.delete, result.name)
            raise WorkError("cancelled", "stopped")
        return result

    def stop(self, key: Hashable) -> None:
        """Nobody wants what comes of this slice: it is ended soon, and nothing of it is kept."""
        if run := self._runs.get(key):
            run.stop()

    def close(self) -> None:
        for performer in self._performers:
            performer.kill()


def _died(reason: str) -> None:
    if reason != "cancelled":
        log.warning("decoder ended", reason=reason)
