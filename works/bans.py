"""Bans keep users out until a given time. Each is an event on a durable stream, so it survives a restart and reaches
every server that shares the event store; the newest one of a user counts."""

import asyncio
import json
import random
import time
from collections.abc import Callable

import structlog

from works.events.broker import Broker, PositionLost

log = structlog.get_logger()

_STREAM = "denials"  # as bans were called once: stored streams keep their names
_PAGE = 500

Kick = Callable[[str], None]


class Bans:
    """``pause``, ``longest_pause``: seconds until ``follow`` tries again what has failed, at first and at most. They
    double with each failure; a random part of them, at least half, is waited."""

    def __init__(self, broker: Broker, *, pause: float = 0.5, longest_pause: float = 2.0) -> None:
        self._broker = broker
        self._pause, self._longest_pause = pause, longest_pause
        # User -> until when, in seconds since 1970.
        self._until: dict[str, float] = {}
        # The epoch of the stream, and the offset up to which it was read.
        self._epoch, self._offset = "", 0
        # Whether what is in force was appended again since the stream was last caught up with.
        self._is_restored = False

    async def load(self) -> None:
        """Reads the bans in force. To be called before the first connection is let in. Raises OSError."""
        await self._catch_up(lambda user: None)

    async def deny(self, user: str, until: float) -> None:
        """Ends the user's connections and keeps them out until then (seconds since 1970); a past time lets them in.

        Raises OSError: then the ban may be in force or not.
        """
        await self._broker.append(_STREAM, json.dumps({"user": user, "until": until}))

    async def follow(self, kick: Kick) -> None:
        """Calls ``kick`` with every user who is banned from now on, by whichever server. Runs until cancelled.

        While the event store fails it tries again. Bans that were made meanwhile are found when it answers.
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
                pass  # ``_catch_up`` reads what there is
            except OSError as error:
                if failing_since is None:
                    failing_since = clock()
                    log.warning("bans.unavailable", reason=str(error))
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))
            pause = min(2 * pause, self._longest_pause)

    def until(self, user: str) -> float:
        """When the user may come back, in seconds since 1970; 0 when they may now."""
        until = self._until.get(user, 0)
        return until if until > time.time() else 0

    async def _read_on(self, kick: Kick) -> None:
        """Raises PositionLost or OSError; it does not return otherwise."""
        async for events in self._broker.subscribe(_STREAM, self._offset):
            for event in events:
                self._offset = event.offset
                kick(self._apply(event.data))

    async def _catch_up(self, kick: Kick) -> None:
        """Reads what the stream has and is not yet known, also when it has begun again or has lost events."""
        self._is_restored = False
        position = await self._broker.position(_STREAM)
        if position.epoch != self._epoch:
            self._epoch, self._offset = position.epoch, 0
        self._offset = min(self._offset, position.offset)
        while events := await self._broker.read(_STREAM, self._offset, _PAGE):
            for event in events:
                self._offset = event.offset
                kick(self._apply(event.data))
        # Appended again, so that what is in force is there after the loss of all data, and never among the oldest
        # events, which are dropped first. The offset stays: others may have appended bans in between.
        for user in list(self._until):
            if until := self.until(user):
                await self.deny(user, until)
        self._is_restored = True

    def _apply(self, data: str) -> str:
        """Puts one ban in force and drops those that have run out; returns its user."""
        ban = json.loads(data)
        now = time.time()
        self._until = {user: until for user, until in self._until.items() if until > now}
        self._until[ban["user"]] = ban["until"]
        return str(ban["user"])
