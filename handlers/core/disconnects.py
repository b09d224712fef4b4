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


# What the client asked for has come to its end.
ENDED = Disconnect(1000, "", True)
DONE = Disconnect(1000, "done", True)
RESUMED_ELSEWHERE = Disconnect(1001, "the session was resumed on another connection", True)

# The client has broken the protocol.
PROTOCOL_ERROR = Disconnect(1002, "{rule}", True)
NOT_UTF8 = Disconnect(1007, "text must be UTF-8", True)
MESSAGE_TOO_BIG = Disconnect(1009, "a message has at most {most:,} bytes", True)
BROADCAST_TOO_BIG = Disconnect(1009, "a message to everybody has at most {most:,} bytes", True)

# The server cannot go on. INTERNAL_ERROR is a fault of ours, which would come again.
INTERNAL_ERROR = Disconnect(1011, "internal error", True)
RESTARTING = Disconnect(1012, "the server is restarting", False)
BACKEND_UNAVAILABLE = Disconnect(1012, "what this needs cannot be reached; come back", False)
EVENTS_UNAVAILABLE = Disconnect(1012, "the events cannot be read; come back", False)

# The client is not, or no longer, allowed to go on.
TOKEN_EXPIRED = Disconnect(4401, "the token has run out", True)
KICKED = Disconnect(4403, "an administrator has ended this connection", True)
TOO_MANY_MESSAGES = Disconnect(4429, "too many messages ({setting})", True, "rate")
TOO_MANY_UNREAD = Disconnect(4429, "{count} messages wait unread; wait for answers before you send more", True, "inbox")

# The connection is of no more use; another one may be.
SILENT = Disconnect(4408, "silent too long (pong_timeout)", False)
OUTBOX_FULL = Disconnect(4508, "reading too slowly (outbox)", False, "slow_reader")
READER_STALLED = Disconnect(4508, "reading too slowly (stall_timeout)", False, "slow_reader")
EVENTS_LOST = Disconnect(4508, "{why}", False)
STREAM_LOST = Disconnect(4508, "the log has begun again, or cannot be read; come back", False)

DISCONNECTS = tuple(value for value in globals().values() if isinstance(value, Disconnect))
"""All of them, in the order of this file."""
# A code of which one disconnect is not final says to a client that it may come back.
RECONNECT_CODES = frozenset(each.code for each in DISCONNECTS if not each.final)
