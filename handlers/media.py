"""/media/NAME and /upload/NAME: results and uploads by their unguessable names, cacheable, never run by a browser."""

from pathlib import Path, PurePath
from typing import ClassVar, cast

import tornado.web

from handlers.web import BaseHandler, Refused
from works.kinds import KINDS


class MediaFile(tornado.web.StaticFileHandler, BaseHandler):
    """Tornado's file handler (ranges, 304, HEAD) over the store's folder."""

    missing: ClassVar[str] = "there is no such result; they are kept for a day"

    @property
    def folder(self) -> Path:
        return self.works.media.folder

    def prepare(self) -> None:
        self.root = str(self.folder)

    def validate_absolute_path(self, root: str, absolute_path: str) -> str:
        try:
            return cast(str, super().validate_absolute_path(root, absolute_path))
        except tornado.web.HTTPError:
            raise Refused(404, "not_found", self.missing) from None

    def compute_etag(self) -> str:
        """The name: its bytes never change. Tornado would read and hash the file, and remember it for ever."""
        return f'"{self.path}"'

    def set_extra_headers(self, path: str) -> None:
        self.set_header("Cache-Control", "private, max-age=86400, immutable")
        self.set_header("Cross-Origin-Resource-Policy", "cross-origin")
        # The name is the key, no cookie is asked for: any page that has it may read the pixels.
        self.set_header("Access-Control-Allow-Origin", "*")


class UploadedFile(MediaFile):
    """What a stranger sent, byte for byte: it is what its type says and nothing else, whatever it looks like."""

    missing = "there is no such upload; what no message refers to is kept for an hour, all else for a month"

    @property
    def folder(self) -> Path:
        return self.works.uploads.folder

    def get_content_type(self) -> str:
        return KINDS[PurePath(self.path).suffix].type

    def set_extra_headers(self, path: str) -> None:
        super().set_extra_headers(path)
        self.set_header("Content-Disposition", f'inline; filename="{path}"')
        # Should a browser take it for a page after all, that page is nobody's and runs nothing.
        self.set_header("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'; sandbox")


_UPLOADED = "|".join(suffix.removeprefix(".") for suffix in KINDS)
routes = [
    (r"/media/([0-9a-f]{32}\.(?:jpg|png|webp))", MediaFile, {"path": ""}),
    (rf"/upload/([0-9a-f]{{32}}(?:-small)?\.(?:{_UPLOADED}))", UploadedFile, {"path": ""}),
]
