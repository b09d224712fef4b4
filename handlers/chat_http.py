"""POST /chat/publish and /chat/broadcast, GET /chat/presence: chat for back ends, with the scope ``admin``."""

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
    """``sender`` (``from`` on the wire) may be any name. Messages with the same ``client_id`` are stored once."""

    room: str | None = Field(None, min_length=1, max_length=100, pattern=_ROOM)
    to: str | None = Field(None, min_length=1, max_length=200)
    sender: str = Field("server", alias="from", min_length=1, max_length=200)
    client_id: str | None = Field(None, min_length=1, max_length=100)


class BackEndHandler(BaseHandler):
    def body(self, schema: type[B]) -> B:
        """Returns the JSON of the request. Raises Refused with the name of each wrong member."""
        try:
            return schema.model_validate_json(self.request.body)
        except ValidationError as error:
            raise Refused(BAD_REQUEST, faults=describe_faults(error, "the body")) from None


class Publish(BackEndHandler):
    async def post(self) -> None:
        """Stores a message in a room or a conversation. Raises Refused when it is invalid or not stored."""
        admin = await self.authorize("admin")
        publication = self.body(Publication)
        if (publication.room is None) == (publication.to is None):
            raise Refused(BAD_REQUEST, faults="set either room or to")
        place = room(publication.room) if publication.room else direct(publication.sender, str(publication.to))
        try:
            offset = await self.services.chat.post(
                place, publication.sender, publication.text, [], publication.client_id
            )
        except OSError as error:
            raise Refused(UNAVAILABLE, what="the message was not stored; send it again", error=error) from None
        log.info("chat.published", stream=place.stream, sender=publication.sender, by=admin.name, address=self.address)
        self.write({"stream": place.wire_name(publication.sender), "offset": offset})


class BroadcastToAll(BackEndHandler):
    async def post(self) -> None:
        """Sends an announcement to all users. Raises Refused when it is invalid or not sent."""
        admin = await self.authorize("admin")
        announcement = self.body(Announcement)
        try:
            await self.services.chat.announce(admin.name, announcement.text)
        except OSError as error:
            raise Refused(UNAVAILABLE, what="the announcement was not sent; send it again", error=error) from None
        log.info("chat.broadcast", by=admin.name, address=self.address)
        self.set_status(204)


class ReadPresence(BackEndHandler):
    async def get(self) -> None:
        """Returns the users in a room. Raises Refused when presence is unavailable."""
        await self.authorize("admin")
        name = self.get_query_argument("room", "")
        try:
            self.write({"room": name, "present": await self.services.chat.presence.present(room(name).live)})
        except OSError as error:
            raise Refused(UNAVAILABLE, what="presence is unavailable; try again later", error=error) from None


routes = [(r"/chat/publish", Publish), (r"/chat/broadcast", BroadcastToAll), (r"/chat/presence", ReadPresence)]
