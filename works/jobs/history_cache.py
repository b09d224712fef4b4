"""Stories as they are read: whole ones for who looks at a job, short ones for lists."""

import asyncio
from collections import OrderedDict
from typing import Any

from works.events.broker import Broker
from works.jobs.history import JobHistory, is_end, stream_of

# Stories kept in memory, to be read on from where they were; and summaries of ended ones, some 500 bytes each.
_STORIES, _SUMMARIES = 32, 5000
# Events read at a time, and characters of one after which others have their turn: 256 KiB take some 3 ms to parse.
_PAGE, _LONG = 32, 10_000


class HistoryCache:
    def __init__(self, log: Broker) -> None:
        self._log = log
        self._stories: OrderedDict[str, JobHistory] = OrderedDict()
        self._summaries: OrderedDict[str, dict[str, Any]] = OrderedDict()

    async def first(self, id: str) -> JobHistory | None:
        """Of a job only how it was started; None when there is no such story, or no longer."""
        for event in await self._log.read(stream_of(id), 0, 1):
            if event.offset == 1:
                story = JobHistory(id)
                story.add(event)
                return story
        return None

    async def whole(self, id: str) -> JobHistory | None:
        """The story up to its last event; None when there is none. Not to be changed, and not to be kept."""
        story = self._stories.pop(id, None) or await self.first(id)
        if story is None:
            return None
        while events := await self._log.read(stream_of(id), story.offset, _PAGE):
            for event in events:
                story.add(event)
                if len(event.data) > _LONG:
                    await asyncio.sleep(0)
            await asyncio.sleep(0)
        self._stories[id] = story
        while len(self._stories) > _STORIES:
            self._stories.popitem(last=False)
        return story

    async def summary(self, id: str) -> dict[str, Any] | None:
        """As lists have it. Of a job that has ended two events tell it all, however long its story is."""
        if known := self._summaries.get(id):
            return known
        story = await self.first(id)
        if story is None:
            return None
        head = (await self._log.position(stream_of(id))).offset
        newest = await self._log.read(stream_of(id), head - 1, 1)
        if not newest or not is_end(newest[0]):
            whole = await self.whole(id)
            return whole.summary() if whole else None
        story.add(newest[0])
        self._summaries[id] = summary = story.summary()
        while len(self._summaries) > _SUMMARIES:
            self._summaries.popitem(last=False)
        return summary

    def forget(self, id: str) -> None:
        self._stories.pop(id, None)
        self._summaries.pop(id, None)
