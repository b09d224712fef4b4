"""The base class of all handlers: user and address of a request, safe headers, and errors as JSON."""

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
# Answers are data. A browser must never run them, show them in a frame, or guess their type. The console has its own
# policy.
_HEADERS = {
    "Server": "Sluice",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


@dataclass(frozen=True, slots=True)
class HandlerContext:
    """The settings and services that the server passes to every handler."""

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
    """The base class of every handler."""

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
        """The client's IP address: that of the peer, or the one that trusted proxies forward."""
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
        """The URL at which the client reaches this server, for absolute URLs in answers."""
        public = self.context.http.public_url
        return public.rstrip("/") if public else f"{self.scheme}://{self.request.host}"

    @property
    def scheme(self) -> str:
        """http or https: how the client reached the server, or the scheme that a trusted proxy forwards."""
        forwarded = self.request.headers.get("X-Forwarded-Proto")
        if forwarded in ("http", "https") and within(str(self.request.remote_ip), self.context.http.trusted_proxies):
            return forwarded
        return self.request.protocol

    @property
    def token(self) -> str:
        """The token from the Authorization header or the console's cookie, or an empty string."""
        kind, _, token = self.request.headers.get("Authorization", "").partition(" ")
        return token.strip() if kind.lower() == "bearer" else self.get_cookie(COOKIE, "") or ""

    async def authorize(self, scope: Scope, *others: Scope) -> User:
        """Returns the user of the request, who must have one of the scopes.

        Raises Refused: 401 for the token; 403 for the origin, a ban or the scope.
        """
        self.require_allowed_origin()
        return await self.verify_token(scope, *others)

    def require_allowed_origin(self) -> None:
        """Raises Refused for a page of another origin, and for a cookie without an Origin header."""
        origin = self.request.headers.get("Origin")
        # In a plain GET, neither our own page nor the address bar sends an Origin header. Sec-Fetch-Site tells them
        # from other pages.
        read = self.request.method == "GET" and self.request.headers.get("Sec-Fetch-Site") in ("same-origin", "none")
        if origin is None and self.get_cookie(COOKIE) and not read:
            raise self.refuse(ORIGIN_MISSING)
        if origin is not None and not self.is_allowed_origin(origin):
            raise self.refuse(FOREIGN_ORIGIN, origin=origin[:100])

    async def verify_token(self, scope: Scope, *others: Scope) -> User:
        """Returns the user of the token. Raises Refused when the token is rejected or has none of the scopes."""
        try:
            user = await self.context.verifier.verify(self.token, self.address)
        except TokenError as error:
            raise self.refuse(error.refusal, **error.values) from None
        if until := self.services.bans.until(user.name):
            raise self.refuse(BANNED, until=time.ctime(until))
        if not {scope, *others} & user.scopes:
            raise self.refuse(SCOPE_MISSING, scope=scope)
        log.info("http.authorized", user=user.name, scope=scope, address=self.address, path=self.request.path)
        return user

    def is_allowed_origin(self, origin: str) -> bool:
        """Returns whether pages of this origin may connect: the server's own origin, and those in `allow_origins`.

        The own origin has the same host and port. Over TLS, http of the same host is another origin, because its pages
        can be changed on the way. Without TLS, https of the same host is allowed, because a proxy may have ended the
        TLS connection.
        """
        scheme, _, host = origin.partition("://")
        ours = host == self.request.host and (scheme, self.scheme) != ("http", "https")
        return ours or origin in self.context.http.allow_origins

    def refuse(self, refusal: Refusal, **values: Any) -> Refused:
        """Counts and logs a refusal with its placeholders filled. Returns it for the caller to raise."""
        return self.record_refusal(Refused(refusal, **values))

    def record_refusal(self, refused: Refused) -> Refused:
        """Counts and logs a refusal. Returns it for the caller to raise."""
        self.services.metrics.refusals.labels(refused.cause).inc()
        status = refused.status_code
        log.info("http.refused", status=status, reason=refused.cause, address=self.address, path=self.request.path)
        return refused

    def refuse_failed(self, error: WorkError) -> Refused:
        """Counts an error of a task. Returns the refusal for it, for the caller to raise."""
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
        """Logs an exception without the query string, which may contain a token."""
        if not isinstance(error, tornado.web.HTTPError):
            log.error("http.failed", path=self.request.path, exc_info=(kind, error, trace))


class NotFound(BaseHandler):
    def prepare(self) -> None:
        """Raises Refused for every request."""
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
