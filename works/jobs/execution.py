"""A job that runs here: its function from start to last event, however that comes about.

Whoever wants it to stop says why; the function then has ``job_cancel_timeout`` seconds to clear away. One that does
not end by then is closed where it stands, and the last event says what is not known.
"""

import asyncio
from contextlib import suppress
from typing import Any, Literal

import structlog
from pydantic import BaseModel

from works.errors import WorkError
from works.events.broker import Broker, Event, PositionLost
from works.jobs import Job, JobContext, JobFailed
from works.jobs.context import ExecutionContext
from works.jobs.history import JobHistory, dumps, is_end, is_told, stream_of
from works.jobs.history_writer import HistoryWriter
from works.jobs.resources import JobResources
from works.queue import WorkQueue

log = structlog.get_logger()

# Characters of a result, of which the last event and every list of events must be.
_LONGEST_RESULT = 256 << 10
# Seconds until a log that could not be read is tried again.
_AGAIN = 0.5
Outcome = asyncio.Future[dict[str, Any] | None]
Stop = Literal["cancelled", "interrupted", "lost"]


class JobExecution:
    """``story`` is what it told so far, as of now; ``done`` ends when the last event is written."""

    def __init__(
        self,
        kind: Job,
        params: BaseModel,
        story: JobHistory,
        only: frozenset[str] | None,
        base_url: str,
        resources: JobResources,
        events: Broker,
        queue: WorkQueue,
    ) -> None:
        self.id, self.user, self.kind = story.id, story.user, kind
        self.story = story
        self._resources, self._events = resources, events
        self._writer = HistoryWriter(events, stream_of(story.id), resources.settings, self.lose)
        self.context = ExecutionContext(story.id, story.user, only, resources, queue, self._writer, base_url)
        self._stop: asyncio.Future[tuple[Stop, str]] = asyncio.get_running_loop().create_future()
        self._patience = resources.settings.job_cancel_timeout
        self._has_ended = False
        self._coroutine = _called(kind, self.context, params)
        self._function: Outcome = asyncio.create_task(self._coroutine)
        self._by_itself = True
        self._following = asyncio.create_task(self._follow())
        self.done = asyncio.create_task(self._run())

    def stop(self, state: Stop, why: str, patience: float | None = None) -> None:
        """The first to say so counts. ``patience``: seconds that its function has, if they are fewer than usual."""
        self._patience = min(self._patience, patience or self._patience)
        if not self._stop.done():
            self._by_itself = self._function.done()
            self._stop.set_result((state, why))
            self._function.cancel()

    @property
    def was_lost(self) -> bool:
        return self._stop.done() and self._stop.result()[0] == "lost" and not self._has_ended

    def lose(self) -> None:
        """The story has gone on without us: nothing we do counts any more."""
        self.stop("lost", "")
        self._writer.stop()

    async def _follow(self) -> None:
        """Reads the story as it is told, for what others say in it."""
        try:
            async for events in self._events.subscribe(stream_of(self.id), self.story.offset):
                for event in events:
                    self.story.add(event)
                    if is_told(event):
                        self._heed(event)
                    elif is_end(event):
                        self.lose()
        except (PositionLost, OSError):
            self.lose()

    def _heed(self, event: Event) -> None:
        if self.story.state == "cancelling":
            self.stop("cancelled", "it was cancelled")
        else:
            self.context.answered(event)

    async def _run(self) -> None:
        ends: set[asyncio.Future[Any]] = {self._function, self._stop}
        try:
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            await asyncio.wait({self._function}, timeout=self._patience)
            await self._end()
        finally:
            self._close()
            self._following.cancel()
            self._writer.stop()
            await self.context.close()

    def _close(self) -> None:
        """Ends a function that is deaf to CancelledError: GeneratorExit is raised where it waits."""
        if not self._function.done():
            self._function.add_done_callback(lambda done: done.cancelled() or done.exception())
            with suppress(RuntimeError):  # it is deaf to that, too; what it does goes on
                self._coroutine.close()
            self._function.cancel()

    async def _end(self) -> None:
        self.context.ended = True
        state, event = self._outcome()
        if state == "lost":
            log.warning("job lost", job=self.id, kind=self.kind.name, user=self.user)
            return
        self.context.say_what_was_cut(event)
        await self._writer.flush()
        await self._catch_up()
        await self._writer.end(state, self.story.last(**event))
        self._has_ended = True
        log.info("job ended", job=self.id, kind=self.kind.name, user=self.user, state=state, code=event.get("code"))

    async def _catch_up(self) -> None:
        """Reads what is written of the story; waits for a log that is away."""
        stream = stream_of(self.id)
        while True:
            with suppress(OSError):
                while events := await self._events.read(stream, self.story.offset, 32):
                    for event in events:
                        self.story.add(event)
                return
            await asyncio.sleep(_AGAIN)

    def _outcome(self) -> tuple[str, dict[str, Any]]:
        """The state it ended in, and the members of its last event."""
        state, why = self._stop.result() if self._stop.done() else ("", "")
        if state == "lost":
            return state, {}
        if not self._function.done():
            log.error("job does not stop", job=self.id, kind=self.kind.name)
            why += f"; it did not stop within {self._patience:g} s and was cut off: what it left is not known"
            return state, {"code": "timeout", "message": why}
        came_of, event = self._came_of(self._function)
        if self._by_itself:
            return came_of, event
        return state, {**event, "code": state, "message": why}

    def _came_of(self, function: Outcome) -> tuple[str, dict[str, Any]]:
        if function.cancelled():
            return "failed", {"code": "cancelled", "message": "it has cancelled itself"}
        error = function.exception()
        if isinstance(error, JobFailed):
            return "failed", {"code": error.code, "message": error.message, **_result(error.result)}
        if isinstance(error, WorkError):
            return "failed", {"code": error.code, "message": error.message}
        if error is not None:
            log.error("failed", job=self.id, kind=self.kind.name, exc_info=error)
            return "failed", {"code": "internal", "message": "the job broke; the server's log says how"}
        return "succeeded", _result(function.result())


async def _called(kind: Job, context: JobContext, params: BaseModel) -> dict[str, Any] | None:
    """The job's function as a coroutine, whatever it gives back to be awaited."""
    return await kind.function(context, params)


def _result(result: dict[str, Any] | None) -> dict[str, Any]:
    """The member ``result``; without it, and saying so, when it cannot be told."""
    try:
        text = dumps(result)
    except (TypeError, ValueError):
        return {"result": None, "cut": "the result is no JSON"}
    if len(text) > _LONGEST_RESULT:
        return {"result": None, "cut": f"the result has {len(text):,} characters, at most {_LONGEST_RESULT:,} are kept"}
    return {"result": result}
