"""POST /upload: a picture, sound or film in the body, streamed to the disk; what messages may then refer to, as JSON.

It is refused as soon as it can be: before the body for who sends it and how long it says it is, amid the body for how
long it gets, after it for what it is. A body that stops midway leaves nothing behind. ``?name=`` is what jobs call it.
"""

import json
import sys
from typing import cast

import tornado.web
from tornado.http1connection import HTTP1Connection

from handlers.core.http import BaseHandler
from handlers.core.refusals import Refused
from works.errors import WorkError
from works.uploads import Upload

# Decimal digits of a length that are parsed: so many are too long already, and Python parses no thousands of digits.
_DIGITS = 18


@tornado.web.stream_request_body
class UploadFile(BaseHandler):
    _upload: Upload | None = None

    async def prepare(self) -> None:
        if self.request.method != "POST":
            return
        user = await self.authorize("chat", "jobs")
        length = self.request.headers.get("Content-Length", "0")
        uploads = self.services.uploads
        try:
            size = int(length[:_DIGITS]) if length.isdecimal() else 0
            self._upload = uploads.begin(user.name, size, self.get_query_argument("name", ""))
        except WorkError as error:
            raise self.refuse_failed(error) from None
        connection = cast(HTTP1Connection, self.request.connection)
        # Tornado would end a body that is too large without saying why; ``data_received`` says it.
        connection.set_max_body_size(sys.maxsize)
        connection.set_body_timeout(uploads.settings.upload_timeout)

    async def data_received(self, chunk: bytes) -> None:
        """Tornado reads on when this is done: what the disk cannot take waits at the client."""
        if self._upload is None or self._finished:
            return
        try:
            await self._upload.write(chunk)
        except WorkError as error:
            await self._upload.discard()
            if not self._finished:
                refused = self.refuse_failed(error)
                self.send_error(refused.status_code, exc_info=(Refused, refused, None))

    async def post(self) -> None:
        assert self._upload
        try:
            attachment = await self._upload.finish()
        except WorkError as error:
            raise self.refuse_failed(error) from None
        finally:
            await self._upload.discard()
        members = attachment.as_dict(self.base_url)
        self.set_status(201)
        self.set_header("Location", members["url"])
        self.set_header("Content-Type", "application/json")
        self.finish(json.dumps(members))

    def options(self) -> None:
        """The preflight request of a page of another origin."""
        for name, value in (("Methods", "POST"), ("Headers", "Authorization, Content-Type")):
            self.set_header(f"Access-Control-Allow-{name}", value)
        self.set_header("Access-Control-Max-Age", "600")
        self.set_status(204)

    def on_finish(self) -> None:
        if self._upload:
            self._upload.discard()

    def on_connection_close(self) -> None:
        """The body has stopped midway, or the client does not wait for the answer."""
        super().on_connection_close()
        self.on_finish()


routes = [(r"/upload", UploadFile)]
