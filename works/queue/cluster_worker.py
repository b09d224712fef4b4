"""The decoders of a worker on another machine, one for each slice that it works at once.

The same isolation as in a server: a slice that crashes, hangs or swells its child costs that child alone. What a
picture may be, and where results go, is the worker's own setting, never said by a message.
"""

import asyncio
import json
from collections.abc import Hashable

import structlog

from works.errors import WorkError
from works.imaging.task import Result
from works.queue.attempts import Attempts, Decoder
from works.queue.serialization import decode_task, encode_outcome
from works.storage.results import ResultStore

log = structlog.get_logger()


class WorkerDecoders:
    """``decoders`` are its decoders; ``timeout`` in seconds a slice."""

    def __init__(self, decoders: list[Decoder], media: ResultStore, timeout: float) -> None:
        self._decoders, self._media, self._timeout = decoders, media, timeout
        self._runs: dict[Hashable, Attempts] = {}
        self._free: asyncio.LifoQueue[Decoder] = asyncio.LifoQueue()

    def __len__(self) -> int:
        return len(self._decoders)

    @property
    def at_work(self) -> int:
        """How many slices it is at."""
        return len(self._runs)

    def start(self) -> None:
        for decoder in self._decoders:
            decoder.start()
            self._free.put_nowait(decoder)

    async def work(self, key: Hashable, header: bytes, payload: bytes) -> tuple[bytes, bytes]:
        """The answer to a question of works.queue.serialization; an error is an answer too."""
        decoder = await self._free.get()
        self._runs[key] = attempts = Attempts(decode_task(json.loads(header), payload), self._timeout, _died)
        try:
            return encode_outcome(await self._end(attempts, decoder))
        except WorkError as error:
            return encode_outcome(error)
        finally:
            del self._runs[key]
            self._free.put_nowait(decoder)

    async def _end(self, attempts: Attempts, decoder: Decoder) -> Result:
        result = await attempts.run(decoder)
        if attempts.stopped and result.name:
            await asyncio.to_thread(self._media.delete, result.name)
            raise WorkError("cancelled", "stopped")
        return result

    def stop(self, key: Hashable) -> None:
        """Nobody wants what comes of this slice: it is ended soon, and nothing of it is kept."""
        if attempts := self._runs.get(key):
            attempts.stop()

    def close(self) -> None:
        for decoder in self._decoders:
            decoder.kill()


def _died(reason: str) -> None:
    if reason != "cancelled":
        log.warning("worker.decoder_ended", reason=reason)
