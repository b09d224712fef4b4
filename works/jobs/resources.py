"""The settings and stores that the server passes to its jobs."""

from dataclasses import dataclass

from works.imaging.settings import ImageLimits
from works.jobs.batch.settings import BatchSettings
from works.jobs.film.settings import FilmSettings
from works.jobs.rollout.settings import RolloutSettings
from works.jobs.settings import HelperSettings, JobSettings
from works.storage.address import StoreThreads
from works.storage.results import ResultStore
from works.uploads import Uploads


@dataclass(frozen=True, slots=True, kw_only=True)
class JobResources:
    settings: JobSettings
    rollout: RolloutSettings
    batch: BatchSettings
    film: FilmSettings
    helpers: HelperSettings
    images: ImageLimits
    results: ResultStore
    uploads: Uploads
    threads: StoreThreads
    """Threads that wait for ``results``."""
