"""What the server hands to its jobs: the bounds they go by, where files are, and what they may use."""

from dataclasses import dataclass
from pathlib import Path

from works.storage.address import StoreThreads
from works.storage.results import ResultStore
from works.storage.uploads import Uploads


@dataclass(frozen=True, slots=True)
class JobSettings:
    """The settings that jobs go by, filled from those of the same names; config.py says what each means.

    A kind's own settings stand here too, each with its default.
    """

    job_folder: str = "var/jobs"
    jobs_running: int = 8
    jobs_running_per_user: int = 4
    jobs_kept_per_user: int = 200
    job_ttl: float = 7 * 24 * 3600
    job_events: int = 9000
    job_log_bytes: int = 4 << 20
    job_targets: int = 20_000
    job_tasks: int = 8
    job_watchers: int = 200
    job_watches: int = 20
    job_lease: float = 10
    job_cancel_timeout: float = 30
    job_approval_timeout: float = 24 * 3600
    plans: str | None = None
    ssh_known_hosts: str | None = None
    ssh_key: str | None = None
    ssh_connect_timeout: float = 10
    rollout_hosts: int = 1000
    rollout_forks: int = 50
    rollout_deadline: float = 24 * 3600
    rollout_output: int = 16 << 10
    rollout_tail: int = 2048
    rollout_kill_timeout: float = 5
    folders: tuple[str, ...] = ()
    batch_pictures: int = 10_000
    batch_bytes: int = 4 << 30
    archive_bytes: int = 4 << 30
    archive_ratio: int = 100
    sheet_pages: int = 40
    film_frames: int = 36_000
    film_pixels: int = 9_000_000
    film_bytes: int = 2 << 30
    studio_memory: int = 1 << 30
    studio_timeout: float = 60
    max_slice_bytes: int = 16 << 20
    max_pixels: int = 50_000_000
    max_side: int = 65_500
    formats: tuple[str, ...] = ("jpeg", "png", "webp")


@dataclass(frozen=True, slots=True)
class JobResources:
    """``uploads`` finds and keeps what users sent; ``media`` is where results go, and ``threads`` wait for it."""

    settings: JobSettings
    media: ResultStore
    uploads: Uploads
    threads: StoreThreads

    @property
    def plans(self) -> Path | None:
        """The YAML file of plans, if one is set."""
        return Path(self.settings.plans) if self.settings.plans else None
