"""A ban keeps a user from connecting until a given time.

Each ban is an event on a durable stream. So it survives a restart and reaches every server with the same event store.
The newest ban of a user counts.
"""

import asyncio
import json
import random
import time
from collections.abc import Callable

import structlog

from works.events.broker import Broker, PositionLost

log = structlog.get_logger()

_STREAM = "denials"  # an earlier name of bans, which stays because it is the name of stored streams
_PAGE = 500

Kick = Callable[[str], None]


class Bans:
    """``pause``, ``longest_pause``: seconds until ``follow`` repeats a failed read, at first and at most.

    The pause doubles with each failure. A random part of it, at least half, is waited.
    """

    def __init__(self, broker: Broker, *, pause: float = 0.5, longest_pause: float = 2.0) -> None:
        self._broker = broker
        self._pause, self._longest_pause = pause, longest_pause
        # User -> end of the ban, in seconds since 1970.
        self._until: dict[str, float] = {}
        # Epoch of the stream, and the offset up to which it was read.
        self._epoch, self._offset = "", 0
        # Whether the current bans were appended again since the last complete read of the stream.
        self._is_restored = False

    async def load(self) -> None:
        """Reads the current bans. To be called before the first connection is accepted. Raises OSError."""
        await self._catch_up(lambda user: None)

    async def deny(self, user: str, until: float) -> None:
        """Ends the user's connections and bans the user until this time, in seconds since 1970. A past time ends the
        ban.

        Raises OSError when the ban may or may not have been stored.
        """
        await self._broker.append(_STREAM, json.dumps({"user": user, "until": until}))

    async def follow(self, kick: Kick) -> None:
        """Calls ``kick`` for every new ban from any server. Runs until cancelled.

        While the event store fails, it tries again. Bans from that time are read when the store answers again.
        """
        clock = asyncio.get_running_loop().time
        pause, failing_since = self._pause, None
        while True:
            try:
                if not (self._is_restored and await self._broker.recovers(_STREAM, self._epoch, self._offset)):
                    await self._catch_up(kick)
                if failing_since is not None:
                    log.info("bans.recovered", after_s=round(clock() - failing_since, 1))
                    failing_since = None
                pause = self._pause
                await self._read_on(kick)
            except PositionLost:
                pass  # the loop reads the stream again with ``_catch_up``
            except OSError as error:
                if failing_since is None:
                    failing_since = clock()
                    log.warning("bans.unavailable", reason=str(error))
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))
            pause = min(2 * pause, self._longest_pause)

    def until(self, user: str) -> float:
        """Returns when the user may connect again, in seconds since 1970, or 0 when there is no ban."""
        until = self._until.get(user, 0)
        return until if until > time.time() else 0

    async def _read_on(self, kick: Kick) -> None:
        """Reads new bans. It ends only with PositionLost or OSError."""
        async for events in self._broker.subscribe(_STREAM, self._offset):
            for event in events:
                self._offset = event.offset
                kick(self._apply(event.data))

    async def _catch_up(self, kick: Kick) -> None:
        """Reads the events since the last read, even when the stream was started again or has dropped events."""
        self._is_restored = False
        position = await self._broker.position(_STREAM)
        if position.epoch != self._epoch:
            self._epoch, self._offset = position.epoch, 0
        self._offset = min(self._offset, position.offset)
        while events := await self._broker.read(_STREAM, self._offset, _PAGE):
            for event in events:
                self._offset = event.offset
                kick(self._apply(event.data))
        # Appends the current bans again. So they are on the stream after a loss of all data, and are never the oldest
        # events, which are dropped first. The position stays the same, because other servers may have appended bans in
        # between.
        for user in list(self._until):
            if until := self.until(user):
                await self.deny(user, until)
        self._is_restored = True

    def _apply(self, data: str) -> str:
        """Applies one ban and removes expired ones. Returns the user of the ban."""
        ban = json.loads(data)
        now = time.time()
        self._until = {user: until for user, until in self._until.items() if until > now}
        self._until[ban["user"]] = ban["until"]
        return str(ban["user"])
