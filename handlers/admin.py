"""POST /admin/kick: closes the connections of a user and bans the user for a time. For backend systems with a token of
scope ``admin``.
"""

import time

import structlog
from pydantic import Field, ValidationError

from handlers.core.http import BaseHandler
from handlers.core.refusals import BAD_REQUEST, UNAVAILABLE, Refused
from works.validation import StrictModel, describe_faults

log = structlog.get_logger()


class Kick(StrictModel):
    """The body of the request. ``deny_s`` is the length of the ban in seconds; 0 only closes the open connections."""

    user: str = Field(min_length=1, max_length=200)
    deny_s: float = Field(0, ge=0, le=10 * 365 * 24 * 3600)


class KickUser(BaseHandler):
    async def post(self) -> None:
        """Bans the user and answers with 204. Raises Refused when the request is not valid or not allowed."""
        admin = await self.authorize("admin")
        try:
            kick = Kick.model_validate_json(self.request.body)
        except ValidationError as error:
            raise Refused(BAD_REQUEST, faults=describe_faults(error, "the body")) from None
        try:
            await self.services.bans.deny(kick.user, time.time() + kick.deny_s)
        except OSError as error:
            raise Refused(UNAVAILABLE, what="the denial could not be kept", error=error) from None
        log.info("kicked", user=kick.user, deny_s=kick.deny_s, by=admin.name, address=self.address)
        self.set_status(204)


routes = [(r"/admin/kick", KickUser)]
