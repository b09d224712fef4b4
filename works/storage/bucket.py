"""A Bucket: objects under one prefix of an object store, S3, Google's, Azure's or one that speaks as they do.

The only file that knows obstore. Every wait is bounded, and whatever goes wrong is an OSError whose words say what to
change. A Bucket is picklable. The driver's threads do not outlive a fork: a process that forks must not have used one.
"""

import errno
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import obstore
from obstore import exceptions
from obstore.store import AzureStore, GCSStore, S3Store

from works.storage.address import KNOWN, StoredObject, StoreOptions, address_of

# A file is sent in parts of so many bytes, each a request, so many at once.
_PART, _PARTS_AT_ONCE = 8 << 20, 2
_STORES: dict[str, Any] = {"s3": S3Store, "gs": GCSStore, "az": AzureStore}
_ENDPOINTS = {"s3": "aws_endpoint_url_s3", "gs": "google_base_url", "az": "azure_storage_endpoint"}
_NO_BUCKET = ("NoSuchBucket", "ContainerNotFound", "bucket does not exist")
_DENIES = "denies us (403): look at its key, and at what that may do"
_FULL = ("507 ", "StorageFull", "QuotaExceeded", "InsufficientStorage")


class Bucket:
    """Its methods wait for the store, and may raise OSError; FileNotFoundError only where the object is not there."""

    def __init__(self, url: str, options: StoreOptions) -> None:
        """Raises ValueError for a URL or options that no store has."""
        address = address_of(url)
        if address is None:
            raise ValueError(f"{url!r}: unknown; use {KNOWN}")
        self.url, self._address, self._options = url.rstrip("/"), address, options
        try:
            self._store = self._open()
            self._public = self._open(options.public_endpoint) if options.public_endpoint else self._store
        except (exceptions.BaseError, ValueError) as error:
            raise ValueError(f"{url}: {str(error).splitlines()[0][:200]}") from None

    def __reduce__(self) -> tuple[Any, ...]:
        return Bucket, (self.url, self._options)

    @property
    def origin(self) -> str:
        """Of the addresses that ``sign`` gives: scheme and host."""
        values, scheme = self._options.values, self._address.scheme
        endpoint = self._options.public_endpoint or values.get(_ENDPOINTS[scheme]) or values.get("aws_endpoint_url")
        if endpoint:
            return "{0.scheme}://{0.netloc}".format(urlsplit(endpoint))
        region = values.get("aws_region") or values.get("aws_default_region") or "us-east-1"
        account = values.get("azure_storage_account_name", "")
        hosts = {"s3": f"s3.{region}.amazonaws.com", "gs": "storage.googleapis.com"}
        return f"https://{hosts.get(scheme, f'{account}.blob.core.windows.net')}"

    def _open(self, endpoint: str | None = None) -> Any:
        scheme, name, prefix = self._address
        values = dict(self._options.values)
        if endpoint:
            values[_ENDPOINTS[scheme]] = endpoint
        timeout = timedelta(seconds=self._options.timeout)
        plain = any(value.startswith("http://") for key, value in values.items() if "_url" in key or "endpoint" in key)
        return _STORES[scheme](
            name,
            prefix=prefix or None,
            config=values,
            client_options={"timeout": timeout, "connect_timeout": timeout / 2, "allow_http": plain},
            retry_config={"max_retries": self._options.retries, "retry_timeout": timeout},
        )

    def put(self, key: str, data: bytes | Path, headers: dict[str, str], *, only: str | None = None) -> None:
        """Whole or not at all, served with these headers. ``only``: if it is new (``"new"``), or still has this tag.

        Raises FileExistsError when it is not so.
        """
        mode = None if only is None else "create" if only == "new" else {"e_tag": only}
        with self._told(key):
            parts = {"chunk_size": _PART, "max_concurrency": _PARTS_AT_ONCE} if isinstance(data, Path) else {}
            whole = None if parts else False
            obstore.put(self._store, key, data, attributes=headers, mode=mode, use_multipart=whole, **parts)  # type: ignore[arg-type]

    def get(self, key: str) -> tuple[bytes, str | None]:
        """All its bytes, and its tag."""
        with self._told(key):
            got = obstore.get(self._store, key)
            return bytes(got.bytes()), got.meta["e_tag"]

    def piece(self, key: str, start: int, end: int) -> bytes:
        with self._told(key):
            return bytes(obstore.get_range(self._store, key, start=start, end=end))

    def look(self, key: str) -> StoredObject:
        with self._told(key):
            return _object(obstore.head(self._store, key))

    def delete(self, keys: Sequence[str]) -> None:
        """Those that are there."""
        if keys:
            with self._told(keys[0]):
                obstore.delete(self._store, list(keys))

    def pages(self, after: str = "", length: int = 1000) -> Iterator[list[StoredObject]]:
        """All objects whose keys come after that, by key, so many at a time."""
        stream = iter(obstore.list(self._store, offset=after or None, chunk_size=length))
        while True:
            with self._told(""):
                page = next(stream, None)
            if page is None:
                return
            yield [_object(meta) for meta in page]

    def sign(self, key: str, seconds: float) -> str:
        """An address by which anybody may read the object for so long. Raises OSError too where none can be made."""
        with self._told(key):
            return str(obstore.sign(self._public, "GET", key, timedelta(seconds=seconds)))

    @contextmanager
    def _told(self, key: str) -> Iterator[None]:
        """The driver's errors in our words: its own name addresses, answers and the shapes of its own insides."""
        try:
            yield
        except FileNotFoundError as error:
            if any(word in str(error) for word in _NO_BUCKET):
                raise self._fault(str(error)) from None
            raise FileNotFoundError(errno.ENOENT, "no such object", key) from None
        except (exceptions.AlreadyExistsError, exceptions.PreconditionError):
            raise FileExistsError(errno.EEXIST, "somebody else was first", key) from None
        except (exceptions.PermissionDeniedError, exceptions.UnauthenticatedError):
            raise OSError(errno.EACCES, f"{self.url} {_DENIES}") from None
        except exceptions.BaseError as error:
            raise self._fault(str(error)) from None

    def _fault(self, text: str) -> OSError:
        status = re.search(r"status code: (\d{3} [A-Za-z ]+)", text)
        if "169.254." in text:  # where clouds tell their machines who these are
            return OSError(errno.EACCES, f"{self.url}: no credentials were found (store_key, or the provider's own)")
        if any(word in text for word in _NO_BUCKET):
            return OSError(errno.ENODEV, f"{self.url}: there is no such bucket")
        if any(word in text for word in _FULL):
            return OSError(errno.ENOSPC, f"{self.url} is full")
        if "AccessDenied" in text or (status and status[1].startswith(("401", "403"))):
            return OSError(errno.EACCES, f"{self.url} {_DENIES}")
        if status:
            return OSError(errno.EIO, f"{self.url} answers {status[1].strip()}")
        if "timed out" in text or "TimedOut" in text:
            return OSError(
                errno.ETIMEDOUT, f"{self.url} did not answer within {self._options.timeout:g} s (store_timeout)"
            )
        return OSError(errno.EHOSTUNREACH, f"{self.url} cannot be reached")


def _object(meta: Any) -> StoredObject:
    return StoredObject(meta["path"], meta["size"], meta["last_modified"].timestamp(), meta["e_tag"])
