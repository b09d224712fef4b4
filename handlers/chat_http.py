"""POST /chat/publish and /chat/broadcast, GET /chat/presence: chat for back ends, with scope ``admin``."""

from typing import TypeVar

import structlog
from pydantic import Field, ValidationError

from handlers.core.http import BaseHandler
from handlers.core.refusals import BAD_REQUEST, UNAVAILABLE, Refused
from works.chat.places import direct, room
from works.validation import StrictModel, describe_faults

log = structlog.get_logger()

B = TypeVar("B", bound=StrictModel)
_ROOM = r"^[^\s/]+$"


class Announcement(StrictModel):
    text: str = Field(min_length=1, max_length=4000)


class Publication(Announcement):
    """``sender`` (``from`` on the wire) need not be the name of a user. Messages with the same ``client_id`` are
    stored once."""

    room: str | None = Field(None, min_length=1, max_length=100, pattern=_ROOM)
    to: str | None = Field(None, min_length=1, max_length=200)
    sender: str = Field("server", alias="from", min_length=1, max_length=200)
    client_id: str | None = Field(None, min_length=1, max_length=100)


class BackEndHandler(BaseHandler):
    def body(self, schema: type[B]) -> B:
        """The request's JSON. Raises Refused, naming the field."""
        try:
            return schema.model_validate_json(self.request.body)
        except ValidationError as error:
            raise Refused(BAD_REQUEST, faults=describe_faults(error, "the body")) from None


class Publish(BackEndHandler):
    async def post(self) -> None:
        admin = await self.authorize("admin")
        publication = self.body(Publication)
        if (publication.room is None) == (publication.to is None):
            raise Refused(BAD_REQUEST, faults="say either room or to")
        place = room(publication.room) if publication.room else direct(publication.sender, str(publication.to))
        try:
            offset = await self.services.chat.post(
                place, publication.sender, publication.text, [], publication.client_id
            )
        except OSError as error:
            raise Refused(UNAVAILABLE, what="it could not be stored", error=error) from None
        log.info("chat.published", stream=place.stream, sender=publication.sender, by=admin.name, address=self.address)
        self.write({"stream": place.wire_name(publication.sender), "offset": offset})


class BroadcastToAll(BackEndHandler):
    async def post(self) -> None:
        admin = await self.authorize("admin")
        announcement = self.body(Announcement)
        try:
            await self.services.chat.announce(admin.name, announcement.text)
        except OSError as error:
            raise Refused(UNAVAILABLE, what="nobody could be told", error=error) from None
        log.info("chat.broadcast", by=admin.name, address=self.address)
        self.set_status(204)


class ReadPresence(BackEndHandler):
    async def get(self) -> None:
        await self.authorize("admin")
        name = self.get_query_argument("room", "")
        try:
            self.write({"room": name, "present": await self.services.chat.presence.present(room(name).live)})
        except OSError as error:
            raise Refused(UNAVAILABLE, what="it cannot be known", error=error) from None


routes = [(r"/chat/publish", Publish), (r"/chat/broadcast", BroadcastToAll), (r"/chat/presence", ReadPresence)]
