"""The works of one server, opened from plain values and closed in order."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace

from works.chat import Chat
from works.denials import Denials
from works.events import EventLog
from works.events.open import open_events
from works.media import FolderMedia, open_media
from works.metrics import Metrics
from works.queue import WorkQueue
from works.queue.decoder import ChildSettings
from works.queue.local import LocalQueue
from works.queue.pending import Bounds
from works.sessions import Sessions
from works.uploads import Uploads, UploadSettings, open_uploads

# Seconds between sweeps of results and of streams.
_SWEEP = 30.0


@dataclass(slots=True)
class Works:
    """``media_ttl`` in seconds and ``media_bytes`` bound what the media store keeps."""

    queue: WorkQueue
    events: EventLog
    media: FolderMedia
    uploads: Uploads
    sessions: Sessions
    denials: Denials
    chat: Chat
    metrics: Metrics
    media_ttl: float
    media_bytes: int

    async def keep_house(self) -> None:
        """Sweeps until cancelled; a store that fails is tried again at the next turn, and /readyz tells of it."""
        while True:
            with suppress(OSError):
                await asyncio.to_thread(self.media.sweep, self.media_ttl, self.media_bytes)
            with suppress(OSError):
                await self.uploads.sweep()
            with suppress(OSError):
                await self.events.sweep()
            await asyncio.sleep(_SWEEP)

    async def faults(self) -> list[str]:
        """Why work cannot be done now; empty when it can."""
        faults = [] if self.queue.ready() else ["queue: its workers have stopped"]
        for name, check in (("events", self.events.check()), ("media", asyncio.to_thread(self.media.check))):
            try:
                await check
            except OSError as error:
                faults.append(f"{name}: {error.strerror or error}")
        return faults

    async def drain(self, deadline: float) -> None:
        """Accepts no more, finishes what runs within ``deadline`` seconds, fails the rest as temporary."""
        await self.queue.close(deadline)
        await self.sessions.settle()

    async def close(self) -> None:
        """Writes what is not yet written. To be called when nobody reads events any more."""
        await self.chat.settle()
        await self.events.close()


async def open_works(
    child: ChildSettings, bounds: Bounds, *, workers: int, isolation: str, events: str, session_events: int,
    session_grace: float, session_ttl: float, media_ttl: float, media_bytes: int,
    uploads: UploadSettings, frame: Callable[[str], bytes],
) -> Works:  # fmt: skip
    """``frame`` makes of a text what goes over a client's wire.

    Raises ValueError for a URL of an unknown kind, OSError for a place that cannot be used.
    """
    metrics = Metrics()
    media = open_media(child.media)
    child = replace(child, media=media.url)
    log = open_events(events, session_events)
    metrics.watch(metrics.event_syncs, lambda: log.syncs)
    queue = LocalQueue(child, media, bounds, metrics, workers=workers, isolation=isolation)
    sessions = Sessions(log, queue, grace=session_grace, ttl=session_ttl)
    kept_uploads = open_uploads(queue, uploads)
    denials = Denials(log)
    await denials.load()
    await queue.start()
    return Works(queue, log, media, kept_uploads, sessions, denials, Chat(log, frame), metrics, media_ttl, media_bytes)
