"""What every answer shares, over HTTP or before an upgrade: who asks and from where, safe headers, errors as JSON."""

import ipaddress
import json
import time
from dataclasses import dataclass
from functools import cached_property
from http import HTTPStatus
from typing import Any, cast

import structlog
import tornado.web

from handlers.core.auth import Scope, TokenError, User, Verifier, without_tokens
from handlers.core.connections import Connections
from works.errors import Code, WorkError
from works.services import Services

log = structlog.get_logger()

COOKIE = "sluice_token"
# Answers are data; a browser must never run, frame or guess at them. The console has a policy of its own.
_HEADERS = {
    "Server": "Sluice",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
STATUS: dict[Code, int] = {
    "bad_message": 400,
    "too_large": 413,
    "bad_image": 422,
    "unsupported_format": 415,
    "too_many_pixels": 422,
    "unknown_action": 400,
    "bad_options": 400,
    "busy": 503,
    "cancelled": 503,
    "timeout": 504,
    "crashed": 422,
    "forbidden": 403,
    "not_found": 404,
    "internal": 500,
}


@dataclass(frozen=True, slots=True)
class Policy:
    """The settings that handlers go by; config.py says what each means."""

    max_slice_bytes: int
    outbox: int
    stall_timeout: float
    messages_per_second: int
    chat_rate: int
    chat_rooms: int
    chat_text: int
    video_watches: int
    allow_origins: tuple[str, ...]
    trusted_proxies: tuple[str, ...]
    metrics_allow: tuple[str, ...]
    public_url: str | None
    store_serve: str
    store_link_ttl: float
    accel_redirect: str | None


@dataclass(frozen=True, slots=True)
class HandlerContext:
    """What the server hands to every handler."""

    policy: Policy
    services: Services
    verifier: Verifier
    connections: Connections
    limits: dict[str, int]
    """The limits that ``hello`` tells the client."""


class Refused(tornado.web.HTTPError):
    """A request refused: HTTP status, error code, message; ``cause`` is the reason of a TokenError, else the code."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        cause: str = "",
        retry_after_s: int | None = None,
        more: dict[str, object] | None = None,
    ) -> None:
        super().__init__(status)
        self.more = more or {}
        self.code = code
        self.message = message
        self.cause = cause or code
        self.retry_after_s = retry_after_s

    @classmethod
    def because(cls, error: WorkError) -> "Refused":
        after = -(-error.retry_after_ms // 1000) if error.retry_after_ms else None
        more = {"errors": error.as_dict()["errors"]} if "errors" in error.as_dict() else None
        return cls(STATUS[error.code], error.code, error.message, retry_after_s=after, more=more)


class BaseHandler(tornado.web.RequestHandler):
    """The handlers' ground: subclasses are plain Tornado handlers."""

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
        if origin in self.context.policy.allow_origins:
            self.set_header("Access-Control-Allow-Origin", origin)
            self.set_header("Vary", "Origin")

    @cached_property
    def address(self) -> str:
        """The client's address: the peer's, or what trusted proxies say of the peer."""
        trusted = [ipaddress.ip_network(network, strict=False) for network in self.context.policy.trusted_proxies]
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
        """Where the client reaches this server, for absolute URLs."""
        public = self.context.policy.public_url
        return public.rstrip("/") if public else f"{self.scheme}://{self.request.host}"

    @property
    def scheme(self) -> str:
        """http or https: how the client reached us, or what a trusted proxy says of that."""
        forwarded = self.request.headers.get("X-Forwarded-Proto")
        if forwarded in ("http", "https") and within(str(self.request.remote_ip), self.context.policy.trusted_proxies):
            return forwarded
        return self.request.protocol

    @property
    def token(self) -> str:
        """The bearer token of the header or else of the console's cookie; empty when there is none."""
        kind, _, token = self.request.headers.get("Authorization", "").partition(" ")
        return token.strip() if kind.lower() == "bearer" else self.get_cookie(COOKIE, "") or ""

    async def admit(self, scope: Scope, *others: Scope) -> User:
        """Who asks, if they may: any of the scopes will do. Raises Refused: 401 for the token, 403 for all else."""
        self.check_page()
        return await self.identify(scope, *others)

    def check_page(self) -> None:
        """Raises Refused when a page of another origin asks, or one that cannot be told."""
        origin = self.request.headers.get("Origin")
        # With a plain GET our own page sends no Origin, nor does the address bar; the browser says which it was.
        read = self.request.method == "GET" and self.request.headers.get("Sec-Fetch-Site") in ("same-origin", "none")
        if origin is None and self.get_cookie(COOKIE) and not read:
            raise self.refuse(403, "forbidden", "a request that goes by cookie must say its Origin")
        if origin is not None and not self.own(origin):
            raise self.refuse(403, "forbidden", f"pages of {origin[:100]} may not connect (allow_origins)")

    async def identify(self, scope: Scope, *others: Scope) -> User:
        """Whom the token speaks for. Raises Refused when it is not accepted, or lacks all of the scopes."""
        try:
            user = await self.context.verifier.verify(self.token, self.address)
        except TokenError as error:
            raise self.refuse(401, "forbidden", error.message, error.reason) from None
        if until := self.services.bans.until(user.name):
            raise self.refuse(403, "forbidden", f"this user is kept out until {time.ctime(until)}", "denied")
        if not {scope, *others} & user.scopes:
            raise self.refuse(403, "forbidden", f"the token's scope must include {scope!r}")
        log.info("admitted", user=user.name, scope=scope, address=self.address, path=self.request.path)
        return user

    def own(self, origin: str) -> bool:
        """Whether pages of that origin may speak to us: ours, and those allowed.

        Ours has our host and port. Over TLS it is not the same host's http, into which anybody on the way may write;
        the other way round a proxy has ended the TLS, whether or not it says so.
        """
        scheme, _, host = origin.partition("://")
        ours = host == self.request.host and (scheme, self.scheme) != ("http", "https")
        return ours or origin in self.context.policy.allow_origins

    def refuse(
        self, status: int, code: Code, message: str, cause: str = "", retry_after_s: int | None = None
    ) -> Refused:
        """Counts and logs the refusal; to be raised."""
        refused = Refused(status, code, message, cause=cause, retry_after_s=retry_after_s)
        self.services.metrics.refusals.labels(refused.cause).inc()
        log.info("refused", status=status, reason=refused.cause, address=self.address, path=self.request.path)
        return refused

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        error = kwargs.get("exc_info", (None, None))[1]
        body: dict[str, object] = {"code": "internal", "message": HTTPStatus(status_code).phrase}
        if isinstance(error, Refused):
            body = {"code": error.code, "message": without_tokens(error.message), **error.more}
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
        """Tornado's own would log the query string, and with it tokens."""
        if not isinstance(error, tornado.web.HTTPError):
            log.error("failed", path=self.request.path, exc_info=(kind, error, trace))


class NotFound(BaseHandler):
    def prepare(self) -> None:
        raise Refused(404, "not_found", "there is nothing at this address")


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
