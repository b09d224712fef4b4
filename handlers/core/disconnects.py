"""Every close by the server, as data: its code, its reason, and whether the client may reconnect.

Codes below 4400 are defined by RFC 6455, section 7.4. The others are defined here. docs/protocol.md has the same list.
A test compares the two.
"""

from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True, slots=True)
class Disconnect:
    """One kind of close. `final`: the client must not reconnect, because the server would close the connection again.

    `reason` may have placeholders such as `{setting}`. `cause` is the label of this close in the metric of refusals.
    Closes without a cause are not counted.
    """

    code: int
    reason: str
    final: bool
    cause: str = ""

    def format(self, **values: Any) -> "Disconnect":
        """Returns the same close with its placeholders filled. Raises KeyError for a placeholder without a value."""
        return replace(self, reason=self.reason.format(**values))


# The connection has served its purpose.
ENDED = Disconnect(1000, "", True)
"""The server has nothing more to send on this socket."""
DONE = Disconnect(1000, "done", True)
"""The countdown (`/ws/countdown`) has reached its end."""
RESUMED_ELSEWHERE = Disconnect(1001, "the session was resumed on another connection", True)
"""The same client has resumed its session on a newer connection."""

# The client violated the protocol.
PROTOCOL_ERROR = Disconnect(1002, "{rule}", True)
"""A frame violates RFC 6455. The reason names the rule."""
NOT_UTF8 = Disconnect(1007, "text must be UTF-8", True)
"""A text message or the reason of a close is not valid UTF-8."""
MESSAGE_TOO_BIG = Disconnect(1009, "message too large: at most {most:,} bytes", True)
"""A message is larger than the largest slice."""
BROADCAST_TOO_BIG = Disconnect(1009, "broadcast too large: at most {most:,} bytes", True)
"""A message to `/ws/broadcast` is too large for the outboxes of its receivers."""

# The server cannot continue.
INTERNAL_ERROR = Disconnect(1011, "internal server error; see the server's log", True)
"""A fault of the server that would happen again. The log of the server has the exception."""
RESTARTING = Disconnect(1012, "server is restarting; reconnect", False)
"""The server has finished its work and stops. The client reconnects to the next server."""
BACKEND_UNAVAILABLE = Disconnect(1012, "backend unavailable; reconnect later", False)
"""The event store, the disk or another backend has failed."""
EVENTS_UNAVAILABLE = Disconnect(1012, "session events unavailable; reconnect later", False)
"""The events of the client's session cannot be read."""

# The client may not continue.
TOKEN_EXPIRED = Disconnect(4401, "token expired; connect with a new token", True)
"""The client did not send a new token after the message `expiring`."""
KICKED = Disconnect(4403, "connection ended by an administrator", True)
"""A request to `/admin/kick` named the user."""
TOO_MANY_MESSAGES = Disconnect(4429, "too many messages a second ({setting}); send more slowly", True, "rate")
"""The client sent more messages a second than the setting allows."""
TOO_MANY_UNREAD = Disconnect(4429, "{count} messages are waiting; wait for answers before you send more", True, "inbox")
"""The client sends faster than the server handles its messages (`/ws/echo`)."""

# This connection is lost. A new connection may work.
SILENT = Disconnect(4408, "no pong in time (pong_timeout); reconnect", False)
"""The client did not answer a ping, for example a laptop that was asleep."""
OUTBOX_FULL = Disconnect(4508, "client reads too slowly (outbox); reconnect", False, "slow_reader")
"""More bytes are waiting for the client than its outbox holds."""
READER_STALLED = Disconnect(4508, "client reads too slowly (stall_timeout); reconnect", False, "slow_reader")
"""The client did not read one message in time."""
EVENTS_LOST = Disconnect(4508, "{why}", False)
"""Events that the client has not read yet are no longer retained."""
STREAM_LOST = Disconnect(4508, "event stream lost; reconnect and read it from its start", False)
"""A stream that the client follows has a new epoch (it was started again), or cannot be read."""

DISCONNECTS = tuple(value for value in globals().values() if isinstance(value, Disconnect))
"""All closes, in the order of this file."""
# Codes after which a client may reconnect.
RECONNECT_CODES = frozenset(each.code for each in DISCONNECTS if not each.final)
