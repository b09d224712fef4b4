"""POST /upload: stores a picture, audio or video from the body. The JSON answer is what messages can refer to.

The body is streamed to the disk. The request is refused as early as possible: before the body for its sender and its
declared length, during the body for its real length, and after it for its type. An incomplete body leaves no files.
``?name=`` is the user's name for the file, which jobs use.
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

# Maximum number of digits of a length that are parsed. More digits are too large anyway, and Python refuses to parse
# thousands of digits.
_DIGITS = 18


@tornado.web.stream_request_body
class UploadFile(BaseHandler):
    _upload: Upload | None = None

    async def prepare(self) -> None:
        """Authorizes the request and starts the upload. Raises Refused."""
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
        # Tornado would end a body that is too large without an explanation. ``data_received`` explains it.
        connection.set_max_body_size(sys.maxsize)
        connection.set_body_timeout(uploads.settings.upload_timeout)

    async def data_received(self, chunk: bytes) -> None:
        """Tornado reads on when this coroutine has ended. So the client waits while the disk is slow."""
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
        """Finishes the upload and sends its members. Raises Refused."""
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
        """Answers the preflight request of a page of another origin."""
        for name, value in (("Methods", "POST"), ("Headers", "Authorization, Content-Type")):
            self.set_header(f"Access-Control-Allow-{name}", value)
        self.set_header("Access-Control-Max-Age", "600")
        self.set_status(204)

    def on_finish(self) -> None:
        if self._upload:
            self._upload.discard()

    def on_connection_close(self) -> None:
        """Called when the body has stopped, or when the client has closed the connection before the answer."""
        super().on_connection_close()
        self.on_finish()


routes = [(r"/upload", UploadFile)]
