"""The settings of the queue: its limits, the decoders, and the cluster."""

import os
import re
from importlib.util import find_spec
from typing import Literal

from pydantic import Field, field_validator

from works.settings import MIB, Count, Seconds, SettingsGroup


class QueueBounds(SettingsGroup):
    """Limits on the number and the bytes of waiting slices, for one session and for all sessions together."""

    session_tasks: Count = Field(
        512, description="Maximum number of slices of one session that may wait. Further slices are answered busy."
    )
    session_bytes: Count = Field(
        64 * MIB, description="Maximum number of bytes of the slices of one session that may wait."
    )
    queue_tasks: Count = Field(
        50_000,
        description=(
            "Maximum number of slices of all sessions that may wait. Each takes about 2 KiB of memory besides its "
            "picture."
        ),
    )
    queue_bytes: Count = Field(
        256 * MIB,
        description="Maximum number of bytes of the slices of all sessions that may wait. More needs more memory.",
    )


class DecoderSettings(SettingsGroup):
    """The decoders of this machine and their limits."""

    workers: int = Field(
        0,
        ge=0,
        description="Slices that are processed at the same time. 0: one for each core. More than that only adds "
        "memory.",
    )
    isolation: Literal["process", "thread"] = Field(
        "process",
        description="Where pictures are decoded: process (a child process) or thread (in the server, only for "
        "trusted pictures).",
    )
    child_memory: int = Field(
        0,
        ge=0,
        description="Bytes of address space of a decoder child. 0: 1 GiB, or 2 GiB when text recognition is installed.",
    )
    slice_timeout: Seconds = Field(
        10, description="Seconds to process one slice, with all attempts. Then it fails with the code timeout."
    )

    @property
    def decoders(self) -> int:
        """How many slices are processed at the same time."""
        return self.workers or os.cpu_count() or 1

    @property
    def memory(self) -> int:
        """Bytes of address space of a decoder child. Text recognition was measured to need up to 1.5 GiB."""
        return self.child_memory or (2 if find_spec("rapidocr") else 1) << 30


class ClusterSettings(SettingsGroup):
    """Where slices are processed, and how to connect to a cluster."""

    queue: str = Field(
        "local:",
        description="What processes slices: local: (this machine), or a Dask scheduler at tcp://HOST:PORT or "
        "tls://HOST:PORT.",
    )
    queue_ca: str | None = Field(
        None, description="File with the certificate of the cluster's certificate authority, for tls://."
    )
    queue_cert: str | None = Field(
        None, description="File with the certificate of this server, worker or scheduler, for tls://."
    )
    queue_key: str | None = Field(None, description="File with the private key of queue_cert, for tls://.")
    queue_plain: bool = Field(
        False,
        description="true allows tcp:// to a public address. Only set it when another layer encrypts the connection.",
    )
    queue_ahead: float = Field(
        0.5,
        ge=0,
        le=4,
        description="Slices that wait in the cluster for each of its threads. More keeps threads busy, less keeps "
        "the order exact.",
    )
    queue_patience: Seconds = Field(
        30, description="Seconds that accepted slices wait for an unreachable cluster before they fail."
    )

    @property
    def is_local(self) -> bool:
        """Whether this machine processes slices itself."""
        return self.queue == "local:"

    @field_validator("queue")
    @classmethod
    def _known_queue(cls, value: str) -> str:
        if value != "local:" and not re.fullmatch(r"(tcp|tls)://[^/@]+:\d+/?", value):
            raise ValueError("must be local:, tcp://HOST:PORT or tls://HOST:PORT")
        return value
