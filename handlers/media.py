"""/media/NAME and /upload/NAME: results and uploads, under names that cannot be guessed. Browsers may cache them.

Files of a folder are sent by this server, or by nginx (`accel_redirect`). For an object in a bucket, the client is
redirected to a signed URL that expires after some minutes, or the object is sent through this server (`store_serve`).
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar, cast

import tornado.web

from handlers.core.http import BaseHandler, within
from handlers.core.refusals import FILE_UNAVAILABLE, NOT_FOUND, Refused
from works.storage import results, uploads_store
from works.storage.address import RemoteFiles, StoredObject
from works.storage.filetype import FILE_TYPES

# Bytes that are fetched from a bucket at a time and wait in memory until the client has read them.
_PIECE = 1 << 20


class MediaFile(tornado.web.StaticFileHandler, BaseHandler):
    """Tornado's file handler (ranges, 304, HEAD), for files in a folder and for objects in a bucket."""

    missing: ClassVar[str] = "there is no such result; they are kept for a day"
    _object: StoredObject | None = None
    _range: tuple[int, int] | None = None

    @property
    def place(self) -> Path | RemoteFiles:
        return self.services.results.place

    def prepare(self) -> None:
        if isinstance(self.place, Path):
            self.root = str(self.place)

    async def get(self, path: str, include_body: bool = True) -> None:
        place, http = self.place, self.context.http
        if not isinstance(place, Path):
            await self._get_object(place, path, include_body)
        elif http.accel_redirect and within(str(self.request.remote_ip), http.trusted_proxies):
            self._accel_redirect(path, http.accel_redirect)
        else:
            await super().get(path, include_body)

    def _accel_redirect(self, path: str, location: str) -> None:
        """Makes nginx send the file. nginx keeps some of our headers and adds those of its own configuration."""
        self.path = path
        self.validate_absolute_path(self.root, self.get_absolute_path(self.root, path))
        self.set_header("Content-Type", self.get_content_type())
        self.set_extra_headers(path)
        self.set_header("X-Accel-Redirect", location + self.request.path.removeprefix("/"))

    async def _get_object(self, bucket: RemoteFiles, name: str, include_body: bool) -> None:
        try:
            self._object = await self.services.threads.run(bucket.look, name)
            if include_body and self.context.http.store_serve == "redirect":
                return await self._redirect(bucket, name)
            await super().get(name, include_body)
            if self._range:
                await self._send_pieces(bucket, name, *self._range)
        except FileNotFoundError:
            raise Refused(NOT_FOUND, what=self.missing) from None
        except OSError as error:
            raise Refused(FILE_UNAVAILABLE, error=error.strerror) from None

    async def _redirect(self, bucket: RemoteFiles, name: str) -> None:
        seconds = self.context.http.store_link_ttl
        address = await self.services.threads.run(bucket.sign, name, seconds)
        self.set_extra_headers(name)
        # Less than the lifetime of the URL: half of it is left for the download itself.
        self.set_header("Cache-Control", f"private, max-age={int(seconds / 2)}")
        self.clear_header("Content-Disposition")
        self.redirect(address)

    async def _send_pieces(self, bucket: RemoteFiles, name: str, start: int, end: int) -> None:
        """Yields the object in pieces, with a request to the store for each. One request for all would end before a
        slow client.
        """
        while start < end:
            piece = await self.services.threads.run(bucket.piece, name, start, min(start + _PIECE, end))
            self.write(piece)
            await self.flush()
            start += len(piece)

    def validate_absolute_path(self, root: str, absolute_path: str) -> str:
        """Returns the path of the file. Raises Refused when it does not exist."""
        if self._object:
            return absolute_path
        try:
            return cast(str, super().validate_absolute_path(root, absolute_path))
        except tornado.web.HTTPError:
            raise Refused(NOT_FOUND, what=self.missing) from None

    def get_content_size(self) -> int:
        return self._object.size if self._object else super().get_content_size()

    def get_modified_time(self) -> datetime | None:
        if self._object:
            return datetime.fromtimestamp(int(self._object.modified), UTC)
        return super().get_modified_time()

    def get_content(self, abspath: str, start: int | None = None, end: int | None = None) -> Any:  # type: ignore[override]
        """For an object, only stores the range. Its bytes are fetched and sent after the headers."""
        if not self._object:
            return super().get_content(abspath, start, end)
        size = self._object.size
        self._range = start or 0, size if end is None else end
        nothing: Sequence[bytes] = ()
        return nothing

    def compute_etag(self) -> str:
        """Returns the name, because the bytes of a name never change. Tornado would read and hash the file."""
        return f'"{self.path}"'

    def get_content_type(self) -> str:
        return self.file_headers(self.path)["Content-Type"]

    def set_extra_headers(self, path: str) -> None:
        for name, value in self.file_headers(path).items():
            self.set_header(name, value)
        self.set_header("Cross-Origin-Resource-Policy", "cross-origin")
        # A page that knows the name may read the pixels. The name cannot be guessed, and no cookie is involved.
        self.set_header("Access-Control-Allow-Origin", "*")

    def file_headers(self, path: str) -> dict[str, str]:
        """Sets the headers that depend on the type of the file."""
        return results.headers_of(path)


class UploadedFile(MediaFile):
    """A file from a user. A browser must use its declared type, whatever its bytes look like."""

    missing = "there is no such upload; what no message refers to is kept for an hour, all else for a month"

    @property
    def place(self) -> Path | RemoteFiles:
        return self.services.uploads.place

    def file_headers(self, path: str) -> dict[str, str]:
        # If a browser shows the file as a page anyway, that page has no origin and runs no scripts.
        runs_nothing = "default-src 'none'; frame-ancestors 'none'; sandbox"
        return uploads_store.headers_of(path) | {"Content-Security-Policy": runs_nothing}


_UPLOADED = "|".join(suffix.removeprefix(".") for suffix in FILE_TYPES)
routes = [
    (rf"/media/({results.NAME.pattern})", MediaFile, {"path": ""}),
    (rf"/upload/([0-9a-f]{{32}}(?:-small)?\.(?:{_UPLOADED}))", UploadedFile, {"path": ""}),
]
