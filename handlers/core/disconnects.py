"""All closes that the server sends, as data: the close code, the reason for the client, and whether the close is final.

Codes below 4400 are those of RFC 6455 (section 7.4). Codes from 4400 on are defined by Sluice. docs/protocol.md lists
the same closes, and a test compares the two lists.
"""

from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True, slots=True)
class Disconnect:
    """A close that the server can send.

    `final` means that the client should not reconnect, because the server would close the new connection too. `reason`
    may contain placeholders such as `{setting}`. `cause` is the label under which the metric of refusals counts the
    close; a close without a cause is not counted.
    """

    code: int
    reason: str
    final: bool
    cause: str = ""

    def format(self, **values: Any) -> "Disconnect":
        """Returns a copy with the placeholders of the reason filled. Raises KeyError when a placeholder has
        no value.
        """
        return replace(self, reason=self.reason.format(**values))


# Closes after all work on the connection is done.
ENDED = Disconnect(1000, "", True)
"""The handler of a pull socket has returned."""
DONE = Disconnect(1000, "done", True)
"""The countdown has reached its end."""
RESUMED_ELSEWHERE = Disconnect(1001, "the session was resumed on another connection", True)
"""The client has already resumed its session on another connection."""

# Closes for a client that violates the protocol.
PROTOCOL_ERROR = Disconnect(1002, "{rule}", True)
"""A frame breaks RFC 6455; the reason names the rule."""
NOT_UTF8 = Disconnect(1007, "text must be UTF-8", True)
"""A text message, or the reason of a close, is not UTF-8."""
MESSAGE_TOO_BIG = Disconnect(1009, "a message has at most {most:,} bytes", True)
"""A message is larger than any slice may be."""
BROADCAST_TOO_BIG = Disconnect(1009, "a message to everybody has at most {most:,} bytes", True)
"""A message to `/ws/broadcast` is too large for the outboxes of the receivers."""

# Closes for problems of the server.
INTERNAL_ERROR = Disconnect(1011, "internal error", True)
"""The server has a fault that would occur again. The log contains the exception."""
RESTARTING = Disconnect(1012, "the server is restarting", False)
"""The server has finished its graceful shutdown. The client reconnects to its successor or to another server."""
BACKEND_UNAVAILABLE = Disconnect(1012, "what this needs cannot be reached; come back", False)
"""The server cannot reach the event store, the disk or another backend."""
EVENTS_UNAVAILABLE = Disconnect(1012, "the events cannot be read; come back", False)
"""The server cannot read the event stream of the client's session."""

# Closes for a client that may not continue.
TOKEN_EXPIRED = Disconnect(4401, "the token has run out", True)
"""The client did not renew its token after the warning `expiring`."""
KICKED = Disconnect(4403, "an administrator has ended this connection", True)
"""An administrator ended the connections of this user with `/admin/kick`."""
TOO_MANY_MESSAGES = Disconnect(4429, "too many messages ({setting})", True, "rate")
"""The client sends more messages a second than the setting allows."""
TOO_MANY_UNREAD = Disconnect(4429, "{count} messages wait unread; wait for answers before you send more", True, "inbox")
"""The queue of a pull socket is full: the client sends faster than its messages are handled."""

# Closes after which a new connection may work.
SILENT = Disconnect(4408, "silent too long (pong_timeout)", False)
"""The client did not answer a ping, for example because its laptop was asleep."""
OUTBOX_FULL = Disconnect(4508, "reading too slowly (outbox)", False, "slow_reader")
"""More bytes wait for the client than its outbox may hold."""
READER_STALLED = Disconnect(4508, "reading too slowly (stall_timeout)", False, "slow_reader")
"""The client did not read a message in time."""
EVENTS_LOST = Disconnect(4508, "{why}", False)
"""The server has deleted events that the client has not read yet."""
STREAM_LOST = Disconnect(4508, "the log has begun again, or cannot be read; come back", False)
"""A stream that the client reads has a new epoch (its offsets started again), or cannot be read."""

DISCONNECTS = tuple(value for value in globals().values() if isinstance(value, Disconnect))
"""All closes, in the order of this file."""
# Close codes after which a client may reconnect.
RECONNECT_CODES = frozenset(each.code for each in DISCONNECTS if not each.final)
