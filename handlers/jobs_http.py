"""/jobs over HTTP: the same operations as the socket, for programs that poll."""

import json
from collections.abc import Awaitable
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from handlers.core.http import BaseHandler
from handlers.core.refusals import BAD_REQUEST, UNAVAILABLE, Refused
from works.errors import WorkError
from works.events.broker import PositionLost
from works.jobs import requests
from works.jobs.history import as_message, job_stream
from works.jobs.service import Requester

B = TypeVar("B", bound=BaseModel)
T = TypeVar("T")

# Maximum number of events in one answer. An event may have up to 256 KiB, but few are that large.
_PAGE = 100


class JobsHandler(BaseHandler):
    """Base class of these endpoints: the requester, the parsing of requests, and errors as JSON."""

    requester: Requester

    async def prepare(self) -> None:
        user = await self.authorize("jobs")
        self.requester = Requester(user.name, user.scopes, self.base_url)

    def parse(self, schema: type[B], members: str | bytes | dict[str, Any]) -> B:
        """Parses the body. Raises Refused with the name of each wrong member."""
        try:
            if isinstance(members, dict):
                return schema.model_validate(members)
            return schema.model_validate_json(members)
        except ValidationError as error:
            faults = error.errors(include_url=False, include_input=False)[:100]
            errors = [{"field": ".".join(map(str, fault["loc"])), "message": fault["msg"]} for fault in faults]
            shown = "; ".join(f"{each['field'] or 'the body'}: {each['message']}" for each in errors[:5])
            raise Refused(BAD_REQUEST, more={"errors": errors}, faults=shown[:500]) from None

    async def attempt(self, work: Awaitable[T]) -> T:
        """Returns the result of the work. Raises Refused for its errors."""
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
        """Returns the kinds of jobs, and a page of the list of jobs."""
        query = {name: self.get_query_argument(name) for name in self.request.query_arguments}
        listed = await self.attempt(self.services.jobs.list(self.requester, self.parse(requests.ListRequest, query)))
        self.answer(200, {**listed, "kinds": await self.services.jobs.catalog.kinds_for(self.requester.scopes)})

    async def post(self) -> None:
        request = self.parse(requests.StartRequest, self.request.body)
        id, new = await self.attempt(self.services.jobs.start(self.requester, request))
        self.set_header("Location", f"{self.base_url}/jobs/{id}")
        self.answer(201 if new else 200, {"id": id, "repeated": not new})


class JobHandler(JobsHandler):
    async def get(self, id: str) -> None:
        """Returns the state of a job, and a page of its events after an offset. ``after`` in the answer starts the next
        page.
        """
        after = self._number("after")
        history = await self.attempt(self.services.jobs.read_history(self.requester, id))
        snapshot, head = history.snapshot(), history.offset
        events = (
            [] if after is None else await self.attempt(self.services.jobs.broker.read(job_stream(id), after, _PAGE))
        )
        last = events[-1].offset if events else head if after is None else after
        texts = ",".join(as_message(id, event) for event in events)
        self.set_header("Content-Type", "application/json")
        members = json.dumps({"job": snapshot, "offset": head, "after": last}, separators=(",", ":"))
        self.finish(f'{members[:-1]},"events":[{texts}]}}')

    def _number(self, name: str) -> int | None:
        """Returns the number with this name in the query, or None. Raises Refused."""
        text = self.get_query_argument(name, None)
        if text is not None and not (text.isascii() and text.isdigit() and len(text) < 16):
            raise Refused(BAD_REQUEST, faults=f"{name}: must be a number from 0")
        return None if text is None else int(text)


class CancelJobHandler(JobsHandler):
    async def post(self, id: str) -> None:
        self.answer(200, {"state": await self.attempt(self.services.jobs.cancel(self.requester, id))})


class RetryJobHandler(JobsHandler):
    async def post(self, id: str) -> None:
        request = self.parse(requests.RetryRequest, self.request.body)
        new_id, new = await self.attempt(self.services.jobs.retry(self.requester, id, request))
        self.set_header("Location", f"{self.base_url}/jobs/{new_id}")
        self.answer(201 if new else 200, {"id": new_id, "repeated": not new})


class AnswerJobHandler(JobsHandler):
    async def post(self, id: str) -> None:
        request = self.parse(requests.AnswerRequest, self.request.body)
        await self.attempt(self.services.jobs.answer(self.requester, id, request))
        self.set_status(204)


_ID = r"([0-9a-f]{1,40})"
routes = [
    (r"/jobs", JobListHandler),
    (rf"/jobs/{_ID}", JobHandler),
    (rf"/jobs/{_ID}/cancel", CancelJobHandler),
    (rf"/jobs/{_ID}/retry", RetryJobHandler),
    (rf"/jobs/{_ID}/answer", AnswerJobHandler),
]
