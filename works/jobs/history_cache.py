"""Reads and caches job histories: complete ones for a single job, summaries for lists."""

import asyncio
from collections import OrderedDict
from typing import Any

from works.events.broker import Broker
from works.jobs.history import JobHistory, is_end, job_stream

# Histories in memory, which are continued from their offset, and summaries of ended jobs of some 500 bytes each.
_HISTORIES, _SUMMARIES = 32, 5000
# How many events are read at a time, and after how many characters the loop may run other code: parsing 256 KiB takes 3
# ms.
_PAGE, _LONG = 32, 10_000


class HistoryCache:
    def __init__(self, log: Broker) -> None:
        self._log = log
        self._histories: OrderedDict[str, JobHistory] = OrderedDict()
        self._summaries: OrderedDict[str, dict[str, Any]] = OrderedDict()

    async def read_start(self, id: str) -> JobHistory | None:
        """Returns the history up to the job's first event, or None when there is no such job, or no longer."""
        for event in await self._log.read(job_stream(id), 0, 1):
            if event.offset == 1:
                history = JobHistory(id)
                history.add(event)
                return history
        return None

    async def read(self, id: str) -> JobHistory | None:
        """Returns the history up to its newest event, or None. Callers must not change or store it."""
        history = self._histories.pop(id, None) or await self.read_start(id)
        if history is None:
            return None
        while events := await self._log.read(job_stream(id), history.offset, _PAGE):
            for event in events:
                history.add(event)
                if len(event.data) > _LONG:
                    await asyncio.sleep(0)
            await asyncio.sleep(0)
        self._histories[id] = history
        while len(self._histories) > _HISTORIES:
            self._histories.popitem(last=False)
        return history

    async def summary(self, id: str) -> dict[str, Any] | None:
        """Returns the entry for a list. For an ended job, only the first and the last event are read."""
        if known := self._summaries.get(id):
            return known
        history = await self.read_start(id)
        if history is None:
            return None
        head = (await self._log.position(job_stream(id))).offset
        newest = await self._log.read(job_stream(id), head - 1, 1)
        if not newest or not is_end(newest[0]):
            read = await self.read(id)
            return read.summary() if read else None
        history.add(newest[0])
        self._summaries[id] = summary = history.summary()
        while len(self._summaries) > _SUMMARIES:
            self._summaries.popitem(last=False)
        return summary

    def forget(self, id: str) -> None:
        self._histories.pop(id, None)
        self._summaries.pop(id, None)
