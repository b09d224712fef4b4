"""/jobs over HTTP: the same as the socket, by the same rules, for programs that rather ask again than listen."""

import json
from collections.abc import Awaitable
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from handlers.core.http import BaseHandler
from handlers.core.refusals import BAD_REQUEST, UNAVAILABLE, Refused
from works.errors import WorkError
from works.events.broker import PositionLost
from works.jobs import requests as asks
from works.jobs.history import as_message, job_stream
from works.jobs.service import Requester

B = TypeVar("B", bound=BaseModel)
T = TypeVar("T")

# Events in one answer: of 256 KiB at the most, though few have so much.
_PAGE = 100


class JobsHandler(BaseHandler):
    """The ground of these: who asks, what, and errors as JSON."""

    who: Requester

    async def prepare(self) -> None:
        user = await self.authorize("jobs")
        self.who = Requester(user.name, user.scopes, self.base_url)

    def asked(self, schema: type[B], members: str | bytes | dict[str, Any]) -> B:
        """Raises Refused, naming each field that is wrong."""
        try:
            if isinstance(members, dict):
                return schema.model_validate(members)
            return schema.model_validate_json(members)
        except ValidationError as error:
            faults = error.errors(include_url=False, include_input=False)[:100]
            errors = [{"field": ".".join(map(str, fault["loc"])), "message": fault["msg"]} for fault in faults]
            shown = "; ".join(f"{each['field'] or 'the body'}: {each['message']}" for each in errors[:5])
            raise Refused(BAD_REQUEST, more={"errors": errors}, faults=shown[:500]) from None

    async def tried(self, work: Awaitable[T]) -> T:
        try:
            return await work
        except WorkError as error:
            raise Refused.because(error) from None
        except (OSError, PositionLost) as error:
            raise Refused(UNAVAILABLE, what="the log cannot be reached", error=error) from None

    def answer(self, status: int, members: dict[str, Any]) -> None:
        self.set_status(status)
        self.set_header("Content-Type", "application/json")
        self.finish(json.dumps(members, separators=(",", ":")))


class JobListHandler(JobsHandler):
    async def get(self) -> None:
        """The kinds of jobs, and a page of those there are."""
        given = {name: self.get_query_argument(name) for name in self.request.query_arguments}
        listed = await self.tried(self.services.jobs.list(self.who, self.asked(asks.ListRequest, given)))
        self.answer(200, {**listed, "kinds": await self.services.jobs.catalog.kinds_for(self.who.scopes)})

    async def post(self) -> None:
        ask = self.asked(asks.StartRequest, self.request.body)
        id, new = await self.tried(self.services.jobs.start(self.who, ask))
        self.set_header("Location", f"{self.base_url}/jobs/{id}")
        self.answer(201 if new else 200, {"id": id, "repeated": not new})


class JobHandler(JobsHandler):
    async def get(self, id: str) -> None:
        """What the story amounts to, and the events of it after an offset: a page of them, to be asked on from."""
        after = self._number("after")
        story = await self.tried(self.services.jobs.read_history(self.who, id))
        snapshot, head = story.snapshot(), story.offset
        events = [] if after is None else await self.tried(self.services.jobs.events.read(job_stream(id), after, _PAGE))
        last = events[-1].offset if events else head if after is None else after
        texts = ",".join(as_message(id, event) for event in events)
        self.set_header("Content-Type", "application/json")
        known = json.dumps({"job": snapshot, "offset": head, "after": last}, separators=(",", ":"))
        self.finish(f'{known[:-1]},"events":[{texts}]}}')

    def _number(self, name: str) -> int | None:
        given = self.get_query_argument(name, None)
        if given is not None and not (given.isascii() and given.isdigit() and len(given) < 16):
            raise Refused(BAD_REQUEST, faults=f"{name}: must be a number from 0")
        return None if given is None else int(given)


class CancelJobHandler(JobsHandler):
    async def post(self, id: str) -> None:
        self.answer(200, {"state": await self.tried(self.services.jobs.cancel(self.who, id))})


class RetryJobHandler(JobsHandler):
    async def post(self, id: str) -> None:
        ask = self.asked(asks.RetryRequest, self.request.body)
        made, new = await self.tried(self.services.jobs.retry(self.who, id, ask))
        self.set_header("Location", f"{self.base_url}/jobs/{made}")
        self.answer(201 if new else 200, {"id": made, "repeated": not new})


class AnswerJobHandler(JobsHandler):
    async def post(self, id: str) -> None:
        ask = self.asked(asks.AnswerRequest, self.request.body)
        await self.tried(self.services.jobs.answer(self.who, id, ask))
        self.set_status(204)


_ID = r"([0-9a-f]{1,40})"
routes = [
    (r"/jobs", JobListHandler),
    (rf"/jobs/{_ID}", JobHandler),
    (rf"/jobs/{_ID}/cancel", CancelJobHandler),
    (rf"/jobs/{_ID}/retry", RetryJobHandler),
    (rf"/jobs/{_ID}/answer", AnswerJobHandler),
]
