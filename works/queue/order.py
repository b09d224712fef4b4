"""Decides which pending task is next: a heap by Rank for each session, and turns between the sessions. No clock, no
I/O.

Within a session, the task nearest to the viewport is first, then the topmost, then the oldest. Background sessions get
a turn only when no other session is waiting.

Taking a task costs O(log n). A moved viewport or a cancel makes the heap of its session stale. A stale heap is built
again once, when the next task is taken from it.
"""

import asyncio
import heapq
from collections import deque
from dataclasses import dataclass, field
from typing import NamedTuple

from works.errors import Busy
from works.imaging.task import Result, Task
from works.queue.attempts import Attempts
from works.queue.settings import QueueBounds

# Viewports remembered per session, one for each picture. The one that has not moved for longest is forgotten first.
_VIEWPORTS = 256


class Viewport(NamedTuple):
    """The visible part of a picture, in source pixels from its top. It may be outside the picture."""

    top: float = 0
    height: float = 0


class Rank(NamedTuple):
    """The order of the tasks in a session. The lowest rank is processed first."""

    distance: float
    offset_top: float
    arrival: int


def rank(task: Task, viewport: Viewport, arrival: int) -> Rank:
    """Returns the rank. ``distance`` is that between slice and viewport in pixels, 0 when they touch or overlap."""
    above = viewport.top - (task.offset_top + task.height)
    below = task.offset_top - (viewport.top + viewport.height)
    return Rank(max(above, below, 0), task.offset_top, arrival)


@dataclass(eq=False, slots=True)
class Entry:
    """A task in the queue. Times are in seconds of the loop's clock.

    ``attempts`` is set while a child of this process processes the task, ``deadline`` while a thread does. ``key`` is
    its name in a cluster.
    """

    task: Task
    future: "asyncio.Future[Result]"
    arrival: int
    accepted: float
    started: float = 0.0
    attempts: Attempts | None = None
    deadline: asyncio.TimerHandle | None = None
    key: str = ""


@dataclass(slots=True)
class _Turns:
    """The waiting sessions, in the order in which they are served."""

    order: deque[str] = field(default_factory=deque)
    served: str = ""

    def add(self, session: str) -> None:
        """Adds a session. The session that was served last stays behind new ones, because it has just had a turn."""
        at_end = bool(self.order) and self.order[-1] == self.served
        self.order.insert(len(self.order) - at_end, session)

    def next(self) -> str:
        self.served = self.order.popleft()
        return self.served


@dataclass(slots=True)
class _SessionQueue:
    """The pending tasks of one session. Unless `is_stale`, the heap has the same entries as ``entries``."""

    turns: _Turns
    entries: dict[str, Entry] = field(default_factory=dict)
    heap: list[tuple[Rank, Entry]] = field(default_factory=list)
    viewports: dict[str, Viewport] = field(default_factory=dict)
    bytes: int = 0
    is_stale: bool = False

    def rank(self, entry: Entry) -> tuple[Rank, Entry]:
        viewport = self.viewports.get(entry.task.image, Viewport())
        return rank(entry.task, viewport, entry.arrival), entry

    def take(self) -> Entry:
        if self.is_stale:
            self.heap = [self.rank(entry) for entry in self.entries.values()]
            heapq.heapify(self.heap)
            self.is_stale = False
        return heapq.heappop(self.heap)[1]

    def discard_heap(self) -> None:
        """Clears the heap and marks it as stale. Removed tasks are then no longer referenced."""
        self.heap.clear()
        self.is_stale = True


class PendingTasks:
    def __init__(self, bounds: QueueBounds) -> None:
        self.bounds = bounds
        self.count = 0
        self.bytes = 0
        self._sessions: dict[str, _SessionQueue] = {}
        self._turns, self._background = _Turns(), _Turns()

    def add(self, entry: Entry, retry_after_ms: int) -> None:
        """Adds a task.

        Raises:
            Busy: a limit is reached. The message names the limit and its setting.
            ValueError: a task with this id is already waiting.
        """
        task, bounds = entry.task, self.bounds
        waiting = self._sessions.get(task.session) or _SessionQueue(self._turns)
        size = len(task.payload)
        if task.id in waiting.entries:
            raise ValueError(f"task {task.id!r} is already waiting")
        if len(waiting.entries) >= bounds.session_tasks:
            raise Busy(
                f"{bounds.session_tasks} slices of this session are already waiting (session_tasks)", retry_after_ms
            )
        if waiting.bytes + size > bounds.session_bytes:
            raise Busy(
                f"{bounds.session_bytes:,} bytes of this session are already waiting (session_bytes)", retry_after_ms
            )
        if self.count >= bounds.queue_tasks:
            raise Busy(f"{bounds.queue_tasks:,} slices are already waiting (queue_tasks)", retry_after_ms)
        if self.bytes + size > bounds.queue_bytes:
            raise Busy(f"{bounds.queue_bytes:,} bytes of slices are already waiting (queue_bytes)", retry_after_ms)
        self._put(waiting, entry)

    def give_back(self, entry: Entry) -> None:
        """Puts back a task that was taken but not processed, at its old rank. No limit applies, because it was accepted
        before.
        """
        self._put(self._sessions.get(entry.task.session) or _SessionQueue(self._turns), entry)

    def _put(self, waiting: _SessionQueue, entry: Entry) -> None:
        task, size = entry.task, len(entry.task.payload)
        if not waiting.entries:
            waiting.turns = self._background if task.background else self._turns
            waiting.turns.add(task.session)
            self._sessions[task.session] = waiting
        waiting.entries[task.id] = entry
        waiting.bytes += size
        self.count += 1
        self.bytes += size
        if not waiting.is_stale:
            heapq.heappush(waiting.heap, waiting.rank(entry))

    def take(self) -> Entry | None:
        """Returns the best task of the session whose turn it is, or None when no task is waiting."""
        turns = self._turns if self._turns.order else self._background
        if not turns.order:
            return None
        session = turns.next()
        waiting = self._sessions[session]
        entry = waiting.take()
        self._drop(waiting, entry)
        if waiting.entries:
            turns.order.append(session)
        elif not waiting.viewports:
            del self._sessions[session]
        return entry

    def rerank(self, session: str, image: str, viewport: Viewport) -> None:
        waiting = self._sessions.setdefault(session, _SessionQueue(self._turns))
        waiting.viewports.pop(image, None)
        waiting.viewports[image] = viewport
        if len(waiting.viewports) > _VIEWPORTS:
            del waiting.viewports[next(iter(waiting.viewports))]
        waiting.discard_heap()

    def remove(self, session: str, id: str | None = None, image: str | None = None) -> list[Entry]:
        """Removes and returns the task with this id, the tasks of this image, or all tasks of the session."""
        waiting = self._sessions.get(session)
        if waiting is None or not waiting.entries:
            return []
        if id is not None:
            gone = [waiting.entries[id]] if id in waiting.entries else []
        else:
            gone = [entry for entry in waiting.entries.values() if image is None or entry.task.image == image]
        for entry in gone:
            self._drop(waiting, entry)
        if gone:
            waiting.discard_heap()
        if not waiting.entries:
            waiting.turns.order.remove(session)
            if not waiting.viewports:
                del self._sessions[session]
        return gone

    def forget(self, session: str) -> list[Entry]:
        gone = self.remove(session)
        self._sessions.pop(session, None)
        return gone

    def clear(self) -> list[Entry]:
        return [entry for session in list(self._sessions) for entry in self.forget(session)]

    def count_of(self, session: str) -> int:
        waiting = self._sessions.get(session)
        return len(waiting.entries) if waiting else 0

    def _drop(self, waiting: _SessionQueue, entry: Entry) -> None:
        del waiting.entries[entry.task.id]
        waiting.bytes -= len(entry.task.payload)
        self.count -= 1
        self.bytes -= len(entry.task.payload)
