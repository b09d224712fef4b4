"""POST /admin/kick: ends a user's connections and keeps them out for a while. For back ends, with scope ``admin``."""

import time

import structlog
from pydantic import Field, ValidationError

from handlers.core.http import BaseHandler, Refused
from works.validation import StrictModel, describe_faults

log = structlog.get_logger()


class Kick(StrictModel):
    """``deny_s``: seconds for which the user is not let in again; 0 only ends what is open."""

    user: str = Field(min_length=1, max_length=200)
    deny_s: float = Field(0, ge=0, le=10 * 365 * 24 * 3600)


class KickUser(BaseHandler):
    async def post(self) -> None:
        admin = await self.admit("admin")
        try:
            kick = Kick.model_validate_json(self.request.body)
        except ValidationError as error:
            raise Refused(400, "bad_message", describe_faults(error, "the body")) from None
        try:
            await self.services.bans.deny(kick.user, time.time() + kick.deny_s)
        except OSError as error:
            raise Refused(503, "internal", f"the denial could not be kept: {error}", retry_after_s=5) from None
        log.info("kicked", user=kick.user, deny_s=kick.deny_s, by=admin.name, address=self.address)
        self.set_status(204)


routes = [(r"/admin/kick", KickUser)]
