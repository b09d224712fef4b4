"""Every refusal of an HTTP request, as data: its status, its error code and its message.

Refusals before a WebSocket upgrade are among them. docs/protocol.md has the same list, and a test compares the two.
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
"""Error code of a task -> HTTP status."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """One kind of refusal. `message` may have placeholders such as `{scope}`.

    `cause` is its label in the metric of refusals and in the log. When it is empty, the label is the code.
    """

    status: int
    code: Code
    message: str
    cause: str = ""
    retry_after_s: int | None = None


# The user.
TOKEN_MISSING = Refusal(
    401,
    "forbidden",
    "token missing: send Authorization: Bearer <JWT> or the subprotocol bearer.<JWT>",
    "missing",
)
"""No token is in the headers, in the subprotocols or in the cookie."""
TOKEN_TOO_LONG = Refusal(401, "forbidden", "token too long: at most {most:,} characters", "bad")
"""The token is longer than any valid token, so it is not parsed."""
TOKEN_EXPIRED = Refusal(401, "forbidden", "token expired; get a new one", "expired")
"""The claim `exp` is in the past."""
TOKEN_BAD = Refusal(401, "forbidden", "token rejected: {why}", "bad")
"""The token is not a JWT, has a wrong signature, or lacks a required claim."""
TOKEN_OF_OTHER_ADDRESS = Refusal(401, "forbidden", "token is only valid from another IP address", "ip_mismatch")
"""The claim `ip` differs from the address of the client."""
SCOPE_MISSING = Refusal(403, "forbidden", "scope missing: the token's scope must include {scope!r}")
"""The token is for other endpoints."""
BANNED = Refusal(403, "forbidden", "user is banned until {until}", "denied")
"""An administrator has banned the user (`/admin/kick`)."""
ORIGIN_MISSING = Refusal(403, "forbidden", "Origin header missing: a request with a cookie needs it")
"""Without the header, a page of another origin could use the console's cookie."""
SOCKET_ORIGIN_MISSING = Refusal(403, "forbidden", "Origin header missing: a connection with a cookie needs it")
"""The same check for a WebSocket connection."""
FOREIGN_ORIGIN = Refusal(403, "forbidden", "origin {origin} is not allowed; add it to allow_origins")
"""The page is neither from the server's own origin nor from an allowed one."""

# The request.
BAD_REQUEST = Refusal(400, "bad_message", "{faults}")
"""The query or the body is invalid. The message names each wrong member."""
CLIENT_GONE = Refusal(400, "bad_message", "the client closed the connection")
"""The client closed the connection during authorization. It does not receive this answer."""
NOT_A_SOCKET_REQUEST = Refusal(426, "bad_message", "this is a WebSocket. {description}")
"""A program that accepts JSON sent a plain HTTP request to a socket."""
NOTHING_HERE = Refusal(404, "not_found", "there is no endpoint at this path")
"""The path is unknown."""
NOT_FOUND = Refusal(404, "not_found", "{what}")
"""The result or upload is no longer retained, or never existed."""
BODY_TOO_LARGE = Refusal(413, "too_large", "body too large: at most {most:,} bytes (max_slice_bytes)")
"""The body of `/process` is larger than the largest slice."""

# The state of the server.
TOO_MANY_OF_USER = Refusal(
    429,
    "busy",
    "user already has {most} open connections (connections_per_user); close one first",
    "too_many_connections",
    5,
)
"""The user has too many open sockets."""
TOO_MANY_OF_ADDRESS = Refusal(
    429,
    "busy",
    "address already has {most} open connections (connections_per_address); close one first",
    "too_many_connections",
    5,
)
"""The IP address has too many open sockets."""
RESTARTING = Refusal(503, "busy", "server is restarting; try again", "restarting", 5)
"""The server is shutting down and accepts no new connections."""
UNAVAILABLE = Refusal(503, "internal", "{what}: {error}", retry_after_s=5)
"""The event store is unavailable."""
FILE_UNAVAILABLE = Refusal(503, "internal", "file unavailable: {error}; try again", retry_after_s=1)
"""The object store is unavailable."""

REFUSALS = tuple(value for value in globals().values() if isinstance(value, Refusal))
"""All refusals, in the order of this file."""


class Refused(tornado.web.HTTPError):
    """An HTTP request was refused. `values` fill the refusal's placeholders, `more` adds members to the error's JSON.

    `cause` is the label in metrics and in the log: that of the refusal, or its code.
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
        """Returns the refusal for an error of a task."""
        after = -(-error.retry_after_ms // 1000) if error.retry_after_ms else None
        errors = error.as_dict().get("errors")
        refusal = Refusal(STATUS[error.code], error.code, "{message}", retry_after_s=after)
        return cls(refusal, more={"errors": errors} if errors is not None else None, message=error.message)
