"""Runs one job, from the call of its function to the last event.

A function that is stopped has ``job_cancel_timeout`` seconds to clean up. If it has not ended by then, it is closed at
its current await, and the last event names the targets in an unknown state.
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
from works.jobs.history import JobHistory, dumps, is_end, is_request, job_stream
from works.jobs.history_writer import HistoryWriter
from works.jobs.resources import JobResources
from works.queue import WorkQueue

log = structlog.get_logger()

# Maximum number of characters of a result, which is part of the last event.
_LONGEST_RESULT = 256 << 10
# Seconds before a failed read is repeated.
_RETRY_DELAY = 0.5
Outcome = asyncio.Future[dict[str, Any] | None]
Stop = Literal["cancelled", "interrupted", "lost"]


class JobExecution:
    """``history`` is the state so far. ``done`` ends when the last event is written."""

    def __init__(
        self,
        kind: Job,
        params: BaseModel,
        history: JobHistory,
        only: frozenset[str] | None,
        base_url: str,
        resources: JobResources,
        broker: Broker,
        queue: WorkQueue,
    ) -> None:
        self.id, self.user, self.kind = history.id, history.user, kind
        self.history = history
        self._resources, self._broker = resources, broker
        self._writer = HistoryWriter(broker, job_stream(history.id), resources.settings, self.lose)
        self.context = ExecutionContext(history.id, history.user, only, resources, queue, self._writer, base_url)
        self._stop: asyncio.Future[tuple[Stop, str]] = asyncio.get_running_loop().create_future()
        self._stop_timeout = resources.settings.job_cancel_timeout
        self._has_ended = False
        self._coroutine = _call_function(kind, self.context, params)
        self._function: Outcome = asyncio.create_task(self._coroutine)
        self._ended_itself = True
        self._follower = asyncio.create_task(self._follow())
        self.done = asyncio.create_task(self._run())

    def stop(self, state: Stop, why: str, timeout: float | None = None) -> None:
        """Stops the function. Only the first call counts. ``timeout``: seconds to clean up, if shorter than usual."""
        self._stop_timeout = min(self._stop_timeout, timeout or self._stop_timeout)
        if not self._stop.done():
            self._ended_itself = self._function.done()
            self._stop.set_result((state, why))
            self._function.cancel()

    @property
    def was_lost(self) -> bool:
        return self._stop.done() and self._stop.result()[0] == "lost" and not self._has_ended

    def lose(self) -> None:
        """Called when another process has taken or ended the job. Nothing more is written by this process."""
        self.stop("lost", "")
        self._writer.stop()

    async def _follow(self) -> None:
        """Follows the stream, which has the requests of users to this job."""
        try:
            async for events in self._broker.subscribe(job_stream(self.id), self.history.offset):
                for event in events:
                    self.history.add(event)
                    if is_request(event):
                        self._apply(event)
                    elif is_end(event):
                        self.lose()
        except (PositionLost, OSError):
            self.lose()
        except Exception:
            log.exception("job.watch_failed", job=self.id)
            self.lose()

    def _apply(self, event: Event) -> None:
        if self.history.state == "cancelling":
            self.stop("cancelled", "the job was cancelled")
        else:
            self.context.deliver_answers(event)

    async def _run(self) -> None:
        ends: set[asyncio.Future[Any]] = {self._function, self._stop}
        try:
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            await asyncio.wait({self._function}, timeout=self._stop_timeout)
            await self._end()
        finally:
            self._close()
            self._follower.cancel()
            self._writer.stop()
            await self.context.close()

    def _close(self) -> None:
        """Ends a function that ignores CancelledError, by raising GeneratorExit at its current await."""
        if not self._function.done():
            self._function.add_done_callback(lambda done: done.cancelled() or done.exception())
            with suppress(RuntimeError):  # it ignores that too and continues
                self._coroutine.close()
            self._function.cancel()

    async def _end(self) -> None:
        self.context.ended = True
        state, event = self._outcome()
        if state == "lost":
            log.warning("job.lost", job=self.id, kind=self.kind.name, user=self.user)
            return
        self.context.add_lines_cut(event)
        await self._writer.flush()
        await self._catch_up()
        await self._writer.end(state, self.history.end_members(**event))
        self._has_ended = True
        log.info("job.ended", job=self.id, kind=self.kind.name, user=self.user, state=state, code=event.get("code"))

    async def _catch_up(self) -> None:
        """Reads the events that were written since the last read. Retries until it succeeds."""
        stream = job_stream(self.id)
        while True:
            with suppress(OSError):
                while events := await self._broker.read(stream, self.history.offset, 32):
                    for event in events:
                        self.history.add(event)
                return
            await asyncio.sleep(_RETRY_DELAY)

    def _outcome(self) -> tuple[str, dict[str, Any]]:
        """Returns the final state of the job, and the members of its last event."""
        state, why = self._stop.result() if self._stop.done() else ("", "")
        if state == "lost":
            return state, {}
        if not self._function.done():
            log.error("job.not_stopped", job=self.id, kind=self.kind.name)
            why += (
                f"; it did not stop within {self._stop_timeout:g} s and was killed; its targets are in an unknown state"
            )
            return state, {"code": "timeout", "message": why}
        outcome, event = self._function_outcome(self._function)
        if self._ended_itself:
            return outcome, event
        return state, {**event, "code": state, "message": why}

    def _function_outcome(self, function: Outcome) -> tuple[str, dict[str, Any]]:
        if function.cancelled():
            return "failed", {"code": "cancelled", "message": "the job has cancelled itself"}
        error = function.exception()
        if isinstance(error, JobFailed):
            return "failed", {"code": error.code, "message": error.message, **_result(error.result)}
        if isinstance(error, WorkError):
            return "failed", {"code": error.code, "message": error.message}
        if error is not None:
            log.error("job.crashed", job=self.id, kind=self.kind.name, exc_info=error)
            return "failed", {
                "code": "internal",
                "message": "the job failed because of a fault in its code; the server's log has the details",
            }
        return "succeeded", _result(function.result())


async def _call_function(kind: Job, context: JobContext, params: BaseModel) -> dict[str, Any] | None:
    """Calls the job's function as a coroutine, whatever awaitable it returns."""
    return await kind.function(context, params)


def _result(result: dict[str, Any] | None) -> dict[str, Any]:
    """Returns the member ``result``. It is None, with the reason in ``cut``, when the result is not JSON or
    too long.
    """
    try:
        text = dumps(result)
    except (TypeError, ValueError):
        return {"result": None, "cut": "the result is not JSON"}
    if len(text) > _LONGEST_RESULT:
        return {
            "result": None,
            "cut": f"the result has {len(text):,} characters; at most {_LONGEST_RESULT:,} are stored",
        }
    return {"result": result}
