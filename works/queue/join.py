"""Joining a cluster: this process as one of its workers, or as its scheduler, until it is told to stop."""

import asyncio

from works.queue.bench import WorkerDecoders
from works.queue.cluster_address import QueueSettings
from works.queue.decoder import DecoderSettings, ProcessDecoder
from works.storage.open import open_results


async def be_worker(
    settings: QueueSettings,
    child: DecoderSettings,
    *,
    decoders: int,
    listen: str,
    drain: float,
    stopping: asyncio.Event,
) -> None:
    """Works so many slices at once. ``listen`` is this machine's address, "" the one on the way to the scheduler.

    Raises ValueError for an address that is refused, OSError for a media store that cannot be used.
    """
    from works.queue.dask import run_worker

    media = await asyncio.to_thread(open_results, child.media, child.store)
    forkserver = child.forkserver()
    bench = WorkerDecoders([ProcessDecoder(forkserver) for _ in range(decoders)], media, child.timeout)
    bench.start()
    try:
        await run_worker(settings, bench, listen, drain, stopping)
    finally:
        bench.close()
        await asyncio.to_thread(forkserver.close)


async def be_scheduler(settings: QueueSettings, *, listen: str, dashboard: str, stopping: asyncio.Event) -> None:
    """``listen`` is the address to bind, "" the host of the URL; ``dashboard`` where Dask shows its pages, "" nowhere.

    Raises ValueError for an address that is refused, OSError for one that cannot be had.
    """
    from works.queue.dask import run_scheduler

    await run_scheduler(settings, listen, dashboard, stopping)
