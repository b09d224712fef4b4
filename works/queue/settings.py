"""The settings of the queue: how much may wait, who decodes, and how a cluster is reached."""

import os
import re
from importlib.util import find_spec
from typing import Literal

from pydantic import Field, field_validator

from works.settings import MIB, Count, Seconds, SettingsGroup


class QueueBounds(SettingsGroup):
    """How much may wait: tasks and bytes of a session, tasks and bytes of all sessions."""

    session_tasks: Count = Field(512, description="slices of a session that may wait")
    session_bytes: Count = Field(64 * MIB, description="bytes of a session that may wait")
    queue_tasks: Count = Field(50_000, description="slices of all sessions that may wait; each takes some 2 KiB")
    queue_bytes: Count = Field(256 * MIB, description="bytes of all sessions that may wait")


class DecoderSettings(SettingsGroup):
    """What decodes on this machine, and its bounds."""

    workers: int = Field(0, ge=0, description="slices worked at once; 0: as many as cores")
    isolation: Literal["process", "thread"] = Field(
        "process", description="where pictures are decoded; thread: in the server itself, for trusted pictures only"
    )
    child_memory: int = Field(
        0, ge=0, description="bytes of address space of a decoder child; 0: 1 GiB, 2 GiB where OCR is installed"
    )
    slice_timeout: Seconds = Field(10, description="seconds to work a slice")

    @property
    def decoders(self) -> int:
        """How many slices are worked at once."""
        return self.workers or os.cpu_count() or 1

    @property
    def memory(self) -> int:
        """Bytes of address space of a decoder child. OCR was seen to peak at 1.5 GiB."""
        return self.child_memory or (2 if find_spec("rapidocr") else 1) << 30


class ClusterSettings(SettingsGroup):
    """What does the work, and how a cluster is reached."""

    queue: str = Field(
        "local:", description="what does the work: local:, tcp://HOST:PORT or tls://HOST:PORT of a Dask scheduler"
    )
    queue_ca: str | None = Field(
        None, description="file with the certificate of the cluster's own authority, for tls://"
    )
    queue_cert: str | None = Field(None, description="file with this part's certificate, for tls://")
    queue_key: str | None = Field(None, description="file with its key, for tls://")
    queue_plain: bool = Field(
        False, description="true: speak tcp:// with a scheduler at a public address, where another layer encrypts"
    )
    queue_ahead: float = Field(
        0.5, ge=0, le=4, description="slices that wait at the cluster for each of its threads, ready to be begun"
    )
    queue_patience: Seconds = Field(30, description="seconds that accepted slices wait for a cluster that is away")

    @property
    def is_local(self) -> bool:
        """Whether this machine does the work itself."""
        return self.queue == "local:"

    @field_validator("queue")
    @classmethod
    def _known_queue(cls, value: str) -> str:
        if value != "local:" and not re.fullmatch(r"(tcp|tls)://[^/@]+:\d+/?", value):
            raise ValueError("the known kinds are local:, tcp://HOST:PORT, tls://HOST:PORT")
        return value
