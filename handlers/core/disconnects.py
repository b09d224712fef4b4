"""Every close that the server makes, as data: the code, the reason that the client is given, and whether it is final.

Codes are those of RFC 6455 (7.4); from 4400 on they are ours. docs/protocol.md lists the same, which a test compares.
"""

from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True, slots=True)
class Disconnect:
    """`final`: reconnecting is of no use, the client would be closed again.

    `reason` may have places, as `{setting}`. `cause` is the label with which the metric of refusals counts it; closes
    without one are not counted.
    """

    code: int
    reason: str
    final: bool
    cause: str = ""

    def format(self, **values: Any) -> "Disconnect":
        """The same with its places filled. Raises KeyError for a place without a value."""
        return replace(self, reason=self.reason.format(**values))


# Nothing is left to do on the connection.
ENDED = Disconnect(1000, "", True)
"""The handler of a pull socket has returned."""
DONE = Disconnect(1000, "done", True)
"""The countdown has reached its end."""
RESUMED_ELSEWHERE = Disconnect(1001, "the session was resumed on another connection", True)
"""The client is connected already, by another connection."""

# The client has broken the protocol.
PROTOCOL_ERROR = Disconnect(1002, "{rule}", True)
"""A frame breaks RFC 6455; the reason names the rule."""
NOT_UTF8 = Disconnect(1007, "text must be UTF-8", True)
"""A text message, or the reason of a close, is not UTF-8."""
MESSAGE_TOO_BIG = Disconnect(1009, "a message has at most {most:,} bytes", True)
"""A message is larger than any slice may be."""
BROADCAST_TOO_BIG = Disconnect(1009, "a message to everybody has at most {most:,} bytes", True)
"""A message to `/ws/broadcast` is too large for the outboxes of the others."""

# The server cannot go on.
INTERNAL_ERROR = Disconnect(1011, "internal error", True)
"""A fault of the server, which would occur again; the log has the exception."""
RESTARTING = Disconnect(1012, "the server is restarting", False)
"""The server has drained and ends; the client reconnects to its successor or to another server."""
BACKEND_UNAVAILABLE = Disconnect(1012, "what this needs cannot be reached; come back", False)
"""The event store, the disk or another backend failed."""
EVENTS_UNAVAILABLE = Disconnect(1012, "the events cannot be read; come back", False)
"""The stream of the client's session cannot be read."""

# The client may not go on.
TOKEN_EXPIRED = Disconnect(4401, "the token has run out", True)
"""The client did not renew the token, of which `expiring` had warned."""
KICKED = Disconnect(4403, "an administrator has ended this connection", True)
"""`/admin/kick` names the user."""
TOO_MANY_MESSAGES = Disconnect(4429, "too many messages ({setting})", True, "rate")
"""The client sends more messages a second than the setting allows."""
TOO_MANY_UNREAD = Disconnect(4429, "{count} messages wait unread; wait for answers before you send more", True, "inbox")
"""The queue of a pull socket is full: the client sends faster than its messages are handled."""

# The connection is of no more use; a new one may be.
SILENT = Disconnect(4408, "silent too long (pong_timeout)", False)
"""The client did not answer a ping; a laptop that slept, for instance."""
OUTBOX_FULL = Disconnect(4508, "reading too slowly (outbox)", False, "slow_reader")
"""More bytes wait for the client than an outbox holds."""
READER_STALLED = Disconnect(4508, "reading too slowly (stall_timeout)", False, "slow_reader")
"""The client did not read a message in time."""
EVENTS_LOST = Disconnect(4508, "{why}", False)
"""Events that the client has not yet read are no longer kept."""
STREAM_LOST = Disconnect(4508, "the log has begun again, or cannot be read; come back", False)
"""A stream that the client listens to has a new epoch, or cannot be read."""

DISCONNECTS = tuple(value for value in globals().values() if isinstance(value, Disconnect))
"""All of them, in the order of this file."""
# The codes after which a client may reconnect.
RECONNECT_CODES = frozenset(each.code for each in DISCONNECTS if not each.final)
