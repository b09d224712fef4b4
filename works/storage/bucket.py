"""A Bucket: the objects under one prefix of an object store (S3, Google Cloud Storage, Azure or a compatible one).

This is the only file that uses obstore. Every wait has a timeout. Every failure is an OSError whose text says what to
change. A Bucket can be pickled. The driver's threads do not survive a fork, so a process that forks must not use a
Bucket before.
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

# Bytes of a part of a file, each sent in a request of its own, and how many parts are sent at the same time.
_PART, _PARTS_AT_ONCE = 8 << 20, 2
_STORES: dict[str, Any] = {"s3": S3Store, "gs": GCSStore, "az": AzureStore}
_ENDPOINTS = {"s3": "aws_endpoint_url_s3", "gs": "google_base_url", "az": "azure_storage_endpoint"}
_NO_BUCKET = ("NoSuchBucket", "ContainerNotFound", "bucket does not exist")
_DENIES = "denies access (403): check store_key and its permissions"
_FULL = ("507 ", "StorageFull", "QuotaExceeded", "InsufficientStorage")


class Bucket:
    """Objects under one prefix.

    All methods block until the store has answered, and may raise OSError. FileNotFoundError means only that the object
    does not exist.
    """

    def __init__(self, url: str, options: StoreOptions) -> None:
        """Creates the client. Raises ValueError for an invalid URL or invalid options. Does not connect yet."""
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
        """Scheme and host of the URLs that ``sign`` returns."""
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
        """Stores an object completely or not at all. It is served with these headers.

        ``only``: "new" stores it only if no such object exists; a tag stores it only if the object still has this tag.
        Raises FileExistsError when the condition is not met.
        """
        mode = None if only is None else "create" if only == "new" else {"e_tag": only}
        with self._translated(key):
            parts = {"chunk_size": _PART, "max_concurrency": _PARTS_AT_ONCE} if isinstance(data, Path) else {}
            whole = None if parts else False
            obstore.put(self._store, key, data, attributes=headers, mode=mode, use_multipart=whole, **parts)  # type: ignore[arg-type]

    def get(self, key: str) -> tuple[bytes, str | None]:
        """Returns all bytes of the object, and its tag."""
        with self._translated(key):
            got = obstore.get(self._store, key)
            return bytes(got.bytes()), got.meta["e_tag"]

    def piece(self, key: str, start: int, end: int) -> bytes:
        with self._translated(key):
            return bytes(obstore.get_range(self._store, key, start=start, end=end))

    def look(self, key: str) -> StoredObject:
        with self._translated(key):
            return _object(obstore.head(self._store, key))

    def delete(self, keys: Sequence[str]) -> None:
        """Deletes these objects. Keys without an object are ignored."""
        if keys:
            with self._translated(keys[0]):
                obstore.delete(self._store, list(keys))

    def pages(self, after: str = "", length: int = 1000) -> Iterator[list[StoredObject]]:
        """Yields all objects with keys after ``after``, sorted by key, in lists of ``length``."""
        stream = iter(obstore.list(self._store, offset=after or None, chunk_size=length))
        while True:
            with self._translated(""):
                page = next(stream, None)
            if page is None:
                return
            yield [_object(meta) for meta in page]

    def sign(self, key: str, seconds: float) -> str:
        """Returns a URL with which any client can read the object for this many seconds. Raises OSError when no URL can
        be created.
        """
        with self._translated(key):
            return str(obstore.sign(self._public, "GET", key, timedelta(seconds=seconds)))

    @contextmanager
    def _translated(self, key: str) -> Iterator[None]:
        """Replaces the driver's errors. Its own texts quote addresses, answers and internal data."""
        try:
            yield
        except FileNotFoundError as error:
            if any(word in str(error) for word in _NO_BUCKET):
                raise self._fault(str(error)) from None
            raise FileNotFoundError(errno.ENOENT, "no such object", key) from None
        except (exceptions.AlreadyExistsError, exceptions.PreconditionError):
            raise FileExistsError(errno.EEXIST, "another client was first", key) from None
        except (exceptions.PermissionDeniedError, exceptions.UnauthenticatedError):
            raise OSError(errno.EACCES, f"{self.url} {_DENIES}") from None
        except exceptions.BaseError as error:
            raise self._fault(str(error)) from None

    def _fault(self, text: str) -> OSError:
        status = re.search(r"status code: (\d{3} [A-Za-z ]+)", text)
        if "169.254." in text:  # the address of the cloud's metadata service, where a machine gets its credentials
            return OSError(errno.EACCES, f"{self.url}: no credentials found; set store_key or the provider's variables")
        if any(word in text for word in _NO_BUCKET):
            return OSError(errno.ENODEV, f"{self.url}: the bucket does not exist")
        if any(word in text for word in _FULL):
            return OSError(errno.ENOSPC, f"{self.url} is full")
        if "AccessDenied" in text or (status and status[1].startswith(("401", "403"))):
            return OSError(errno.EACCES, f"{self.url} {_DENIES}")
        if status:
            return OSError(errno.EIO, f"{self.url} answered {status[1].strip()}")
        if "timed out" in text or "TimedOut" in text:
            return OSError(
                errno.ETIMEDOUT, f"{self.url} did not answer within {self._options.timeout:g} s (store_timeout)"
            )
        return OSError(errno.EHOSTUNREACH, f"{self.url} cannot be reached; check store_endpoint")


def _object(meta: Any) -> StoredObject:
    return StoredObject(meta["path"], meta["size"], meta["last_modified"].timestamp(), meta["e_tag"])
