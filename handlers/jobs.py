"""/ws/jobs: starts, watches, cancels, answers and retries jobs (sluice.v2). docs/jobs.md has the protocol.

The events of a watched job come from its fanout, which encodes each once for all connections. First the missed events
are sent, then new ones. After a lost connection the client sends the last offset that it has seen, so it misses
nothing.
"""

import asyncio
import json
import re
from collections.abc import Coroutine
from functools import partial
from typing import Any, ClassVar, Literal

from pydantic import Field

from handlers.core.auth import Scope
from handlers.core.client_message import Message
from handlers.core.disconnects import STREAM_LOST
from handlers.core.websocket import SUBPROTOCOL, BaseWebSocketHandler
from works.errors import Busy, WorkError
from works.events.fanout import StreamFanout
from works.jobs import requests
from works.jobs.history import as_message, job_stream
from works.jobs.service import Requester

# Milliseconds after which a client may try again to watch a job.
_RETRY_AFTER = 5000
# Maximum number of concurrent requests of a connection.
_MAX_REQUESTS = 100
# The start of a message with the last event of a job.
_ENDED = re.compile(r'\{"type":"events","id":"\w+","offset":\d+,"ended":')

Id = Field(max_length=40)


class ListJobs(Message, requests.ListRequest):
    type: Literal["jobs"]


class StartJob(Message, requests.StartRequest):
    type: Literal["start"]


class WatchJob(Message):
    type: Literal["watch"]
    id: str = Id
    after: int | None = Field(None, ge=0)
    epoch: str | None = Field(None, max_length=100)


class UnwatchJob(Message):
    type: Literal["unwatch"]
    id: str = Id


class CancelJob(Message):
    type: Literal["cancel"]
    id: str = Id


class RetryJob(Message, requests.RetryRequest):
    type: Literal["retry"]
    id: str = Id


class AnswerJob(Message, requests.AnswerRequest):
    type: Literal["answer"]
    id: str = Id


class Watching:
    """A job that a connection watches. It is a listener of the job's fanout."""

    def __init__(self, socket: "JobsWebSocket", id: str) -> None:
        self.id, self._socket = id, socket
        self.fanout: StreamFanout | None = None
        self.starting: asyncio.Task[None] | None = None

    def push(self, text: str, frame: bytes) -> None:
        self._socket.push(text, frame)
        self.sent(text)

    def sent(self, text: str) -> None:
        """Sends an event. After the last event of the job, the connection stops watching it."""
        if _ENDED.match(text):
            asyncio.get_running_loop().call_soon(self._socket.unwatch, self)

    def touched(self, stream: str) -> None:
        """Called while earlier events are being sent. After them, this listener becomes a member."""

    def lost(self, stream: str) -> None:
        self._socket.disconnect(STREAM_LOST)


class JobsWebSocket(BaseWebSocketHandler):
    scope: ClassVar[Scope] = "jobs"
    description = f"Starts and watches jobs over {SUBPROTOCOL}. docs/jobs.md describes the messages."
    accepts: ClassVar[dict[str, type[Message]]] = {
        "jobs": ListJobs,
        "start": StartJob,
        "watch": WatchJob,
        "unwatch": UnwatchJob,
        "cancel": CancelJob,
        "retry": RetryJob,
        "answer": AnswerJob,
    }
    echoed_members: ClassVar[tuple[str, ...]] = ("id", "client_id")

    async def opened(self) -> None:
        self._watched: dict[str, Watching] = {}
        self._requests: set[asyncio.Task[None]] = set()
        limits = ("jobs_running_per_user", "job_watches", "job_log_bytes", "job_targets", "job_ttl")
        settings, catalog = self.services.jobs.settings, self.services.jobs.catalog
        self.send(
            {
                "type": "hello",
                "user": self.user.name,
                "admin": self._requester.is_admin,
                "expires_at": self.user.expires_at,
                "jobs": await catalog.kinds_for(self.user.scopes),
                "limits": {name: getattr(settings, name) for name in limits},
            }
        )

    @property
    def _requester(self) -> Requester:
        return Requester(self.user.name, self.user.scopes, self.base_url)

    def _start_request(self, message: Message, work: Coroutine[Any, Any, None]) -> None:
        """Runs the work of a request in a task. Raises Busy when too many requests are running."""
        if len(self._requests) >= _MAX_REQUESTS:
            work.close()
            raise Busy(f"{_MAX_REQUESTS} requests of this connection are under way already", 1000)
        self._spawn_request(message, work)

    def _spawn_request(self, message: Message, work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        task = self.spawn(self._run(message, work))
        self._requests.add(task)
        task.add_done_callback(self._requests.discard)
        return task

    async def _run(self, message: Message, work: Coroutine[Any, Any, None]) -> None:
        """Awaits the work. When it fails, sends the error with the members that identify the request."""
        members = ((name, getattr(message, name, None)) for name in self.echoed_members)
        echoed = {name: value for name, value in members if value is not None}
        try:
            await work
        except WorkError as error:
            self.reply_error(error, echoed)
        except OSError:
            self.reply_error(WorkError("internal", "the log cannot be reached; try again", temporary=True), echoed)

    def on_jobs(self, message: ListJobs, payload: memoryview) -> None:
        self._start_request(message, self._list(message))

    async def _list(self, message: ListJobs) -> None:
        await self.deliver(json.dumps({"type": "jobs", **await self.services.jobs.list(self._requester, message)}))

    def on_start(self, message: StartJob, payload: memoryview) -> None:
        self._start_request(message, self._accept(message, self.services.jobs.start(self._requester, message)))

    def on_retry(self, message: RetryJob, payload: memoryview) -> None:
        self._start_request(
            message, self._accept(message, self.services.jobs.retry(self._requester, message.id, message))
        )

    async def _accept(self, message: StartJob | RetryJob, work: Coroutine[Any, Any, tuple[str, bool]]) -> None:
        """Starts a job, even when the connection closes. A client that reconnects sends the same
        ``client_id`` again.
        """
        starting = asyncio.ensure_future(work)
        starting.add_done_callback(lambda done: done.cancelled() or done.exception())
        id, new = await asyncio.shield(starting)
        self.send({"type": "accepted", "client_id": message.client_id, "id": id, "repeated": not new})

    def on_cancel(self, message: CancelJob, payload: memoryview) -> None:
        self._start_request(message, self._cancel(message))

    async def _cancel(self, message: CancelJob) -> None:
        state = await self.services.jobs.cancel(self._requester, message.id)
        self.send({"type": "cancelling", "id": message.id, "state": state})

    def on_answer(self, message: AnswerJob, payload: memoryview) -> None:
        self._start_request(message, self._answer(message))

    async def _answer(self, message: AnswerJob) -> None:
        await self.services.jobs.answer(self._requester, message.id, message)
        self.send({"type": "answered", "id": message.id, "approval": message.approval})

    def on_watch(self, message: WatchJob, payload: memoryview) -> None:
        """Starts to watch a job. Raises WorkError when it is watched already, Busy at a limit."""
        if message.id in self._watched:
            raise WorkError("bad_message", "id: the job is watched already")
        limit = self.services.jobs.settings.job_watches
        if len(self._watched) >= limit:
            raise Busy(f"{limit} jobs are watched by this connection; unwatch one (job_watches)", _RETRY_AFTER)
        watching = self._watched[message.id] = Watching(self, message.id)
        watching.starting = self._spawn_request(message, self._watch(message, watching))

    async def _watch(self, message: WatchJob, watching: Watching) -> None:
        try:
            await self._start_watching(message, watching)
        except BaseException:
            self.unwatch(watching)
            raise

    async def _start_watching(self, message: WatchJob, watching: Watching) -> None:
        jobs, id, stream = self.services.jobs, message.id, job_stream(message.id)
        first = await jobs.may_see(self._requester, id)
        fanout = watching.fanout = await jobs.fanout.open(stream, partial(as_message, id), watching)
        limit = jobs.settings.job_watchers
        if len(fanout.listeners) > limit:
            raise Busy(f"{limit} connections watch this job already (job_watchers)", _RETRY_AFTER)
        after = message.after
        recovered = after is not None and await jobs.broker.recovers(stream, message.epoch or fanout.epoch, after)
        answer: dict[str, Any] = {"type": "watching", "id": id, "epoch": fanout.epoch, "recovered": recovered}
        answer |= {"job": first.job, "user": first.user, "at": first.at}
        if after is not None and recovered:
            answer |= {"offset": after, "snapshot": None}
        else:
            history = await jobs.read_history(self._requester, id)
            after = history.offset
            answer |= {"offset": after, "snapshot": history.snapshot()}
            answer["recovered"] = message.after is None
        await self.deliver(json.dumps(answer, separators=(",", ":")))
        if answer["snapshot"] and history.ended:
            return self.unwatch(watching)
        async for text in fanout.replay(after):
            await self.deliver(text)
            watching.sent(text)
        fanout.members[watching] = max(after, fanout.offset)

    def on_unwatch(self, message: UnwatchJob, payload: memoryview) -> None:
        if watching := self._watched.get(message.id):
            self.unwatch(watching)
        self.send({"type": "unwatched", "id": message.id})

    def unwatch(self, watching: Watching) -> None:
        """Stops watching the job."""
        if self._watched.get(watching.id) is watching:
            del self._watched[watching.id]
        if watching.fanout:
            self.services.jobs.fanout.leave(watching.fanout, watching)
            watching.fanout = None
        if watching.starting and watching.starting is not asyncio.current_task():
            # removed now, because the next request may arrive before the task has ended
            self._requests.discard(watching.starting)
            watching.starting.cancel()

    def closed(self) -> None:
        for watching in list(self._watched.values()):
            self.unwatch(watching)


routes = [(r"/ws/jobs", JobsWebSocket)]
