"""The settings of the endpoints: who may connect and how, and what a connection may take."""

import ipaddress
import re
from typing import Literal

from pydantic import Field, SecretStr, field_validator, model_validator

from works.settings import MIB, Count, Names, Seconds, SettingsGroup, check_web_address


class TokenSettings(SettingsGroup):
    """By which key tokens are checked, and what they must claim."""

    jwt_secret: SecretStr | None = Field(None, description="HS256 secret, at least 32 bytes")
    jwt_public_key: str | None = Field(None, description="public key in PEM, or its file (RS256, ES256, EdDSA)")
    jwks_url: str | None = Field(None, description="address of a JWKS document with the public keys")
    jwt_audience: str | None = Field(None, description="the aud that tokens must have")
    jwt_issuer: str | None = Field(None, description="the iss that tokens must have")

    _web_address = field_validator("jwks_url")(check_web_address)

    @field_validator("jwt_secret")
    @classmethod
    def _long_enough(cls, value: SecretStr | None) -> SecretStr | None:
        if value and len(value.get_secret_value().encode()) < 32:
            raise ValueError("must be at least 32 bytes (RFC 7518, 3.2); try: openssl rand -hex 32")
        return value

    @model_validator(mode="after")
    def _one_key(self) -> "TokenSettings":
        if sum(key is not None for key in (self.jwt_secret, self.jwt_public_key, self.jwks_url)) > 1:
            raise ValueError("set one of jwt_secret, jwt_public_key, jwks_url")
        return self

    @property
    def has_key(self) -> bool:
        return any((self.jwt_secret, self.jwt_public_key, self.jwks_url))

    @property
    def are_issued_here(self) -> bool:
        """Whether this server has what tokens are signed with; with a public key it can only check them."""
        return not (self.jwt_public_key or self.jwks_url)


class HttpSettings(SettingsGroup):
    """Who may ask over HTTP, and how long a request may take."""

    allow_origins: Names = Field((), description="origins besides our own whose pages may connect")
    trusted_proxies: Names = Field((), description="addresses or networks whose X-Forwarded-* are believed")
    metrics_allow: Names = Field(
        ("127.0.0.0/8", "::1"), description="networks that read /metrics without an admin token"
    )
    public_url: str | None = Field(None, description="address in result URLs; else the one the client connected to")
    accel_redirect: str | None = Field(
        None, description="internal location of the nginx in front (trusted_proxies), which then sends local files"
    )
    store_serve: Literal["redirect", "stream"] = Field(
        "redirect", description="clients fetch from the object store, by signed addresses, or through this server"
    )
    store_link_ttl: Seconds = Field(300, description="seconds that a signed address is good for")
    header_timeout: Seconds = Field(10, description="seconds for the headers of a request")
    body_timeout: Seconds = Field(60, description="seconds for the body of a request")

    _web_address = field_validator("public_url")(check_web_address)

    @field_validator("trusted_proxies", "metrics_allow")
    @classmethod
    def _networks(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for network in value:
            ipaddress.ip_network(network, strict=False)
        return value

    @field_validator("allow_origins")
    @classmethod
    def _origins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for origin in value:
            if not re.fullmatch(r"[a-z+-]+://[^/]+", origin):
                raise ValueError(f"{origin[:100]!r} is no origin; one is like https://pages.example, without a path")
        return value

    @field_validator("accel_redirect")
    @classmethod
    def _location(cls, value: str | None) -> str | None:
        if value and not re.fullmatch(r"/([\w-]+/)+", value):
            raise ValueError("must be like /_files/, as in nginx's location")
        return value

    @model_validator(mode="after")
    def _proxy_in_front(self) -> "HttpSettings":
        if self.accel_redirect and not self.trusted_proxies:
            raise ValueError("accel_redirect needs trusted_proxies: the address of the nginx in front")
        return self


class SocketSettings(SettingsGroup):
    """What one socket may take, and how many there may be."""

    outbox: Count = Field(4 * MIB, description="bytes that may wait for a client that reads slowly")
    stall_timeout: Seconds = Field(20, description="seconds that a client may take to read one message")
    connections_per_user: Count = Field(8, description="open sockets of a user")
    connections_per_address: Count = Field(64, description="open sockets of an address")
    messages_per_second: Count = Field(1000, description="messages of a socket; bursts of twice that are let pass")
    ping_interval: Seconds = Field(20, description="seconds between pings")
    pong_timeout: Seconds = Field(15, description="seconds for a pong to come")

    @model_validator(mode="after")
    def _pong_before_next_ping(self) -> "SocketSettings":
        if self.pong_timeout > self.ping_interval:
            raise ValueError("pong_timeout must not be longer than ping_interval")
        return self


class ChatSettings(SettingsGroup):
    """What one socket of chat may do."""

    chat_rate: Count = Field(20, description="messages of a chat socket; bursts of twice that, with a warning")
    chat_rooms: Count = Field(100, description="rooms that a chat socket joins")
    chat_text: Count = Field(4000, description="characters of a chat message")
