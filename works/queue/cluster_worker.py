"""The decoders of a worker in a cluster, one for each slice that it processes at the same time.

The isolation is the same as in a server: a slice that crashes, hangs or uses too much memory affects only its own
child. Limits of pictures and the result store are settings of the worker. A message cannot change them.
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
    """``timeout``: seconds per slice."""

    def __init__(self, decoders: list[Decoder], results: ResultStore, timeout: float) -> None:
        self._decoders, self._results, self._timeout = decoders, results, timeout
        self._runs: dict[Hashable, Attempts] = {}
        self._free: asyncio.LifoQueue[Decoder] = asyncio.LifoQueue()

    def __len__(self) -> int:
        return len(self._decoders)

    @property
    def at_work(self) -> int:
        """The number of slices that are being processed."""
        return len(self._runs)

    def start(self) -> None:
        for decoder in self._decoders:
            decoder.start()
            self._free.put_nowait(decoder)

    async def work(self, key: Hashable, header: bytes, payload: bytes) -> tuple[bytes, bytes]:
        """Processes one task from works.queue.serialization. Returns the encoded result or error."""
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
            await asyncio.to_thread(self._results.delete, result.name)
            raise WorkError("cancelled", "stopped")
        return result

    def stop(self, key: Hashable) -> None:
        """Stops a task whose result is no longer needed. Its result is not stored."""
        if attempts := self._runs.get(key):
            attempts.stop()

    def close(self) -> None:
        for decoder in self._decoders:
            decoder.kill()


def _died(reason: str) -> None:
    if reason != "cancelled":
        log.warning("worker.decoder_ended", reason=reason)
