"""Every refusal of a request over HTTP, before an upgrade too, as data: the status, the error code and the message.

docs/protocol.md lists the same, which a test compares.
"""

from dataclasses import dataclass
from typing import Any

import tornado.web

from works.errors import Code, WorkError

STATUS: dict[Code, int] = {
    "bad_message": 400,
    "too_large": 413,
    "bad_image": 422,
    "unsupported_format": 415,
    "too_many_pixels": 422,
    "unknown_action": 400,
    "bad_options": 400,
    "busy": 503,
    "cancelled": 503,
    "timeout": 504,
    "crashed": 422,
    "forbidden": 403,
    "not_found": 404,
    "internal": 500,
}
"""The status with which an error of the work is answered over HTTP."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """`message` may have places, as `{scope}`.

    `cause` is the label by which the metric of refusals counts it and the log names it; the code where it is empty.
    """

    status: int
    code: Code
    message: str
    cause: str = ""
    retry_after_s: int | None = None


# The user.
TOKEN_MISSING = Refusal(
    401, "forbidden", "a token is needed: Authorization: Bearer, or subprotocol bearer.<JWT>", "missing"
)
"""There is no token in the headers, in the subprotocols or in the cookie."""
TOKEN_TOO_LONG = Refusal(401, "forbidden", "the token is longer than {most:,} characters", "bad")
"""It is refused without parsing it."""
TOKEN_EXPIRED = Refusal(401, "forbidden", "the token has run out", "expired")
"""Its `exp` is past."""
TOKEN_BAD = Refusal(401, "forbidden", "the token is not accepted: {why}", "bad")
"""It is no JWT, is not signed with our key, or has not the claims that it must have."""
TOKEN_OF_OTHER_ADDRESS = Refusal(401, "forbidden", "the token is for another address", "ip_mismatch")
"""Its `ip` is not the address of the client."""
SCOPE_MISSING = Refusal(403, "forbidden", "the token's scope must include {scope!r}")
"""The token is for other endpoints."""
BANNED = Refusal(403, "forbidden", "this user is kept out until {until}", "denied")
"""An administrator has denied the user (`/admin/kick`)."""
ORIGIN_MISSING = Refusal(403, "forbidden", "a request that goes by cookie must say its Origin")
"""Without it, a page of another origin could use the console's cookie."""
SOCKET_ORIGIN_MISSING = Refusal(403, "forbidden", "a connection that goes by cookie must say its Origin")
"""The same, before an upgrade."""
FOREIGN_ORIGIN = Refusal(403, "forbidden", "pages of {origin} may not connect (allow_origins)")
"""The page is neither of our own origin nor of an allowed one."""

# The request.
BAD_REQUEST = Refusal(400, "bad_message", "{faults}")
"""The query or the body does not fit; the message names each member that is wrong."""
CLIENT_GONE = Refusal(400, "bad_message", "the client did not wait")
"""The client closed the connection before it was authorized, and does not get this answer."""
NOT_A_SOCKET_REQUEST = Refusal(426, "bad_message", "this is a WebSocket. {description}")
"""A request without an upgrade by a program that accepts JSON."""
NOTHING_HERE = Refusal(404, "not_found", "there is nothing at this address")
"""No endpoint has this path."""
NOT_FOUND = Refusal(404, "not_found", "{what}")
"""The result or upload is not kept any more, or never was."""
BODY_TOO_LARGE = Refusal(413, "too_large", "at most {most:,} bytes are taken (max_slice_bytes)")
"""The body of `/process` is larger than a slice may be."""

# The state of the server.
TOO_MANY_OF_USER = Refusal(
    429, "busy", "this user has {most} open connections (connections_per_user)", "too_many_connections", 5
)
"""The user must close a connection first."""
TOO_MANY_OF_ADDRESS = Refusal(
    429, "busy", "this address has {most} open connections (connections_per_address)", "too_many_connections", 5
)
"""A connection of the address must be closed first."""
RESTARTING = Refusal(503, "busy", "the server is restarting", "restarting", 5)
"""The server drains, and opens no new connections."""
UNAVAILABLE = Refusal(503, "internal", "{what}: {error}", retry_after_s=5)
"""The event store cannot be reached."""
FILE_UNAVAILABLE = Refusal(503, "internal", "it cannot be fetched now: {error}", retry_after_s=1)
"""The object store cannot be reached."""

REFUSALS = tuple(value for value in globals().values() if isinstance(value, Refusal))
"""All of them, in the order of this file."""


class Refused(tornado.web.HTTPError):
    """A request refused, with the refusal's places filled; `more` are further members of the error's JSON.

    `cause` is the label of metrics and the log: the refusal's own, or the code.
    """

    def __init__(self, refusal: Refusal, *, more: dict[str, object] | None = None, **values: Any) -> None:
        super().__init__(refusal.status)
        self.code = refusal.code
        self.message = refusal.message.format(**values)
        self.cause = refusal.cause or refusal.code
        self.retry_after_s = refusal.retry_after_s
        self.more = more or {}

    @classmethod
    def because(cls, error: WorkError) -> "Refused":
        """The refusal that an error of the work amounts to."""
        after = -(-error.retry_after_ms // 1000) if error.retry_after_ms else None
        errors = error.as_dict().get("errors")
        refusal = Refusal(STATUS[error.code], error.code, "{message}", retry_after_s=after)
        return cls(refusal, more={"errors": errors} if errors is not None else None, message=error.message)
