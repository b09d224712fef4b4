"""/ws/jobs: starts, watches, cancels, answers and retries jobs (sluice.v2). docs/jobs.md has the protocol.

A watched job's story comes by its hub, encoded once however many watch it: first what this connection has not seen of
it, then what happens. A connection that is lost loses nothing: it says the last offset it saw.
"""

import asyncio
import json
import re
from collections.abc import Coroutine
from functools import partial
from typing import Any, ClassVar, Literal

from pydantic import Field

from handlers.core.auth import Scope
from handlers.core.disconnects import STREAM_LOST
from handlers.core.websocket import SUBPROTOCOL, BaseWebSocketHandler, Message
from works.errors import Busy, WorkError
from works.events.fanout import StreamFanout
from works.jobs import requests as asks
from works.jobs.history import as_message, job_stream
from works.jobs.service import Requester

# Milliseconds after which to ask again whether a job may be watched, and requests of a connection under way at once.
_SOON, _MOST_ASKED = 5000, 100
# What begins the last event of a story on the wire.
_ENDED = re.compile(r'\{"type":"events","id":"\w+","offset":\d+,"ended":')

Id = Field(max_length=40)


class ListJobs(Message, asks.ListRequest):
    type: Literal["jobs"]


class StartJob(Message, asks.StartRequest):
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


class RetryJob(Message, asks.RetryRequest):
    type: Literal["retry"]
    id: str = Id


class AnswerJob(Message, asks.AnswerRequest):
    type: Literal["answer"]
    id: str = Id


class Watching:
    """This connection, watching one job: a listener of the job's hub."""

    def __init__(self, socket: "JobsWebSocket", id: str) -> None:
        self.id, self._socket = id, socket
        self.hub: StreamFanout | None = None
        self.begun: asyncio.Task[None] | None = None

    def push(self, text: str, frame: bytes) -> None:
        self._socket.push(text, frame)
        self.seen(text)

    def seen(self, text: str) -> None:
        """After the last event there is nothing more to hear."""
        if _ENDED.match(text):
            asyncio.get_running_loop().call_soon(self._socket.unwatch, self)

    def touched(self, stream: str) -> None:
        """It is told what came before; then it joins in."""

    def lost(self, stream: str) -> None:
        self._socket.disconnect(STREAM_LOST)


class JobsWebSocket(BaseWebSocketHandler):
    scope: ClassVar[Scope] = "jobs"
    description = f"It speaks {SUBPROTOCOL}: start jobs and watch how they go; docs/jobs.md tells it all."
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
        self._asked: set[asyncio.Task[None]] = set()
        told = ("jobs_running_per_user", "job_watches", "job_log_bytes", "job_targets", "job_ttl")
        settings, offers = self.services.jobs.settings, self.services.jobs.catalog
        self.send(
            {
                "type": "hello",
                "user": self.user.name,
                "admin": self._who.is_admin,
                "expires_at": self.user.expires_at,
                "jobs": await offers.kinds_for(self.user.scopes),
                "limits": {name: getattr(settings, name) for name in told},
            }
        )

    @property
    def _who(self) -> Requester:
        return Requester(self.user.name, self.user.scopes, self.base_url)

    def _ask(self, message: Message, work: Coroutine[Any, Any, None]) -> None:
        """Does it beside the socket, a bounded number at once; an error says the names it was asked by."""
        if len(self._asked) >= _MOST_ASKED:
            work.close()
            raise Busy(f"{_MOST_ASKED} requests of this connection are under way already", 1000)
        self._try(message, work)

    def _try(self, message: Message, work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        trying = self.spawn(self._tried(message, work))
        self._asked.add(trying)
        trying.add_done_callback(self._asked.discard)
        return trying

    async def _tried(self, message: Message, work: Coroutine[Any, Any, None]) -> None:
        given = ((name, getattr(message, name, None)) for name in self.echoed_members)
        named = {name: value for name, value in given if value is not None}
        try:
            await work
        except WorkError as error:
            self.reply_error(error, named)
        except OSError:
            self.reply_error(WorkError("internal", "the log cannot be reached; try again", temporary=True), named)

    def on_jobs(self, message: ListJobs, payload: memoryview) -> None:
        self._ask(message, self._list(message))

    async def _list(self, message: ListJobs) -> None:
        await self.deliver(json.dumps({"type": "jobs", **await self.services.jobs.list(self._who, message)}))

    def on_start(self, message: StartJob, payload: memoryview) -> None:
        self._ask(message, self._started(message, self.services.jobs.start(self._who, message)))

    def on_retry(self, message: RetryJob, payload: memoryview) -> None:
        self._ask(message, self._started(message, self.services.jobs.retry(self._who, message.id, message)))

    async def _started(self, message: StartJob | RetryJob, work: Coroutine[Any, Any, tuple[str, bool]]) -> None:
        """What is begun is done, whoever goes: a client that comes back asks with the same ``client_id``."""
        begun = asyncio.ensure_future(work)
        begun.add_done_callback(lambda done: done.cancelled() or done.exception())
        id, new = await asyncio.shield(begun)
        self.send({"type": "accepted", "client_id": message.client_id, "id": id, "repeated": not new})

    def on_cancel(self, message: CancelJob, payload: memoryview) -> None:
        self._ask(message, self._cancel(message))

    async def _cancel(self, message: CancelJob) -> None:
        state = await self.services.jobs.cancel(self._who, message.id)
        self.send({"type": "cancelling", "id": message.id, "state": state})

    def on_answer(self, message: AnswerJob, payload: memoryview) -> None:
        self._ask(message, self._answer(message))

    async def _answer(self, message: AnswerJob) -> None:
        await self.services.jobs.answer(self._who, message.id, message)
        self.send({"type": "answered", "id": message.id, "approval": message.approval})

    def on_watch(self, message: WatchJob, payload: memoryview) -> None:
        if message.id in self._watched:
            raise WorkError("bad_message", "id: the job is watched already")
        most = self.services.jobs.settings.job_watches
        if len(self._watched) >= most:
            raise Busy(f"{most} jobs are watched by this connection; unwatch one (job_watches)", _SOON)
        watching = self._watched[message.id] = Watching(self, message.id)
        watching.begun = self._try(message, self._watch(message, watching))

    async def _watch(self, message: WatchJob, watching: Watching) -> None:
        try:
            await self._begin_watching(message, watching)
        except BaseException:
            self.unwatch(watching)
            raise

    async def _begin_watching(self, message: WatchJob, watching: Watching) -> None:
        jobs, id, stream = self.services.jobs, message.id, job_stream(message.id)
        first = await jobs.may_see(self._who, id)
        hub = watching.hub = await jobs.hubs.open(stream, partial(as_message, id), watching)
        most = jobs.settings.job_watchers
        if len(hub.listeners) > most:
            raise Busy(f"{most} connections watch this job already (job_watchers)", _SOON)
        after = message.after
        recovered = after is not None and await jobs.events.recovers(stream, message.epoch or hub.epoch, after)
        told: dict[str, Any] = {"type": "watching", "id": id, "epoch": hub.epoch, "recovered": recovered}
        told |= {"job": first.job, "user": first.user, "at": first.at}
        if after is not None and recovered:
            told |= {"offset": after, "snapshot": None}
        else:
            story = await jobs.read_history(self._who, id)
            after = story.offset
            told |= {"offset": after, "snapshot": story.snapshot()}
            told["recovered"] = message.after is None
        await self.deliver(json.dumps(told, separators=(",", ":")))
        if told["snapshot"] and story.ended:
            return self.unwatch(watching)
        async for text in hub.replay(after):
            await self.deliver(text)
            watching.seen(text)
        hub.members[watching] = max(after, hub.offset)

    def on_unwatch(self, message: UnwatchJob, payload: memoryview) -> None:
        if watching := self._watched.get(message.id):
            self.unwatch(watching)
        self.send({"type": "unwatched", "id": message.id})

    def unwatch(self, watching: Watching) -> None:
        """Hears no more of the job."""
        if self._watched.get(watching.id) is watching:
            del self._watched[watching.id]
        if watching.hub:
            self.services.jobs.hubs.leave(watching.hub, watching)
            watching.hub = None
        if watching.begun and watching.begun is not asyncio.current_task():
            self._asked.discard(watching.begun)  # now: what is asked behind it may be read before it has ended
            watching.begun.cancel()

    def closed(self) -> None:
        for watching in list(self._watched.values()):
            self.unwatch(watching)


routes = [(r"/ws/jobs", JobsWebSocket)]
