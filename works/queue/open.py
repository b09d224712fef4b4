"""Which WorkQueue a URL means."""

from contextlib import suppress

from works.metrics import Metrics
from works.queue import WorkQueue
from works.queue.cluster import ClusterQueue
from works.queue.cluster_address import QueueSettings
from works.queue.decoder import DecoderSettings
from works.queue.local import LocalQueue
from works.queue.order import QueueBounds
from works.storage.results import ResultStore


async def open_queue(
    settings: QueueSettings,
    child: DecoderSettings,
    media: ResultStore,
    bounds: QueueBounds,
    metrics: Metrics,
    *,
    workers: int,
    isolation: str,
) -> WorkQueue:
    """``workers`` and ``isolation`` are for this machine's own. Raises ValueError for a cluster whose address is
    refused, or a package that is not there; one that cannot be reached yet is waited for."""
    if settings.local:
        return LocalQueue(child, media, bounds, metrics, workers=workers, isolation=isolation)
    try:
        from works.queue.dask import DaskCluster
    except ModuleNotFoundError as error:
        if error.name not in ("dask", "distributed"):
            raise
        raise ValueError(f"queue {settings.queue!r}: Dask needs a package more, got by: make extras") from None
    with suppress(OSError):  # the name is not known yet
        await settings.resolve()
    return ClusterQueue(lambda: DaskCluster.connect(settings), settings, child.timeout, media, bounds, metrics)
