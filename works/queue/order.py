"""Which waiting task is worked next: a heap by Rank for each session, and turns between the sessions. No clock, no I/O.

Within a session the nearest to the viewport comes first, then the topmost, then the first come. Sessions in the
background have their turns when no other session waits, however long that takes.

Taking costs O(log n). A viewport that moves, or a cancel, makes its session's heap stale; the heap is built again once,
when the next task is taken from it, however much has changed in between.
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

# Pictures per session whose viewport is remembered; the one longest unmoved is forgotten first.
_VIEWPORTS = 256


class Viewport(NamedTuple):
    """What the reader sees of one picture, in source pixels from its top; it may lie outside the picture."""

    top: float = 0
    height: float = 0


class Rank(NamedTuple):
    """The place of a task among those of its session; the lowest is worked first."""

    distance: float
    offset_top: float
    arrival: int


def rank(task: Task, viewport: Viewport, arrival: int) -> Rank:
    """Distance is that between the bands of the slice and the viewport, 0 where they touch or overlap."""
    above = viewport.top - (task.offset_top + task.height)
    below = task.offset_top - (viewport.top + viewport.height)
    return Rank(max(above, below, 0), task.offset_top, arrival)


@dataclass(eq=False, slots=True)
class Entry:
    """A task on its way through the queue; times are loop seconds.

    ``attempts`` is there while a child of this process works it, ``deadline`` while a thread does; ``key`` names it to
    a cluster that it was given to.
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
    """The sessions that wait, in the order they will be served."""

    order: deque[str] = field(default_factory=deque)
    served: str = ""

    def add(self, session: str) -> None:
        """The session served last has just had a turn, and stands behind those that come now."""
        at_end = bool(self.order) and self.order[-1] == self.served
        self.order.insert(len(self.order) - at_end, session)

    def next(self) -> str:
        self.served = self.order.popleft()
        return self.served


@dataclass(slots=True)
class _SessionQueue:
    """What waits of one session. The heap holds the same entries, unless `is_stale`."""

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
        """Makes the heap stale, and no task lives on in it that is gone from ``entries``."""
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
        """Raises Busy, naming the bound and the setting that holds it; ValueError for an id that is waiting."""
        task, bounds = entry.task, self.bounds
        waiting = self._sessions.get(task.session) or _SessionQueue(self._turns)
        size = len(task.payload)
        if task.id in waiting.entries:
            raise ValueError(f"task {task.id!r} is already waiting")
        if len(waiting.entries) >= bounds.session_tasks:
            raise Busy(f"{bounds.session_tasks} slices of this session wait already (session_tasks)", retry_after_ms)
        if waiting.bytes + size > bounds.session_bytes:
            raise Busy(f"{bounds.session_bytes:,} bytes of this session wait already (session_bytes)", retry_after_ms)
        if self.count >= bounds.queue_tasks:
            raise Busy(f"{bounds.queue_tasks:,} slices wait already (queue_tasks)", retry_after_ms)
        if self.bytes + size > bounds.queue_bytes:
            raise Busy(f"the server holds {bounds.queue_bytes:,} bytes of slices (queue_bytes)", retry_after_ms)
        self._put(waiting, entry)

    def give_back(self, entry: Entry) -> None:
        """Has a task wait again that was taken and not worked, at its old rank. It was accepted: no bound is asked."""
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
        """The best task of the session whose turn it is; None when nothing waits."""
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
        """Takes out the task of that id, those of that image, or all of the session's."""
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
