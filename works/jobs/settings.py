"""The settings that hold for jobs of every kind. Those of one kind are declared in its own folder."""

import re
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from works.settings import MIB, Count, Names, Seconds, SettingsGroup


def _entries(value: Any) -> Any:
    entries = tuple(entry.strip() for entry in value.split(",") if entry.strip()) if isinstance(value, str) else value
    if isinstance(entries, tuple) and not all(re.fullmatch(r"[\w.-]+=.+", str(entry)) for entry in entries):
        raise ValueError("must be like scans=/srv/scans, each a name without spaces and a path")
    return entries


Folders = Annotated[tuple[str, ...], BeforeValidator(_entries)]
"""Several NAME=PATH, written with commas between them."""


class JobSettings(SettingsGroup):
    """How many jobs run, how long they and their histories may be, and where they find files."""

    job_modules: Names = Field((), description="modules of yours with further kinds of jobs, importable here")
    job_folder: str = Field("var/jobs", description="where jobs have their scratch folders")
    folders: Folders = Field((), description="folders that jobs may read: NAME=PATH, commas between several")
    jobs_running: Count = Field(8, description="jobs that run on this server at once; more are answered busy")
    jobs_running_per_user: Count = Field(4, description="of these a user's")
    jobs_kept_per_user: Count = Field(200, description="jobs of a user whose stories are kept")
    job_ttl: Seconds = Field(7 * 24 * 3600, description="seconds that a job's story is kept after its end")
    job_events: Count = Field(9000, description="events of a job's story, at most session_events; it is told in fewer")
    job_log_bytes: Count = Field(4 * MIB, description="bytes of a job's log; then it is cut, which it says")
    job_targets: Count = Field(20_000, description="targets of a job; each is told with every look at it")
    job_tasks: Count = Field(8, description="tasks of a job in the queue at once; more would only wait there")
    job_watchers: Count = Field(200, description="connections that watch one job; each has its own outbox")
    job_watches: Count = Field(20, description="jobs that one connection watches")
    job_lease: Seconds = Field(10, description="seconds after which a job whose server is silent is lost")
    job_cancel_timeout: Seconds = Field(30, description="seconds that a cancelled job has to clear away")
    job_approval_timeout: Seconds = Field(24 * 3600, description="seconds that a job waits for an approval")

    def within(self, session_events: int) -> "JobSettings":
        """The same, with no more events of a job than a stream keeps."""
        return self.model_copy(update={"job_events": min(self.job_events, session_events)})

    @property
    def folder_paths(self) -> dict[str, Path]:
        """Name -> path of each of ``folders``."""
        entries = (entry.partition("=") for entry in self.folders)
        return {name.strip(): Path(path.strip()) for name, _, path in entries}


class HelperSettings(SettingsGroup):
    """The bounds of the helper processes of jobs (helpers.py)."""

    studio_memory: int = Field(
        1 << 30, ge=1 << 29, description="bytes of address space of a process that reads or writes a film, or a sheet"
    )
    studio_timeout: Seconds = Field(60, description="seconds for such a process to answer; a frame takes some 50 ms")
