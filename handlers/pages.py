"""The console at /, and its files under /static/. A token in the console's URL is moved to a cookie."""

import time
from pathlib import Path

import tornado.web

from handlers.core.auth import TokenError
from handlers.core.http import COOKIE, BaseHandler
from handlers.core.refusals import NOTHING_HERE, Refused

STATIC = Path(__file__).parent.parent / "static"
# The console may load only its own files. It shows results from this server, and dropped pictures from blobs.
_CONSOLE_POLICY = (
    "default-src 'self'; img-src 'self' blob: data: {0}; media-src 'self' {0}; connect-src 'self';"
    " object-src 'none'; base-uri 'none';"
    " form-action 'self'; frame-ancestors 'none'"
)


class Console(BaseHandler):
    async def get(self) -> None:
        if "token" in self.request.query_arguments:
            await self._store_token(self.get_query_argument("token").strip())
            return
        self.set_header("Content-Type", "text/html; charset=utf-8")
        self.set_header("Content-Security-Policy", _CONSOLE_POLICY.format(" ".join(self._media_origins())))
        self.finish((STATIC / "console" / "index.html").read_bytes())

    def _media_origins(self) -> set[str]:
        """Returns the other origins from which results and uploads are fetched."""
        http, services = self.context.http, self.services
        origins = {http.public_url} if http.public_url else set()
        if http.store_serve == "redirect":
            origins |= {
                place.origin
                for place in (services.results.place, services.uploads.place)
                if not isinstance(place, Path)
            }
        return origins

    async def _store_token(self, token: str) -> None:
        """Verifies the token, stores it as the console's cookie, and redirects to the URL without it."""
        try:
            user = await self.context.verifier.verify(token, self.address)
        except TokenError as error:
            raise Refused(error.refusal, **error.values) from None
        max_age = int(user.expires_at - time.time())
        secure = self.base_url.startswith("https:")
        self.set_cookie(COOKIE, token, httponly=True, samesite="Strict", secure=secure, max_age=max_age)
        self.redirect("/")


class StaticFile(tornado.web.StaticFileHandler, BaseHandler):
    def set_extra_headers(self, path: str) -> None:
        _allow_all_origins(self)


class ClientModule(BaseHandler):
    """/static/NAME.js: the short URL of a module of static/client/."""

    def head(self, name: str) -> None:
        self.get(name)

    def get(self, name: str) -> None:
        """Sends a module that re-exports the client module of this name. Raises Refused for an unknown name."""
        if not (STATIC / "client" / name).is_file():
            raise Refused(NOTHING_HERE)
        self.set_header("Content-Type", "text/javascript; charset=utf-8")
        _allow_all_origins(self)
        self.finish(f'export * from "./client/{name}";\n')


class Favicon(BaseHandler):
    def get(self) -> None:
        self.set_header("Content-Type", "image/svg+xml")
        self.set_header("Cache-Control", "max-age=86400")
        self.finish((STATIC / "icon.svg").read_bytes())


def _allow_all_origins(handler: BaseHandler) -> None:
    """Allows pages of other origins to import the client modules."""
    handler.set_header("Cache-Control", "no-cache")
    handler.set_header("Access-Control-Allow-Origin", "*")
    handler.set_header("Cross-Origin-Resource-Policy", "cross-origin")


routes = [
    (r"/", Console),
    (r"/static/([\w-]+\.js)", ClientModule),
    (r"/static/([\w./-]+)", StaticFile, {"path": str(STATIC)}),
    (r"/favicon\.ico", Favicon),
]
