"""Users who are kept out, until when. Each denial is an event on a durable stream, so it outlives a restart and reaches
every server that shares the log; the newest of a user counts."""

import json
import time
from collections.abc import Callable

from works.events.broker import Broker, PositionLost

_STREAM = "denials"
_PAGE = 500


class Bans:
    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._until: dict[str, float] = {}
        self._seen = 0

    async def load(self) -> None:
        """Reads what is in force. To be called before the first connection is let in."""
        while events := await self._broker.read(_STREAM, self._seen, _PAGE):
            for event in events:
                self._heed(event.data)
            self._seen = events[-1].offset
        # Said again, so that what is in force is never among the oldest, which the log lets go of.
        for user, until in list(self._until.items()):
            self._seen = await self._broker.append(_STREAM, json.dumps({"user": user, "until": until}))

    async def deny(self, user: str, until: float) -> None:
        """Ends the user's connections and keeps them out until then (seconds since 1970); a past time lets them in."""
        await self._broker.append(_STREAM, json.dumps({"user": user, "until": until}))

    async def follow(self, kick: Callable[[str], None]) -> None:
        """Calls ``kick`` with every user denied from now on, whichever server did it. Runs until cancelled."""
        while True:
            try:
                async for events in self._broker.subscribe(_STREAM, self._seen):
                    for event in events:
                        self._seen = event.offset
                        kick(self._heed(event.data))
            except PositionLost:
                # The log has begun anew, without its denials; those that are known here are said again.
                self._seen = 0
                await self.load()

    def until(self, user: str) -> float:
        """When the user may come back, in seconds since 1970; 0 when they may now."""
        until = self._until.get(user, 0)
        return until if until > time.time() else 0

    def _heed(self, data: str) -> str:
        """Takes note of one denial and drops those that have run out."""
        denial = json.loads(data)
        now = time.time()
        self._until = {user: until for user, until in self._until.items() if until > now}
        self._until[denial["user"]] = denial["until"]
        return str(denial["user"])
