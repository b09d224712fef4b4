"""A Session is the work of one client, independent of its connection: its waiting slices and the stream of its results.

When a client reconnects within ``session_grace``, its slices are still being processed. Later it finds the events on
the stream. The name of the stream contains the user, so no other user can resume the session.
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
# How many ids of ended slices are remembered, so that a second slice with the same id is refused.
_ENDED_IDS = 10_000
# For how many pictures of a session the progress is counted. The picture whose progress is oldest is forgotten first.
_IMAGES = 256


@dataclass(slots=True)
class Progress:
    done: int = 0
    failed: int = 0
    total: int = 0
    changed: bool = False


Encode = Callable[[Result | WorkError], str]
"""Turns the outcome of a task into an event of the session's stream: a JSON object as text."""


class Holder(Protocol):
    """The connection that holds a session."""

    def taken_over(self) -> None:
        """Called when another connection has resumed the session."""


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
        """Whether the stream has no event yet. Then no client can have missed one."""
        return not self._ended

    def submit(self, task: Task, encode: Encode) -> int:
        """Accepts a slice. Returns how many slices of this session are waiting.

        Raises Busy when a limit is reached, WorkError when the id was used before.
        """
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
        """Cancels the waiting slices, because the client has left or did not reconnect in time."""
        self._queue.forget(self.id)

    def take_progress(self) -> list[tuple[str, Progress]]:
        """Returns name and progress of each picture of which a slice has ended since the last call."""
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
            # The broker was unavailable for longer than its buffer lasts. A client that resumes gets ``recovered``
            # false.
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
    """All sessions of this process. ``most``: how many sessions may wait for their client. Beyond it, the
    oldest ends.
    """

    def __init__(self, broker: Broker, queue: WorkQueue, settings: SessionSettings, *, most: int = 10_000) -> None:
        self._broker, self._queue, self._settings, self._most = broker, queue, settings, most
        self._sessions: dict[str, Session] = {}
        # Streams of sessions without a connection, oldest first, with the timer that ends each.
        self._grace_timers: dict[str, asyncio.TimerHandle] = {}
        self._expiring: set[asyncio.Task[None]] = set()

    async def begin(self, user: str, holder: Holder) -> Session:
        session = await self._open(secrets.token_hex(16), user)
        session.holder = holder
        return session

    async def resume(self, user: str, id: str, epoch: str, after: int, holder: Holder) -> Session | None:
        """Takes the session over from its previous connection. Returns None when events after ``after`` are no longer
        retained.
        """
        stream = stream_of(user, id)
        live = self._sessions.get(stream)
        nothing_missed = live is not None and live.is_stream_empty and (live.epoch, 0) == (epoch, after)
        if not nothing_missed and not (_ID.fullmatch(id) and await self._broker.recovers(stream, epoch, after)):
            return None
        session = self._sessions.get(stream) or await self._open(id, user)
        # No await below: a cancellation leaves the session either fully taken over or untouched.
        if session.holder:
            session.holder.taken_over()
        session.holder = holder
        session.used = True
        self._stop_timer(stream)
        self._expire_soon(stream, None)
        return session

    def release(self, session: Session, holder: Holder, *, final: bool) -> None:
        """Detaches the closed connection. ``final``: the client has said that it will not reconnect."""
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
        """Waits until the outcome of every slice is on its stream. To be called after the queue is closed."""
        sessions = self._sessions.values()
        await asyncio.gather(*(task for session in sessions for task in list(session.pending.values())))
        await asyncio.gather(*self._expiring)

    def _expire_soon(self, stream: str, seconds: float | None) -> None:
        """Sets when the stream expires. The order of calls is kept, because tasks start in the order of
        their creation.
        """
        task = asyncio.get_running_loop().create_task(self._expire(stream, seconds))
        self._expiring.add(task)
        task.add_done_callback(self._expiring.discard)

    async def _expire(self, stream: str, seconds: float | None) -> None:
        with suppress(OSError):  # The disk is full. The session works without the change.
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
