"""POST /process: processes one picture, through the same queue as slices."""

import asyncio
import json
import secrets
import sys
from typing import Any, cast

import tornado.web
from pydantic import ValidationError
from tornado.http1connection import HTTP1Connection

from handlers.core.http import BaseHandler
from handlers.core.refusals import BODY_TOO_LARGE, Refused
from handlers.core.slices import SliceMessage
from works.errors import WorkError
from works.imaging.task import Result, Task
from works.validation import describe_faults

# Maximum number of digits of a length that are parsed. More digits are too large anyway, and Python refuses to parse
# thousands of digits.
_DIGITS = 18
_PARAMETERS = ("action", "fit", "format", "options", "respond", "zoom")


@tornado.web.stream_request_body
class ProcessHandler(BaseHandler):
    async def prepare(self) -> None:
        """Refuses as much as possible before the body is read. Raises Refused."""
        self._body = bytearray()
        self._work: asyncio.Future[Result] | None = None
        if self.request.method != "POST":
            return
        user = await self.authorize("images")
        # All requests of a user are one session of the queue. It takes turns with others, and has the limits of one
        # session.
        self._session, self._id = f"process/{user.name}", secrets.token_hex(16)
        length = self.request.headers.get("Content-Length", "0")
        if length.isdecimal() and int(length[:_DIGITS]) > self._max_bytes:
            raise self._too_large()
        # Tornado would end a chunked body that is too large without an explanation. ``data_received`` explains it.
        cast(HTTP1Connection, self.request.connection).set_max_body_size(sys.maxsize)

    @property
    def _max_bytes(self) -> int:
        return self.context.images.max_slice_bytes

    def _too_large(self) -> Refused:
        return self.refuse(BODY_TOO_LARGE, most=self._max_bytes)

    def data_received(self, chunk: bytes) -> None:
        self._body += chunk
        if len(self._body) > self._max_bytes:
            error = self._too_large()
            self.send_error(error.status_code, exc_info=(Refused, error, None))

    async def post(self) -> None:
        """Processes the picture in the body. Raises Refused for the error of the task."""
        try:
            task = self._task()
            self._work = self.services.queue.submit(task)
            result = await self._work
        except WorkError as error:
            raise self.refuse_failed(error) from None
        if result.data is not None and task.deliver == "data":
            self.set_header("Content-Type", "application/json")
            self.finish(json.dumps(result.data))
        else:
            self.set_header("Content-Type", f"image/{result.format}")
            self.finish(result.payload)

    def _task(self) -> Task:
        given: dict[str, Any] = {name: self.get_query_argument(name) for name in self.request.query_arguments}
        unknown = set(given) - set(_PARAMETERS)
        if unknown:
            names = ", ".join(sorted(unknown))[:100]
            raise WorkError("bad_message", f"{names}: unknown; there are {', '.join(_PARAMETERS)}")
        if not self._body:
            raise WorkError("bad_image", "the body is empty; send a picture")
        try:
            given["options"] = json.loads(given.get("options", "{}"))
            message = SliceMessage(type="slice", id=self._id, offset_top=0, **given)
        except ValidationError as error:
            raise WorkError("bad_message", describe_faults(error, "query")) from None
        except (ValueError, RecursionError):
            raise WorkError("bad_message", "options: not JSON") from None
        return message.task(self._session, bytes(self._body), "inline")

    def options(self) -> None:
        """Answers the preflight request of a page of another origin."""
        self.set_header("Access-Control-Allow-Methods", "POST")
        self.set_header("Access-Control-Allow-Headers", "Authorization, Content-Type")
        self.set_header("Access-Control-Max-Age", "600")
        self.set_status(204)

    def on_connection_close(self) -> None:
        """Cancels the task when the client has closed the connection."""
        super().on_connection_close()
        if self._work is not None:
            self.services.queue.cancel(self._session, id=self._id)


routes = [(r"/process", ProcessHandler)]
