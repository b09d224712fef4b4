"""Which WorkQueue the settings mean."""

from contextlib import suppress

from works.background import BackgroundTasks
from works.metrics import Metrics
from works.queue import WorkQueue
from works.queue.cluster import ClusterQueue
from works.queue.cluster_address import ClusterAddress
from works.queue.decoder_child import ChildConfig
from works.queue.decoder_pool import ProcessPool, ThreadPool
from works.queue.settings import ClusterSettings, DecoderSettings, QueueBounds
from works.storage.results import ResultStore


async def open_queue(
    cluster: ClusterSettings,
    decoders: DecoderSettings,
    bounds: QueueBounds,
    config: ChildConfig,
    results: ResultStore,
    metrics: Metrics,
    background: BackgroundTasks,
) -> WorkQueue:
    """The queue of this machine's own decoders, or of a cluster's; a cluster that is away is waited for.

    Raises ValueError for a cluster whose address is refused, or a package that is not there.
    """
    if cluster.is_local:
        if decoders.isolation == "thread":
            return ThreadPool(decoders, config, results, bounds, metrics)
        return ProcessPool(decoders, config, results, bounds, metrics, background)
    address = ClusterAddress(cluster)
    try:
        from works.queue.dask import DaskCluster
    except ModuleNotFoundError as error:
        if error.name not in ("dask", "distributed"):
            raise
        raise ValueError(f"queue {address.url!r}: Dask needs a package more, got by: make extras") from None
    with suppress(OSError):  # the name is not known yet
        await address.resolve()
    return ClusterQueue(
        lambda: DaskCluster.connect(address), cluster, config.timeout, results, bounds, metrics, background
    )
