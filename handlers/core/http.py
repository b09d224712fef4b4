"""The base of all HTTP responses and of the requests that open a WebSocket: user, address, safe headers,
JSON errors.
"""

import ipaddress
import json
import time
from dataclasses import dataclass
from functools import cached_property
from http import HTTPStatus
from typing import Any, cast

import structlog
import tornado.web

from handlers.core.auth import Scope, TokenError, User, Verifier, redact_tokens
from handlers.core.connections import Connections
from handlers.core.refusals import (
    BANNED,
    FOREIGN_ORIGIN,
    NOTHING_HERE,
    ORIGIN_MISSING,
    SCOPE_MISSING,
    Refusal,
    Refused,
)
from handlers.core.settings import ChatSettings, HttpSettings, SocketSettings
from works.errors import WorkError
from works.imaging.settings import ImageLimits
from works.queue.settings import QueueBounds
from works.services import Services
from works.video.settings import VideoSettings

log = structlog.get_logger()

COOKIE = "sluice_token"
# Responses are data. These headers forbid browsers to run them, to show them in a frame or to guess their type. The
# console page sets its own policy.
_HEADERS = {
    "Server": "Sluice",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


@dataclass(frozen=True, slots=True)
class HandlerContext:
    """The settings and the services that the server passes to every handler."""

    http: HttpSettings
    sockets: SocketSettings
    chat: ChatSettings
    images: ImageLimits
    queue: QueueBounds
    video: VideoSettings
    services: Services
    verifier: Verifier
    connections: Connections


class BaseHandler(tornado.web.RequestHandler):
    """The base class of every handler. Apart from this base, handlers are ordinary Tornado handlers."""

    @property
    def context(self) -> HandlerContext:
        return cast(HandlerContext, self.application.settings["context"])

    @property
    def services(self) -> Services:
        return self.context.services

    def set_default_headers(self) -> None:
        for name, value in _HEADERS.items():
            self.set_header(name, value)
        origin = self.request.headers.get("Origin", "")
        if origin in self.context.http.allow_origins:
            self.set_header("Access-Control-Allow-Origin", origin)
            self.set_header("Vary", "Origin")

    @cached_property
    def address(self) -> str:
        """The address of the client. Behind trusted proxies, it is taken from the header X-Forwarded-For."""
        trusted = [ipaddress.ip_network(network, strict=False) for network in self.context.http.trusted_proxies]
        address = str(self.request.remote_ip)
        forwarded = self.request.headers.get("X-Forwarded-For", "").replace(" ", "").split(",")
        while trusted and forwarded and _within(address, trusted):
            nearest = forwarded.pop()
            if not _is_address(nearest):
                break
            address = nearest
        return address

    @cached_property
    def base_url(self) -> str:
        """The URL at which the client reaches this server, without a path. Absolute URLs start with it."""
        public = self.context.http.public_url
        return public.rstrip("/") if public else f"{self.scheme}://{self.request.host}"

    @property
    def scheme(self) -> str:
        """The scheme of the client's request, http or https. A trusted proxy may set it with X-Forwarded-Proto."""
        forwarded = self.request.headers.get("X-Forwarded-Proto")
        if forwarded in ("http", "https") and within(str(self.request.remote_ip), self.context.http.trusted_proxies):
            return forwarded
        return self.request.protocol

    @property
    def token(self) -> str:
        """The bearer token of the header Authorization, else the token of the console's cookie, else an
        empty string.
        """
        kind, _, token = self.request.headers.get("Authorization", "").partition(" ")
        return token.strip() if kind.lower() == "bearer" else self.get_cookie(COOKIE, "") or ""

    async def authorize(self, scope: Scope, *others: Scope) -> User:
        """Returns the user of the request, who must have at least one of the scopes.

        Raises Refused with status 401 for a bad token, and 403 for a foreign origin, a banned user or a missing scope.
        """
        self.require_allowed_origin()
        return await self.verify_token(scope, *others)

    def require_allowed_origin(self) -> None:
        """Checks the origin of the request.

        Raises Refused when the origin is foreign, and when the request uses the cookie without an origin.
        """
        origin = self.request.headers.get("Origin")
        # A browser sends no Origin with a plain GET of our own page or of the address bar. Sec-Fetch-Site tells these
        # two from other pages.
        read = self.request.method == "GET" and self.request.headers.get("Sec-Fetch-Site") in ("same-origin", "none")
        if origin is None and self.get_cookie(COOKIE) and not read:
            raise self.refuse(ORIGIN_MISSING)
        if origin is not None and not self.is_allowed_origin(origin):
            raise self.refuse(FOREIGN_ORIGIN, origin=origin[:100])

    async def verify_token(self, scope: Scope, *others: Scope) -> User:
        """Returns the user of the token. Raises Refused when the token is not accepted or has none of the scopes."""
        try:
            user = await self.context.verifier.verify(self.token, self.address)
        except TokenError as error:
            raise self.refuse(error.refusal, **error.values) from None
        if until := self.services.bans.until(user.name):
            raise self.refuse(BANNED, until=time.ctime(until))
        if not {scope, *others} & user.scopes:
            raise self.refuse(SCOPE_MISSING, scope=scope)
        log.info("admitted", user=user.name, scope=scope, address=self.address, path=self.request.path)
        return user

    def is_allowed_origin(self, origin: str) -> bool:
        """Returns whether pages of this origin may connect: pages of our own origin, and of those in `allow_origins`.

        An origin is our own when it has our host and port. There is one exception: when the request uses TLS, the http
        origin of the same host is foreign, because an attacker on the network could change its pages. When the request
        does not use TLS, the https origin of the same host is our own, because a proxy may have ended TLS without a
        header that says so.
        """
        scheme, _, host = origin.partition("://")
        ours = host == self.request.host and (scheme, self.scheme) != ("http", "https")
        return ours or origin in self.context.http.allow_origins

    def refuse(self, refusal: Refusal, **values: Any) -> Refused:
        """Fills the placeholders of the refusal, counts and logs it, and returns the exception for the
        caller to raise.
        """
        return self.record_refusal(Refused(refusal, **values))

    def record_refusal(self, refused: Refused) -> Refused:
        """Counts and logs the refusal, and returns it for the caller to raise."""
        self.services.metrics.refusals.labels(refused.cause).inc()
        status = refused.status_code
        log.info("refused", status=status, reason=refused.cause, address=self.address, path=self.request.path)
        return refused

    def refuse_failed(self, error: WorkError) -> Refused:
        """Counts the WorkError, and returns the matching refusal for the caller to raise."""
        self.services.metrics.refusals.labels(error.code).inc()
        return Refused.because(error)

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        error = kwargs.get("exc_info", (None, None))[1]
        body: dict[str, object] = {"code": "internal", "message": HTTPStatus(status_code).phrase}
        if isinstance(error, Refused):
            body = {"code": error.code, "message": redact_tokens(error.message), **error.more}
            if error.retry_after_s is not None:
                self.set_header("Retry-After", str(error.retry_after_s))
        elif status_code == 404:
            body["code"] = "not_found"
        elif status_code < 500:
            body["code"] = "bad_message"
        if status_code == 401:
            self.set_header("WWW-Authenticate", "Bearer")
        if status_code == 426:
            self.set_header("Upgrade", "websocket")
            self.set_header("Connection", "Upgrade")
        self.set_header("Content-Type", "application/json")
        self.finish(json.dumps({"error": body}))

    def log_exception(self, kind: Any, error: Any, trace: Any) -> None:
        """Logs an unexpected exception. Tornado's own method would log the query string, which may contain a token."""
        if not isinstance(error, tornado.web.HTTPError):
            log.error("failed", path=self.request.path, exc_info=(kind, error, trace))


class NotFound(BaseHandler):
    def prepare(self) -> None:
        """Refuses every request. Raises Refused with status 404."""
        raise Refused(NOTHING_HERE)


def _within(address: str, networks: list[ipaddress.IPv4Network | ipaddress.IPv6Network]) -> bool:
    return _is_address(address) and any(ipaddress.ip_address(address) in network for network in networks)


def within(address: str, networks: tuple[str, ...]) -> bool:
    return _within(address, [ipaddress.ip_network(network, strict=False) for network in networks])


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
