"""The URL and the options of an object store, and threads in which the server waits for stores. This file needs no
driver.
"""

import asyncio
import re
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple, ParamSpec, Protocol, TypeVar

from works.storage.settings import StoreSettings

P = ParamSpec("P")
T = TypeVar("T")

KNOWN = "s3://BUCKET/PREFIX, gs://BUCKET/PREFIX and az://CONTAINER/PREFIX"
# Environment variables of each provider that the driver understands, by scheme. A decoder child gets only these.
_VARIABLES = {
    "s3": (
        "aws_access_key_id aws_secret_access_key aws_session_token aws_region aws_default_region aws_endpoint_url"
        " aws_endpoint_url_s3 aws_role_arn aws_role_session_name aws_web_identity_token_file aws_endpoint_url_sts"
        " aws_container_credentials_relative_uri aws_container_credentials_full_uri aws_skip_signature"
        " aws_container_authorization_token_file aws_metadata_endpoint aws_server_side_encryption aws_sse_kms_key_id"
    ),
    "gs": "google_service_account google_service_account_key google_application_credentials google_base_url",
    "az": (
        "azure_storage_account_name azure_storage_account_key azure_storage_sas_token azure_storage_endpoint"
        " azure_client_id azure_client_secret azure_tenant_id azure_authority_host azure_federated_token_file"
        " azure_msi_endpoint"
    ),
}
# Our name of a setting -> the name that the driver of each provider uses for it.
_SETTINGS = {
    "s3": {"key": "aws_access_key_id", "secret": "aws_secret_access_key", "endpoint": "aws_endpoint_url_s3"},
    "gs": {"secret": "google_service_account_key", "endpoint": "google_base_url"},
    "az": {"key": "azure_storage_account_name", "secret": "azure_storage_account_key"},
}
_SETTINGS["s3"]["region"] = "aws_region"
_SETTINGS["az"]["endpoint"] = "azure_storage_endpoint"
_URL = re.compile(r"(s3|gs|az)://([A-Za-z0-9][A-Za-z0-9._-]{1,62})((?:/[A-Za-z0-9._-]+)*)/?")


class BucketAddress(NamedTuple):
    """The parts of a bucket's URL. The prefix has no slash at its start or end, and may be empty."""

    scheme: str
    bucket: str
    prefix: str


def address_of(url: str) -> BucketAddress | None:
    """Returns the parts of the URL, or None when it is not the URL of an object store."""
    match = _URL.fullmatch(url)
    if not match or {".", ".."} & set(match[3].split("/")):
        return None
    return BucketAddress(match[1], match[2], match[3].removeprefix("/"))


class StoredObject(NamedTuple):
    """``modified`` is in seconds since 1970, by the store's clock. ``tag`` changes whenever the bytes change."""

    key: str
    size: int
    modified: float
    tag: str | None


class RemoteFiles(Protocol):
    """Files in an object store, as the server reads them.

    Every method blocks until the store has answered, and may raise OSError. FileNotFoundError means only that the file
    does not exist.
    """

    @property
    def origin(self) -> str:
        """Scheme and host of the URLs that `sign` returns."""

    def look(self, key: str) -> StoredObject:
        """Returns size, time and tag of a file without reading it."""

    def get(self, key: str) -> tuple[bytes, str | None]:
        """Returns all bytes of a file, and its tag."""

    def piece(self, key: str, start: int, end: int) -> bytes:
        """Returns the bytes from `start` to `end`, without the byte at `end`."""

    def sign(self, key: str, seconds: float) -> str:
        """Returns a URL with which any client can read the file for this many seconds."""


@contextmanager
def driver_for(url: str) -> Iterator[None]:
    """A block in which the driver is imported. Raises ValueError when the driver is not installed."""
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name != "obstore":
            raise
        raise ValueError(f"{url}: object stores need an extra package. Install it with: make extras") from None


@dataclass(frozen=True, slots=True)
class StoreOptions:
    """How to connect to an object store. ``values`` has the provider's own names and their values, secrets included.

    ``timeout``: seconds for one request. With retries, an answer takes at most twice as long. ``public_endpoint``: the
    address that clients use, when it differs from that of the server. ``retries``: how often a request is repeated,
    which is enough for a restart of the store.
    """

    timeout: float = 4.0
    public_endpoint: str | None = None
    values: Mapping[str, str] = field(default_factory=dict, repr=False)
    retries: int = 4

    @classmethod
    def gather(cls, url: str, settings: StoreSettings, environment: Mapping[str, str]) -> "StoreOptions":
        """Returns the options for the store of this URL. Settings override the provider's variables in
        `environment`.
        """
        address = address_of(url)
        if address is None:
            return cls(settings.store_timeout, settings.store_public_endpoint)
        known = _VARIABLES[address.scheme].split()
        values = {name.lower(): value for name, value in environment.items() if name.lower() in known and value}
        secret = settings.store_secret.get_secret_value() if settings.store_secret else None
        said = {
            "key": settings.store_key,
            "secret": secret,
            "endpoint": settings.store_endpoint,
            "region": settings.store_region,
        }
        names = _SETTINGS[address.scheme]
        values |= {names[name]: value for name, value in said.items() if value and name in names}
        return cls(settings.store_timeout, settings.store_public_endpoint, values)


class StoreThreads:
    """Threads in which the server waits for its stores. A store that hangs blocks only requests that need it."""

    def __init__(self, count: int) -> None:
        self._pool = ThreadPoolExecutor(count, "sluice-store")

    async def run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, lambda: work(*args, **kwargs))

    def close(self) -> None:
        """Drops calls that are waiting for a thread. A running call ends by its own timeout."""
        self._pool.shutdown(wait=False, cancel_futures=True)
