"""The address of a cluster's scheduler, and whether it may be used without encryption.

A client of the scheduler can run programs on its workers. So plain TCP is allowed only for loopback and private
networks.
"""

import asyncio
import ipaddress
import re
import socket
from dataclasses import dataclass
from pathlib import Path

from works.queue.settings import ClusterSettings

_URL = re.compile(r"(tcp|tls)://(\[[0-9a-fA-F:.]+\]|[^:/@\[\]]+):(\d{1,5})/?")


@dataclass(frozen=True, slots=True)
class ClusterAddress:
    """The checked address of the scheduler, and the TLS files from the settings."""

    settings: ClusterSettings

    def __post_init__(self) -> None:
        """Checks the settings.

        Raises:
            ValueError: the URL has an unknown scheme, or a TLS file is not set.
            OSError: a TLS file cannot be read.
        """
        found = _URL.fullmatch(self.url)
        if not found or int(found[3]) > 65535:
            raise ValueError(f"queue {self.url!r}: unknown; use local:, tcp://HOST:PORT or tls://HOST:PORT")
        if self.encrypted:
            for name in ("queue_ca", "queue_cert", "queue_key"):
                file = getattr(self.settings, name)
                if not file:
                    raise ValueError(f"queue {self.url!r}: tls:// needs {name}")
                Path(file).read_bytes()

    @property
    def url(self) -> str:
        return self.settings.queue

    @property
    def scheme(self) -> str:
        return self.url.partition(":")[0]

    @property
    def encrypted(self) -> bool:
        return self.scheme == "tls"

    @property
    def host(self) -> str:
        return self.url.partition("//")[2].rstrip("/").rpartition(":")[0].strip("[]")

    @property
    def port(self) -> int:
        return int(self.url.rstrip("/").rpartition(":")[2])

    def url_of(self, ip: str, port: int) -> str:
        return f"{self.scheme}://[{ip}]:{port}" if ":" in ip else f"{self.scheme}://{ip}:{port}"

    async def resolve(self) -> str:
        """Returns the URL with the IP address that was checked.

        Raises:
            OSError: the name of the host is unknown.
            ValueError: one of its addresses is refused.
        """
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)
        ips = [str(each[4][0]) for each in found]
        for ip in ips:
            self.check(ip)
        return self.url_of(ips[0], self.port)

    def check(self, ip: str) -> None:
        """Raises ValueError for a public address without TLS."""
        if not (self.encrypted or self.settings.queue_plain or is_private(ip)):
            raise ValueError(
                f"queue {self.url!r}: {ip} is a public address. A client of the scheduler can run programs on its "
                "workers. Use tls://, or set queue_plain if another layer encrypts the connection"
            )


def is_private(ip: str) -> bool:
    """Returns whether the address is loopback, link-local or private. 0.0.0.0 is not: it means every address of the
    machine.
    """
    address = ipaddress.ip_address(ip.partition("%")[0])
    return not address.is_unspecified and (address.is_loopback or address.is_private or address.is_link_local)
