"""All refusals of HTTP requests, and of the requests that open a WebSocket, as data: status, error code and message.

docs/protocol.md lists the same refusals, and a test compares the two lists.
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
"""The HTTP status for each error code of a WorkError."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """A refusal that the server can send as an HTTP response.

    `message` may contain placeholders such as `{scope}`. `cause` is the label of the refusal in metrics and in the log;
    when it is empty, the label is the code.
    """

    status: int
    code: Code
    message: str
    cause: str = ""
    retry_after_s: int | None = None


# Refusals because of the user, the token or the origin.
TOKEN_MISSING = Refusal(
    401, "forbidden", "a token is needed: Authorization: Bearer, or subprotocol bearer.<JWT>", "missing"
)
"""The request has no token in its headers, in its subprotocols or in its cookie."""
TOKEN_TOO_LONG = Refusal(401, "forbidden", "the token is longer than {most:,} characters", "bad")
"""The token is refused without parsing it."""
TOKEN_EXPIRED = Refusal(401, "forbidden", "the token has run out", "expired")
"""The time in the claim `exp` is past."""
TOKEN_BAD = Refusal(401, "forbidden", "the token is not accepted: {why}", "bad")
"""The token is not a JWT, is not signed with the configured key, or lacks a required claim."""
TOKEN_OF_OTHER_ADDRESS = Refusal(401, "forbidden", "the token is for another address", "ip_mismatch")
"""The claim `ip` of the token is not the address of the client."""
SCOPE_MISSING = Refusal(403, "forbidden", "the token's scope must include {scope!r}")
"""The token has no scope that this endpoint accepts."""
BANNED = Refusal(403, "forbidden", "this user is kept out until {until}", "denied")
"""An administrator has banned the user (`/admin/kick`)."""
ORIGIN_MISSING = Refusal(403, "forbidden", "a request that goes by cookie must say its Origin")
"""Without this check, a page of another origin could use the console's cookie."""
SOCKET_ORIGIN_MISSING = Refusal(403, "forbidden", "a connection that goes by cookie must say its Origin")
"""The same as ORIGIN_MISSING, for a request that opens a WebSocket."""
FOREIGN_ORIGIN = Refusal(403, "forbidden", "pages of {origin} may not connect (allow_origins)")
"""The page is neither of our own origin nor of an allowed origin."""

# Refusals because of the request.
BAD_REQUEST = Refusal(400, "bad_message", "{faults}")
"""The query or the body is not valid. The message names each wrong member."""
CLIENT_GONE = Refusal(400, "bad_message", "the client did not wait")
"""The client closed the connection before it was authorized. It never receives this response."""
NOT_A_SOCKET_REQUEST = Refusal(426, "bad_message", "this is a WebSocket. {description}")
"""A program that accepts JSON sent a request without a WebSocket upgrade."""
NOTHING_HERE = Refusal(404, "not_found", "there is nothing at this address")
"""No endpoint has this path."""
NOT_FOUND = Refusal(404, "not_found", "{what}")
"""The result or upload has been deleted or never existed."""
BODY_TOO_LARGE = Refusal(413, "too_large", "at most {most:,} bytes are taken (max_slice_bytes)")
"""The body of `/process` is larger than a slice may be."""

# Refusals because of the state of the server.
TOO_MANY_OF_USER = Refusal(
    429, "busy", "this user has {most} open connections (connections_per_user)", "too_many_connections", 5
)
"""The user must close a connection first."""
TOO_MANY_OF_ADDRESS = Refusal(
    429, "busy", "this address has {most} open connections (connections_per_address)", "too_many_connections", 5
)
"""A client at this address must close a connection first."""
RESTARTING = Refusal(503, "busy", "the server is restarting", "restarting", 5)
"""The server is shutting down gracefully, and opens no new connections."""
UNAVAILABLE = Refusal(503, "internal", "{what}: {error}", retry_after_s=5)
"""The server cannot reach the event store."""
FILE_UNAVAILABLE = Refusal(503, "internal", "it cannot be fetched now: {error}", retry_after_s=1)
"""The server cannot reach the object store."""

REFUSALS = tuple(value for value in globals().values() if isinstance(value, Refusal))
"""All refusals, in the order of this file."""


class Refused(tornado.web.HTTPError):
    """The exception for a refused request, with the placeholders of the message filled.

    `more` holds further members of the error's JSON. `cause` is the label in metrics and in the log: the cause of the
    refusal, or its code when it has no cause.
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
        """Returns the refusal that matches a WorkError."""
        after = -(-error.retry_after_ms // 1000) if error.retry_after_ms else None
        errors = error.as_dict().get("errors")
        refusal = Refusal(STATUS[error.code], error.code, "{message}", retry_after_s=after)
        return cls(refusal, more={"errors": errors} if errors is not None else None, message=error.message)
