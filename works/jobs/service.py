"""What users may ask of jobs: start, look, cancel, answer, retry. Each sees their own, an administrator everybody's.

It does not matter in which process a job runs: what is asked of it is an event in its story.
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
    id_of,
    is_id,
    new_id,
    started_by,
    starts_of,
    stream_of,
)
from works.jobs.history_cache import HistoryCache
from works.jobs.requests import AnswerRequest, ListRequest, RetryRequest, StartRequest
from works.jobs.resources import JobResources
from works.jobs.runner import Runner
from works.queue import WorkQueue

log = structlog.get_logger()

# Characters of the parameters, and jobs looked at for one page of a list.
_LONGEST_PARAMS, _LOOKED_AT = 64 << 10, 500


@dataclass(frozen=True, slots=True)
class Requester:
    """Who asks, by what token, and where that one reaches us."""

    name: str
    scopes: frozenset[str]
    base_url: str = ""

    @property
    def is_admin(self) -> bool:
        return "admin" in self.scopes


class JobService:
    """Its methods raise WorkError for what is not there or not allowed, OSError when the log is away.

    ``frame`` makes of a text what goes over a client's wire.
    """

    def __init__(
        self,
        events: Broker,
        marks: Marks,
        leases: Leases,
        queue: WorkQueue,
        resources: JobResources,
        frame: Callable[[str], bytes],
    ) -> None:
        self.settings = resources.settings
        self.hubs = Fanout(events, frame)
        self.stories = HistoryCache(events)
        self.offers = JobCatalog(resources)
        self.runner = Runner(events, marks, leases, queue, resources, self.stories)
        self.events = events
        self._marks = marks

    async def start(self, who: Requester, ask: StartRequest) -> tuple[str, bool]:
        """The job's id, and whether it was started now: the same ``client_id`` of a user is the same job."""
        return await self._start(who, ask, None, None)

    async def _start(
        self, who: Requester, ask: StartRequest, retry_of: str | None, only: Sequence[str] | None
    ) -> tuple[str, bool]:
        kind = find(ask.job)
        if not {kind.scope, "admin"} & who.scopes:
            raise WorkError("forbidden", f"job: to start {ask.job} the token's scope must include {kind.scope!r}")
        params = kind.check(ask.params)
        if len(dumps(ask.params)) > _LONGEST_PARAMS:
            raise WorkError("too_large", f"params: at most {_LONGEST_PARAMS:,} characters are taken")
        id = await self._enlist(who.name, ask.client_id)
        started: dict[str, Any] = {"type": "started", "job": ask.job, "user": who.name, "params": ask.params}
        started |= {"retry_of": retry_of, "only": only}
        begun = await self.runner.begin(id, who.name, kind, params, started, who.base_url)
        if begun:
            log.info("job started", job=id, kind=ask.job, user=who.name, retry_of=retry_of)
            await self._make_room(who.name)
        return id, begun

    async def _enlist(self, user: str, client_id: str) -> str:
        """The id of the job that this ``client_id`` stands for, whoever was first to ask."""
        starts = starts_of(user)
        offset = await self.events.append(starts, dumps({"job": new_id()}), id=client_id)
        await self.events.expire(starts, self.settings.job_ttl)
        for event in await self.events.read(starts, offset - 1, 1):
            if event.offset == offset:
                return str(json.loads(event.data)["job"])
        raise OSError("what was written to the log cannot be read")

    async def _make_room(self, user: str) -> None:
        """A user's oldest jobs beyond ``jobs_kept_per_user`` are forgotten, unless they run."""
        ids = await self._listed(started_by(user))
        for id in ids[self.settings.jobs_kept_per_user :]:
            summary = await self.stories.summary(id)
            if summary is None or summary["ended_at"] is not None:
                self.stories.forget(id)
                for reader in (ALL, started_by(user)):
                    await self._marks.remove(stream_of(id), reader)
                await self.events.expire(stream_of(id), 0)

    async def _listed(self, reader: str) -> list[str]:
        """Newest first."""
        return sorted((id for stream in await self._marks.of_reader(reader) if (id := id_of(stream))), reverse=True)

    async def list(self, who: Requester, ask: ListRequest) -> dict[str, Any]:
        """``jobs``, newest first, and ``before``: from where to ask on; None at the end."""
        if ask.filter == "all" and not who.is_admin:
            raise WorkError("forbidden", "filter: for everybody's jobs the token's scope must include 'admin'")
        ids = await self._listed(ALL if ask.filter == "all" else started_by(who.name))
        ids = [id for id in ids if ask.before is None or id < ask.before]
        found: list[dict[str, Any]] = []
        for id in ids[:_LOOKED_AT]:
            if len(found) == ask.limit:
                return {"jobs": found, "before": found[-1]["id"]}
            summary = await self.stories.summary(id)
            if summary and ask.state in (None, summary["state"]) and ask.job in (None, summary["job"]):
                found.append(summary)
        return {"jobs": found, "before": ids[_LOOKED_AT - 1] if len(ids) > _LOOKED_AT else None}

    async def may_see(self, who: Requester, id: str) -> JobHistory:
        """How the job was started. Raises WorkError not_found, also for those of others."""
        story = await self.stories.first(id) if is_id(id) else None
        if story is None or not (who.is_admin or story.user == who.name):
            raise WorkError("not_found", f"id: there is no job {id[:40]!r}, or no longer")
        return story

    async def look(self, who: Requester, id: str) -> JobHistory:
        """The whole story so far; not to be changed, and not to be kept."""
        await self.may_see(who, id)
        story = await self.stories.whole(id)
        assert story
        return story

    async def cancel(self, who: Requester, id: str) -> str:
        """The job's state: ``cancelling``, or as what it has ended already."""
        story = await self.look(who, id)
        if not story.ended:
            asked = dumps({"type": "cancelling", "by": who.name, "reason": ""})
            try:
                await self.events.append(stream_of(id), group([asked], told="cancel"), id="cancel", unless=(END,))
                log.info("job cancelled", job=id, kind=story.job, user=story.user, by=who.name)
                return "cancelling"
            except Fenced:
                story = await self.look(who, id)
        return story.state

    async def answer(self, who: Requester, id: str, ask: AnswerRequest) -> None:
        """Answers what the job has asked; the first answer counts."""
        story = await self.look(who, id)
        if story.approval is None or story.approval["approval"] != ask.approval:
            raise WorkError("not_found", f"approval: the job does not ask for {ask.approval[:40]!r}, or no longer")
        said = {"type": "answered", "approval": ask.approval, "ok": ask.ok, "by": who.name, "text": ask.text}
        told = group([dumps(said)], told="answer")
        try:
            offset = await self.events.append(stream_of(id), told, id=f"answer {ask.approval}", unless=(END,))
        except Fenced:
            raise WorkError("not_found", "approval: the job has ended") from None
        for event in await self.events.read(stream_of(id), offset - 1, 1):
            if event.data != told:
                raise WorkError("not_found", "approval: somebody else has answered it")
        log.info("job answered", job=id, kind=story.job, user=story.user, by=who.name, ok=ask.ok, approval=ask.approval)

    async def retry(self, who: Requester, id: str, ask: RetryRequest) -> tuple[str, bool]:
        """A new job with the same parameters, over the targets of this one whose last state is that."""
        story = await self.look(who, id)
        if not story.ended:
            raise WorkError("bad_message", "id: the job has not ended")
        only = story.among(ask.only)
        if not only:
            raise WorkError("bad_message", f"only: no target of the job is {ask.only}")
        start = StartRequest(job=story.job, params=story.started["params"], client_id=ask.client_id)
        return await self._start(who, start, id, only)
