"""The works of one server, opened from plain values and closed in order."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from works.bans import Bans
from works.chat.messages import Chat
from works.events.open import open_events
from works.events.settings import EventSettings
from works.events.store import EventStore
from works.imaging.settings import ImageLimits
from works.jobs import load
from works.jobs.batch.settings import BatchSettings
from works.jobs.film.settings import FilmSettings
from works.jobs.resources import JobResources
from works.jobs.rollout.settings import RolloutSettings
from works.jobs.service import JobService
from works.jobs.settings import HelperSettings, JobSettings
from works.metrics import Metrics
from works.queue import WorkQueue
from works.queue.cluster_address import QueueSettings
from works.queue.decoder import DecoderSettings
from works.queue.open import open_queue
from works.queue.order import QueueBounds
from works.sessions import Sessions, SessionSettings
from works.storage.address import StoreOptions, StoreThreads
from works.storage.open import open_results
from works.storage.results import ResultStore
from works.storage.uploads import Uploads, UploadSettings, open_uploads
from works.video.service import VideoService
from works.video.settings import VideoSettings
from works.video.snapshots import Snapshots

# Seconds between sweeps of results and of streams.
_SWEEP = 30.0
# Seconds between sweeps of what is in an object store, where each look at 1,000 names is a request that is paid for.
_SWEEP_OBJECTS = 300.0
# Seconds after which a store that has not answered is told of as such.
_CHECK = 6.0
# Seconds at the end for what is still to be said to the log: one that is away would keep the server from its end.
_LAST_WORDS = 5.0
# Threads that wait for stores, of results and of uploads each. A store that hangs may hold up as many requests at once.
_THREADS = 16

Check = Callable[[], Awaitable[None]]


@dataclass(slots=True)
class Services:
    """``media_ttl`` in seconds and ``media_bytes`` bound what the media store keeps."""

    queue: WorkQueue
    events: EventStore
    media: ResultStore
    uploads: Uploads
    sessions: Sessions
    bans: Bans
    chat: Chat
    jobs: JobService
    metrics: Metrics
    video: VideoService
    snapshots: Snapshots
    media_ttl: float
    media_bytes: int
    bucket_rule: bool
    """Whether a rule of the bucket's deletes what is old in it, so that we need not."""
    threads: StoreThreads
    """In which to wait for ``media``."""
    _checks: "dict[str, asyncio.Future[None]]" = field(default_factory=dict)

    async def keep_house(self) -> None:
        """Sweeps until cancelled; a store that fails is tried again at the next turn, and /readyz tells of it."""
        places = ((self.media.place, self._sweep_media), (self.uploads.place, self.uploads.sweep))
        sweeps = (_every(_SWEEP if isinstance(place, Path) else _SWEEP_OBJECTS, sweep) for place, sweep in places)
        await asyncio.gather(_every(_SWEEP, self.events.sweep), *sweeps)

    async def _sweep_media(self) -> None:
        if isinstance(self.media.place, Path) or not self.bucket_rule:
            await self.threads.run(self.media.sweep, self.media_ttl, self.media_bytes)

    async def faults(self) -> list[str]:
        """Why work cannot be done now; empty when it can."""
        faults = [] if self.queue.ready() else ["queue: no worker can be reached"]
        media = partial(self.threads.run, self.media.check)
        checks: dict[str, Check] = {"events": self.events.check, "media": media, "uploads": self.uploads.check}
        found = await asyncio.gather(*(self._fault(name, check) for name, check in checks.items()))
        return faults + [f"{name}: {fault}" for name, fault in zip(checks, found, strict=True) if fault]

    async def _fault(self, name: str, check: Check) -> str:
        """What a check says; one that does not end is not begun anew, however often it is asked for."""
        running = self._checks.get(name)
        if running is None:
            running = self._checks[name] = asyncio.ensure_future(check())
            running.add_done_callback(lambda _: self._checks.pop(name))
        await asyncio.wait({running}, timeout=_CHECK)
        if not running.done():
            return f"it has not answered within {_CHECK:g} s"
        try:
            await running
        except OSError as error:
            return str(error.strerror or error)
        return ""

    async def drain(self, deadline: float) -> None:
        """Accepts no more, finishes what runs within ``deadline`` seconds, fails the rest as temporary."""
        await self.video.close()
        # Jobs first: they are told to stop before their tasks fail.
        await asyncio.gather(self.jobs.runner.drain(deadline), self.queue.close(deadline))
        await _within(_LAST_WORDS, self.sessions.settle())

    async def close(self) -> None:
        """Writes what is not yet written. To be called when nobody reads events any more."""
        await _within(_LAST_WORDS, self.chat.settle())
        await self.events.close()
        self.threads.close()
        self.uploads.threads.close()


async def _within(seconds: float, work: Awaitable[None]) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await work


async def _every(seconds: float, sweep: Check) -> None:
    while True:
        with suppress(OSError):
            await sweep()
        await asyncio.sleep(seconds)


async def open_services(
    child: DecoderSettings,
    bounds: QueueBounds,
    cluster: QueueSettings,
    *,
    workers: int,
    isolation: str,
    events: EventSettings,
    sessions: SessionSettings,
    media_ttl: float,
    media_bytes: int,
    bucket_rule: bool,
    uploads: UploadSettings,
    uploads_store: StoreOptions,
    frame: Callable[[str], bytes],
    video: VideoSettings | None = None,
    images: ImageLimits | None = None,
    jobs: JobSettings | None = None,
    rollout: RolloutSettings | None = None,
    batch: BatchSettings | None = None,
    film: FilmSettings | None = None,
    helpers: HelperSettings | None = None,
) -> Services:
    """``frame`` makes of a text what goes over a client's wire.

    Raises ValueError for a URL of an unknown kind, OSError for a place that cannot be used.
    """
    jobs = jobs or JobSettings()
    load(jobs.job_modules)
    metrics = Metrics()
    media = open_results(child.media, child.store)
    child = replace(child, media=media.url)
    store = open_events(events)
    metrics.watch(metrics.event_syncs, lambda: store.syncs)
    queue = await open_queue(cluster, child, media, bounds, metrics, workers=workers, isolation=isolation)
    live = VideoService(video or VideoSettings(), queue, metrics)
    kept_uploads = open_uploads(queue, uploads, uploads_store, StoreThreads(_THREADS))
    bans = Bans(store.broker)
    await bans.load()
    await queue.start()
    threads = StoreThreads(_THREADS)
    resources = JobResources(
        settings=jobs.model_copy(update={"job_events": min(jobs.job_events, events.session_events)}),
        rollout=rollout or RolloutSettings(),
        batch=batch or BatchSettings(),
        film=film or FilmSettings(),
        helpers=helpers or HelperSettings(),
        images=images or ImageLimits(),
        results=media,
        uploads=kept_uploads,
        threads=threads,
    )
    return Services(
        queue,
        store,
        media,
        kept_uploads,
        Sessions(store.broker, queue, sessions),
        bans,
        Chat(store.broker, store.marks, store.presence, frame),
        JobService(store.broker, store.marks, store.leases, queue, resources, frame),
        metrics,
        live,
        Snapshots(live),
        media_ttl,
        media_bytes,
        bucket_rule,
        threads,
    )
