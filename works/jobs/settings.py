"""The settings of all kinds of jobs. The settings of a single kind are in its own package."""

import re
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from works.settings import MIB, Count, Names, Seconds, SettingsGroup


def _entries(value: Any) -> Any:
    entries = tuple(entry.strip() for entry in value.split(",") if entry.strip()) if isinstance(value, str) else value
    if isinstance(entries, tuple) and not all(re.fullmatch(r"[\w.-]+=.+", str(entry)) for entry in entries):
        raise ValueError("must have the form NAME=PATH, such as scans=/srv/scans, without spaces in NAME")
    return entries


Folders = Annotated[tuple[str, ...], BeforeValidator(_entries)]
"""A list of NAME=PATH, separated by commas."""


class JobSettings(SettingsGroup):
    """How many jobs run, the limits of their histories, and the folders that they read."""

    job_modules: Names = Field(
        (), description="Python modules that register further kinds of jobs, separated by spaces."
    )
    job_folder: str = Field("var/jobs", description="Folder for the temporary files of jobs.")
    folders: Folders = Field((), description="Folders that jobs may read, as NAME=PATH, separated by commas.")
    jobs_running: Count = Field(
        8,
        description="Maximum number of jobs that run on this server at the same time. Further jobs are answered busy.",
    )
    jobs_running_per_user: Count = Field(4, description="Maximum number of jobs of one user that run at the same time.")
    jobs_kept_per_user: Count = Field(
        200,
        description=(
            "Maximum number of jobs of one user whose history is retained. The jobs that were started first are "
            "deleted first, unless they are running."
        ),
    )
    job_ttl: Seconds = Field(7 * 24 * 3600, description="Seconds that the history of a job is retained after its end.")
    job_events: Count = Field(
        9000,
        description=(
            "Maximum number of events in the history of a job, never more than session_events. Later events are "
            "merged to stay below it."
        ),
    )
    job_log_bytes: Count = Field(
        4 * MIB, description="Maximum number of bytes of the log of a job. A longer log is cut, and says so."
    )
    job_targets: Count = Field(
        20_000, description="Maximum number of targets of one job. The state of every target is part of each snapshot."
    )
    job_tasks: Count = Field(
        8, description="Maximum number of slices of one job in the queue at the same time. More only wait there."
    )
    job_watchers: Count = Field(
        200, description="Maximum number of connections that watch one job. Each has an outbox of its own."
    )
    job_watches: Count = Field(20, description="Maximum number of jobs that one connection watches.")
    job_lease: Seconds = Field(
        10,
        description="Seconds without a sign from its server after which a job counts as lost. Less finds dead "
        "servers sooner.",
    )
    job_cancel_timeout: Seconds = Field(
        30, description="Seconds that a cancelled job has to clean up before it is stopped."
    )
    job_approval_timeout: Seconds = Field(
        24 * 3600, description="Seconds that a job waits for an answer to its question before it fails."
    )

    def within(self, session_events: int) -> "JobSettings":
        """Returns the same settings with ``job_events`` reduced to ``session_events``, the events that a stream
        retains.
        """
        return self.model_copy(update={"job_events": min(self.job_events, session_events)})

    @property
    def folder_paths(self) -> dict[str, Path]:
        """Name -> path of each entry in ``folders``."""
        entries = (entry.partition("=") for entry in self.folders)
        return {name.strip(): Path(path.strip()) for name, _, path in entries}


class HelperSettings(SettingsGroup):
    """Limits of the helper processes of jobs, which read and write films and contact sheets."""

    studio_memory: int = Field(
        1 << 30,
        ge=1 << 29,
        description="Bytes of address space of a helper process, which reads or writes a film or a contact sheet.",
    )
    studio_timeout: Seconds = Field(
        60, description="Seconds for a helper process to answer one request. A frame takes about 50 ms."
    )
