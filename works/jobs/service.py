"""The operations of users on jobs: start, read, cancel, answer, retry. Users can use their own jobs, administrators all
jobs.

A job may run in any process: a request to it is an event of its history.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import structlog

from works.errors import WorkError
from works.events.broker import Broker, Fenced
from works.events.fanout import Fanout
from works.events.leases import Leases
from works.events.marks import Marks
from works.jobs import find
from works.jobs.catalog import JobCatalog
from works.jobs.history import (
    ALL,
    END,
    JobHistory,
    dumps,
    group,
    is_id,
    job_of_stream,
    job_stream,
    new_id,
    starts_stream,
    user_reader,
)
from works.jobs.history_cache import HistoryCache
from works.jobs.requests import AnswerRequest, ListRequest, RetryRequest, StartRequest
from works.jobs.resources import JobResources
from works.jobs.runner import Runner
from works.queue import WorkQueue

log = structlog.get_logger()

# Maximum number of characters of the parameters, and most jobs that are examined for one page of a list.
_LONGEST_PARAMS, _LOOKED_AT = 64 << 10, 500


@dataclass(frozen=True, slots=True)
class Requester:
    """A user, the scopes of the token, and the URL at which the user reaches this server."""

    name: str
    scopes: frozenset[str]
    base_url: str = ""

    @property
    def is_admin(self) -> bool:
        return "admin" in self.scopes


class JobService:
    """All methods raise WorkError for jobs that do not exist or are not allowed, and OSError when the event store is
    unavailable.

    ``frame`` encodes a text as a WebSocket frame.
    """

    def __init__(
        self,
        broker: Broker,
        marks: Marks,
        leases: Leases,
        queue: WorkQueue,
        resources: JobResources,
        frame: Callable[[str], bytes],
    ) -> None:
        self.settings = resources.settings
        self.fanout = Fanout(broker, frame)
        self.histories = HistoryCache(broker)
        self.catalog = JobCatalog(resources)
        self.runner = Runner(broker, marks, leases, queue, resources, self.histories)
        self.broker = broker
        self._marks = marks

    async def start(self, who: Requester, request: StartRequest) -> tuple[str, bool]:
        """Starts a job. Returns its id, and whether it was started by this call: a repeated ``client_id`` is the same
        job.

        Raises WorkError, BadParams or Busy.
        """
        return await self._start(who, request, None, None)

    async def _start(
        self, who: Requester, request: StartRequest, retry_of: str | None, only: Sequence[str] | None
    ) -> tuple[str, bool]:
        kind = find(request.job)
        if not {kind.scope, "admin"} & who.scopes:
            raise WorkError("forbidden", f"job: {request.job} needs a token with the scope {kind.scope!r}")
        params = kind.check(request.params)
        if len(dumps(request.params)) > _LONGEST_PARAMS:
            raise WorkError("too_large", f"params: at most {_LONGEST_PARAMS:,} characters are accepted")
        id = await self._register(who.name, request.client_id)
        started: dict[str, Any] = {"type": "started", "job": request.job, "user": who.name, "params": request.params}
        started |= {"retry_of": retry_of, "only": only}
        started_now = await self.runner.begin(id, who.name, kind, params, started, who.base_url)
        if started_now:
            log.info("job.started", job=id, kind=request.job, user=who.name, retry_of=retry_of)
            await self._forget_oldest(who.name)
        return id, started_now

    async def _register(self, user: str, client_id: str) -> str:
        """Returns the id of the job for this ``client_id``: a new one, or that of an earlier request."""
        starts = starts_stream(user)
        offset = await self.broker.append(starts, dumps({"job": new_id()}), id=client_id)
        await self.broker.expire(starts, self.settings.job_ttl)
        for event in await self.broker.read(starts, offset - 1, 1):
            if event.offset == offset:
                return str(json.loads(event.data)["job"])
        raise OSError("the new event cannot be read")

    async def _forget_oldest(self, user: str) -> None:
        """Deletes a user's oldest jobs beyond ``jobs_kept_per_user``, unless they are running."""
        ids = await self._list_ids(user_reader(user))
        for id in ids[self.settings.jobs_kept_per_user :]:
            summary = await self.histories.summary(id)
            if summary is None or summary["ended_at"] is not None:
                self.histories.forget(id)
                for reader in (ALL, user_reader(user)):
                    await self._marks.remove(job_stream(id), reader)
                await self.broker.expire(job_stream(id), 0)

    async def _list_ids(self, reader: str) -> list[str]:
        """Returns the ids of jobs, newest first."""
        return sorted(
            (id for stream in await self._marks.of_reader(reader) if (id := job_of_stream(stream))), reverse=True
        )

    async def list(self, who: Requester, request: ListRequest) -> dict[str, Any]:
        """Returns a page of jobs, newest first, and the id ``before`` of the next page, which is None at the end.
        Raises WorkError.
        """
        if request.filter == "all" and not who.is_admin:
            raise WorkError("forbidden", "filter: the jobs of all users need a token with the scope 'admin'")
        ids = await self._list_ids(ALL if request.filter == "all" else user_reader(who.name))
        ids = [id for id in ids if request.before is None or id < request.before]
        found: list[dict[str, Any]] = []
        for id in ids[:_LOOKED_AT]:
            if len(found) == request.limit:
                return {"jobs": found, "before": found[-1]["id"]}
            summary = await self.histories.summary(id)
            if summary and request.state in (None, summary["state"]) and request.job in (None, summary["job"]):
                found.append(summary)
        return {"jobs": found, "before": ids[_LOOKED_AT - 1] if len(ids) > _LOOKED_AT else None}

    async def may_see(self, who: Requester, id: str) -> JobHistory:
        """Returns the history up to its first event. Raises WorkError not_found, also for jobs of other users."""
        history = await self.histories.read_start(id) if is_id(id) else None
        if history is None or not (who.is_admin or history.user == who.name):
            raise WorkError("not_found", f"id: there is no job {id[:40]!r}, or its history is no longer retained")
        return history

    async def read_history(self, who: Requester, id: str) -> JobHistory:
        """Returns the whole history so far. Callers must not change or store it."""
        await self.may_see(who, id)
        history = await self.histories.read(id)
        assert history
        return history

    async def cancel(self, who: Requester, id: str) -> str:
        """Cancels a job. Returns its state: ``cancelling``, or the final state when it has ended."""
        history = await self.read_history(who, id)
        if not history.ended:
            event = dumps({"type": "cancelling", "by": who.name, "reason": ""})
            try:
                await self.broker.append(job_stream(id), group([event], request="cancel"), id="cancel", unless=(END,))
                log.info("job.cancelled", job=id, kind=history.job, user=history.user, by=who.name)
                return "cancelling"
            except Fenced:
                history = await self.read_history(who, id)
        return history.state

    async def answer(self, who: Requester, id: str, request: AnswerRequest) -> None:
        """Answers a question of the job. Only the first answer counts. Raises WorkError when the job does not wait for
        it.
        """
        history = await self.read_history(who, id)
        if history.approval is None or history.approval["approval"] != request.approval:
            raise WorkError("not_found", f"approval: the job is not waiting for {request.approval[:40]!r}")
        answer = {
            "type": "answered",
            "approval": request.approval,
            "ok": request.ok,
            "by": who.name,
            "text": request.text,
        }
        answered = group([dumps(answer)], request="answer")
        try:
            offset = await self.broker.append(job_stream(id), answered, id=f"answer {request.approval}", unless=(END,))
        except Fenced:
            raise WorkError("not_found", "approval: the job has ended") from None
        for event in await self.broker.read(job_stream(id), offset - 1, 1):
            if event.data != answered:
                raise WorkError("not_found", "approval: another user has answered it")
        log.info(
            "job.answered",
            job=id,
            kind=history.job,
            user=history.user,
            by=who.name,
            ok=request.ok,
            approval=request.approval,
        )

    async def retry(self, who: Requester, id: str, request: RetryRequest) -> tuple[str, bool]:
        """Starts a job with the same parameters for the targets of this one whose last state is ``only``. Raises
        WorkError.
        """
        history = await self.read_history(who, id)
        if not history.ended:
            raise WorkError("bad_message", "id: the job has not ended")
        only = history.targets_to_retry(request.only)
        if not only:
            raise WorkError("bad_message", f"only: the job has no targets in the state {request.only}")
        start = StartRequest(job=history.job, params=history.started["params"], client_id=request.client_id)
        return await self._start(who, start, id, only)
