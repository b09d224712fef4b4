"""A Session is one client's slices, by whichever connection they come: those that wait, and a stream of their results.

A client that reconnects within ``session_grace`` finds its slices still being processed; later it finds what is on the
stream. The user is part of the stream's name, so a session cannot be resumed by another user.
"""

import asyncio
import re
import secrets
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

import structlog
from pydantic import Field, model_validator

from works.errors import WorkError
from works.events.broker import Broker
from works.imaging.task import Result, Task
from works.queue import WorkQueue
from works.queue.order import Viewport
from works.settings import Seconds, SettingsGroup

log = structlog.get_logger()

_ID = re.compile(r"[0-9a-f]{32}")
# Ids of ended slices remembered, so that a second slice of the same id is refused rather than mixed up.
_ENDED_IDS = 10_000
# Pictures whose progress is counted; the one that has not changed for longest is forgotten first.
_IMAGES = 256


@dataclass(slots=True)
class Progress:
    done: int = 0
    failed: int = 0
    total: int = 0
    changed: bool = False


Encode = Callable[[Result | WorkError], str]
"""Writes what a task ended in as an event of the session's stream, a JSON object as text."""


class Holder(Protocol):
    """The connection by which a session is held."""

    def taken_over(self) -> None:
        """Another connection has resumed the session."""


class Session:
    def __init__(self, id: str, user: str, epoch: str, broker: Broker, queue: WorkQueue) -> None:
        self.id, self.user, self.epoch = id, user, epoch
        self.stream = stream_of(user, id)
        self.pending: dict[str, asyncio.Task[None]] = {}
        self.progress: dict[str, Progress] = {}
        self.used = False
        self.holder: Holder | None = None
        self._broker, self._queue = broker, queue
        self._ended: dict[str, None] = {}

    @property
    def is_stream_empty(self) -> bool:
        """Whether its stream has no event yet, so that no client can have missed one."""
        return not self._ended

    def submit(self, task: Task, encode: Encode) -> int:
        """Accepts the slice; how many of this session now wait. Raises Busy, or WorkError for an id used before."""
        if task.id in self.pending or task.id in self._ended:
            raise WorkError("bad_message", f"id: {task.id!r} was already used in this session")
        future = self._queue.submit(task)
        self.used = True
        self.pending[task.id] = asyncio.create_task(self._follow(task, encode, future))
        self._count(task.image).total += 1
        return len(self.pending)

    def rerank(self, image: str, viewport: Viewport) -> None:
        self._queue.rerank(self.id, image, viewport)

    def cancel(self, *, id: str | None = None, image: str | None = None) -> int:
        return self._queue.cancel(self.id, id=id, image=image)

    def abandon(self) -> None:
        """The client is gone for good, or for too long: what waits is cancelled."""
        self._queue.forget(self.id)

    def take_progress(self) -> list[tuple[str, Progress]]:
        """Image and progress of each picture of which a slice has ended since the last call."""
        changed = [(image, counted) for image, counted in self.progress.items() if counted.changed]
        for _, counted in changed:
            counted.changed = False
        return changed

    def _count(self, image: str) -> Progress:
        counted = self.progress.pop(image, None) or Progress()
        self.progress[image] = counted
        if len(self.progress) > _IMAGES:
            del self.progress[next(iter(self.progress))]
        return counted

    async def _follow(self, task: Task, encode: Encode, future: "asyncio.Future[Result]") -> None:
        outcome: Result | WorkError
        try:
            outcome = await future
        except WorkError as error:
            outcome = error
        done = isinstance(outcome, Result)
        counted = self._count(task.image)
        counted.done += done
        counted.failed += not done
        counted.changed = True
        self._ended[task.id] = None
        if len(self._ended) > _ENDED_IDS:
            del self._ended[next(iter(self._ended))]
        try:
            await self._broker.append(self.stream, encode(outcome), durable=False)
        except OSError as error:
            # The broker was away for longer than it can make up for; a client that resumes gets ``recovered`` false.
            log.error("session.event_lost", stream=self.stream, id=task.id, reason=str(error))
        finally:
            del self.pending[task.id]


class SessionSettings(SettingsGroup):
    """How long a session outlives its connection."""

    session_grace: Seconds = Field(
        30, description="Seconds that the slices of a session are still processed after its connection is lost."
    )
    session_ttl: Seconds = Field(
        600, description="Seconds after the close in which a session can be resumed. At least session_grace."
    )

    @model_validator(mode="after")
    def _resumable_while_working(self) -> "SessionSettings":
        if self.session_ttl < self.session_grace:
            raise ValueError("session_ttl must not be shorter than session_grace")
        return self


class Sessions:
    """All sessions of this process. ``most``: how many may wait for their client at once; the oldest ends first."""

    def __init__(self, broker: Broker, queue: WorkQueue, settings: SessionSettings, *, most: int = 10_000) -> None:
        self._broker, self._queue, self._settings, self._most = broker, queue, settings, most
        self._sessions: dict[str, Session] = {}
        # Streams of the sessions without a connection, oldest first, with the timers that end them.
        self._grace_timers: dict[str, asyncio.TimerHandle] = {}
        self._expiring: set[asyncio.Task[None]] = set()

    async def begin(self, user: str, holder: Holder) -> Session:
        session = await self._open(secrets.token_hex(16), user)
        session.holder = holder
        return session

    async def resume(self, user: str, id: str, epoch: str, after: int, holder: Holder) -> Session | None:
        """The session, taken from the connection that held it; None when events after ``after`` cannot be read."""
        stream = stream_of(user, id)
        live = self._sessions.get(stream)
        nothing_missed = live is not None and live.is_stream_empty and (live.epoch, 0) == (epoch, after)
        if not nothing_missed and not (_ID.fullmatch(id) and await self._broker.recovers(stream, epoch, after)):
            return None
        session = self._sessions.get(stream) or await self._open(id, user)
        # Nothing is awaited from here on: a caller who is cancelled holds the session, or has not touched it.
        if session.holder:
            session.holder.taken_over()
        session.holder = holder
        session.used = True
        self._stop_timer(stream)
        self._expire_soon(stream, None)
        return session

    def release(self, session: Session, holder: Holder, *, final: bool) -> None:
        """The connection is closed; ``final``: the client has said that it will not come back."""
        if session.holder is not holder:
            return
        session.holder = None
        if final or not session.used:
            self._end(session)
        else:
            timer = asyncio.get_running_loop().call_later(self._settings.session_grace, self._end, session)
            self._grace_timers[session.stream] = timer
            if len(self._grace_timers) > self._most:
                self._end(self._sessions[next(iter(self._grace_timers))])
        if session.used:
            self._expire_soon(session.stream, self._settings.session_ttl)

    async def settle(self) -> None:
        """Waits until the end of every slice is on its stream. Called when the queue is closed."""
        sessions = self._sessions.values()
        await asyncio.gather(*(task for session in sessions for task in list(session.pending.values())))
        await asyncio.gather(*self._expiring)

    def _expire_soon(self, stream: str, seconds: float | None) -> None:
        """Expires the stream, in the order of the calls: tasks begin in the order in which they were created."""
        task = asyncio.get_running_loop().create_task(self._expire(stream, seconds))
        self._expiring.add(task)
        task.add_done_callback(self._expiring.discard)

    async def _expire(self, stream: str, seconds: float | None) -> None:
        with suppress(OSError):  # the disk is full: the session goes on all the same
            await self._broker.expire(stream, seconds)

    def _end(self, session: Session) -> None:
        self._stop_timer(session.stream)
        self._sessions.pop(session.stream, None)
        session.abandon()

    def _stop_timer(self, stream: str) -> None:
        timer = self._grace_timers.pop(stream, None)
        if timer:
            timer.cancel()

    async def _open(self, id: str, user: str) -> Session:
        position = await self._broker.position(stream_of(user, id))
        session = Session(id, user, position.epoch, self._broker, self._queue)
        return self._sessions.setdefault(session.stream, session)


def stream_of(user: str, session: str) -> str:
    return f"session/{user}/{session}"
