"""/ws: the 150-character protocol, for front ends of the older server.

A text message is 150 characters (code points) of JSON, padded with spaces, then the picture in base64. A space in the
base64 means ``+``. Answers are ``{"text": <JSON document in a string>}``. The token is in the query and is checked
after the upgrade.
"""

import binascii
import json
import math
import secrets
from typing import Any, ClassVar, Literal

from pydantic import ConfigDict, Field, ValidationError

from handlers.core.auth import Scope, User
from handlers.core.client_message import parse
from handlers.core.refusals import Refused
from handlers.core.slices import result_url
from handlers.core.websocket import BaseWebSocketHandler
from works.errors import WorkError
from works.imaging import actions
from works.imaging.task import Result, Task
from works.validation import StrictModel, describe_faults

HEADER_LENGTH = 150
_TOKEN_ERRORS = {"ip_mismatch": "ip mismatch", "expired": "token expired"}


class SliceHeader(StrictModel):
    """The JSON of a message. ``offset_top`` and ``zoom`` may be numbers or numeric strings. Unknown keys
    are ignored.
    """

    model_config = ConfigDict(extra="ignore")

    offset_top: float
    zoom: float = Field(gt=0)
    rType: str = "rl"  # noqa: N815  a name on the wire
    responseType: str = "url"  # noqa: N815


class BrowserWebSocket(BaseWebSocketHandler):
    scope: ClassVar[Scope] = "images"
    description = (
        "Uses the 150-character protocol: a JSON header of 150 characters, then a picture in base64. "
        "New front ends use /ws/images."
    )

    async def verify_token(self, scope: Scope, *others: Scope) -> User:
        """Never refuses the upgrade. The error of a token is sent after the upgrade, with the texts of this
        protocol.
        """
        self._refusal = ""
        try:
            return await super().verify_token(scope, *others)
        except Refused as error:
            self._refusal = _TOKEN_ERRORS.get(error.cause, "enter correct token")
            # Without a user, the address counts as a user in the limits of connections.
            return User(f"\0{self.address}", frozenset(), 0)

    @property
    def token(self) -> str:
        return self.get_query_argument("query_string", "")

    def select_subprotocol(self, subprotocols: list[str]) -> str | None:
        return None

    async def opened(self) -> None:
        self.session = secrets.token_hex(16)
        self._arrivals = 0
        if self._refusal:
            self._send_document({"error": self._refusal}, close=True)
            return self.close()
        self._send_document({})

    def _send_document(self, document: dict[str, Any], **members: bool) -> None:
        """Keeps the spaces that the older server's JSON has, because front ends may compare strings."""
        self.send(json.dumps({"text": json.dumps(document), **members}))

    def send_expiry_warning(self, in_s: int) -> None:
        """Does nothing, because this protocol has no such message."""

    def on_message(self, message: str | bytes) -> None:
        """Submits the slice of a message. An error is sent to the client."""
        if self._refusal or self.ws_connection is None or not self.within_rate():
            return
        uuid: object = None
        try:
            if isinstance(message, bytes):
                raise WorkError("bad_message", "this protocol has text messages only")
            members = parse(message[:HEADER_LENGTH])
            uuid = self._uuid(members)
            header = self._header(members)
            self.spawn(self._work(uuid, self._task(header, message)))
        except WorkError as error:
            self._send_error(error, uuid)

    @staticmethod
    def _uuid(members: dict[str, Any]) -> str | int | float:
        """Returns the front end's name for its message, which the answer repeats."""
        match members.get("uuid"):
            case str() | int() as uuid if not isinstance(uuid, bool):
                return uuid
            case float() as uuid if math.isfinite(uuid):
                return uuid
        raise WorkError("bad_message", "uuid: must be text or a number")

    @staticmethod
    def _header(members: dict[str, Any]) -> SliceHeader:
        try:
            return SliceHeader.model_validate(members)
        except ValidationError as error:
            raise WorkError("bad_message", describe_faults(error, "header", most=1)) from None

    def _task(self, header: SliceHeader, message: str) -> Task:
        try:
            text = "".join(message[HEADER_LENGTH:].rstrip().replace(" ", "+").split())
            payload = binascii.a2b_base64(text, strict_mode=True)
        except (binascii.Error, ValueError):
            raise WorkError("bad_message", "what follows the 150 characters is not base64") from None
        limit = self.context.images.max_slice_bytes
        if len(payload) > limit:
            raise WorkError("too_large", f"the slice has more than {limit:,} bytes")
        action = actions.find(header.rType)
        self._arrivals += 1
        return Task(
            session=self.session,
            id=str(self._arrivals),
            payload=payload,
            offset_top=header.offset_top,
            action=action.name,
            options=actions.check(action.name, {}),
            zoom=header.zoom,
            deliver=self._deliver(header, action),
        )

    @staticmethod
    def _deliver(header: SliceHeader, action: actions.Action) -> Literal["store", "data"]:
        if header.responseType == "url":
            return "store"
        if not action.gives_data:
            raise WorkError("bad_options", f"{action.name} gives no data; ask for the responseType url")
        return "data"

    async def _work(self, uuid: str | int | float, task: Task) -> None:
        try:
            result: Result = await self.services.queue.submit(task)
        except WorkError as error:
            return self._send_error(error, uuid)
        if task.deliver == "store":
            self._send_document({"url": result_url(self.base_url, result.name), "uuid": uuid})
        else:
            self._send_document({**(result.data or {}), "uuid": uuid})

    def _send_error(self, error: WorkError, uuid: object) -> None:
        self.services.metrics.refusals.labels(error.code).inc()
        self._send_document({"error": error.message, "uuid": uuid})

    def closed(self) -> None:
        self.services.queue.forget(self.session)


routes = [(r"/ws", BrowserWebSocket)]
