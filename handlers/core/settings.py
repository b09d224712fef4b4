"""The settings of HTTP endpoints and sockets: tokens, access, timeouts and limits."""

import ipaddress
import re
from typing import Literal

from pydantic import Field, SecretStr, field_validator, model_validator

from works.settings import MIB, Count, Names, Seconds, SettingsGroup, check_web_address


class TokenSettings(SettingsGroup):
    """Which key checks tokens, and which claims they must have."""

    jwt_secret: SecretStr | None = Field(
        None,
        description="Secret that signs and checks tokens with HS256, at least 32 bytes. Set only one of the three "
        "keys.",
    )
    jwt_public_key: str | None = Field(
        None, description="Public key that checks tokens, in PEM, or the path of its file (RS256, ES256 or EdDSA)."
    )
    jwks_url: str | None = Field(
        None, description="URL of a JSON Web Key Set (JWKS) with the public keys that check tokens."
    )
    jwt_audience: str | None = Field(
        None, description="Value that the claim aud of every token must have. Unset: aud is not checked."
    )
    jwt_issuer: str | None = Field(
        None, description="Value that the claim iss of every token must have. Unset: iss is not checked."
    )

    _web_address = field_validator("jwks_url")(check_web_address)

    @field_validator("jwt_secret")
    @classmethod
    def _long_enough(cls, value: SecretStr | None) -> SecretStr | None:
        if value and len(value.get_secret_value().encode()) < 32:
            raise ValueError(
                "must have at least 32 bytes (RFC 7518, section 3.2); create one with: openssl rand -hex 32"
            )
        return value

    @model_validator(mode="after")
    def _one_key(self) -> "TokenSettings":
        if sum(key is not None for key in (self.jwt_secret, self.jwt_public_key, self.jwks_url)) > 1:
            raise ValueError("set only one of jwt_secret, jwt_public_key and jwks_url")
        return self

    @property
    def has_key(self) -> bool:
        return any((self.jwt_secret, self.jwt_public_key, self.jwks_url))

    @property
    def are_issued_here(self) -> bool:
        """Whether this server can sign tokens. With a public key it can only check them."""
        return not (self.jwt_public_key or self.jwks_url)


class HttpSettings(SettingsGroup):
    """Access over HTTP, URLs in answers, and timeouts of requests."""

    allow_origins: Names = Field(
        (), description="Other origins whose pages may connect, such as https://pages.example, separated by spaces."
    )
    trusted_proxies: Names = Field(
        (),
        description="Addresses or networks of reverse proxies. Their X-Forwarded-For and X-Forwarded-Proto are "
        "trusted.",
    )
    metrics_allow: Names = Field(
        ("127.0.0.0/8", "::1"), description="Networks that may read /metrics without an admin token."
    )
    public_url: str | None = Field(
        None,
        description="Base of the URLs in answers, such as https://sluice.example. Unset: the address the client "
        "connected to.",
    )
    accel_redirect: str | None = Field(
        None,
        description="Internal location of an nginx in front of the server, which then sends local files. Needs "
        "trusted_proxies.",
    )
    store_serve: Literal["redirect", "stream"] = Field(
        "redirect",
        description="How clients fetch files from an object store: redirect (to a signed URL) or stream (through "
        "this server).",
    )
    store_link_ttl: Seconds = Field(
        300,
        description="Seconds that a signed URL of the object store is valid. More helps slow clients, less limits "
        "sharing.",
    )
    header_timeout: Seconds = Field(
        10, description="Seconds to receive the headers of a request. Less frees sockets of stalled clients sooner."
    )
    body_timeout: Seconds = Field(
        60, description="Seconds to receive the body of a request. More helps slow uploads to /process."
    )

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
                raise ValueError(
                    f"{origin[:100]!r} is not an origin; use a form like https://pages.example, without a path"
                )
        return value

    @field_validator("accel_redirect")
    @classmethod
    def _location(cls, value: str | None) -> str | None:
        if value and not re.fullmatch(r"/([\w-]+/)+", value):
            raise ValueError("must have the form /_files/, the same as in the location of nginx")
        return value

    @model_validator(mode="after")
    def _proxy_in_front(self) -> "HttpSettings":
        if self.accel_redirect and not self.trusted_proxies:
            raise ValueError("accel_redirect needs trusted_proxies: set it to the address of nginx")
        return self


class SocketSettings(SettingsGroup):
    """Limits of one socket, and how many sockets may be open."""

    outbox: Count = Field(
        4 * MIB,
        description="Bytes that may wait for one client. More tolerates slower readers, less saves memory per "
        "connection.",
    )
    stall_timeout: Seconds = Field(
        20, description="Seconds that a client may take to read one message before it is disconnected."
    )
    connections_per_user: Count = Field(
        8, description="Maximum number of open sockets of one user. Raise it for users with many tabs."
    )
    connections_per_address: Count = Field(
        64, description="Maximum number of open sockets of one IP address. Raise it for many users behind one address."
    )
    messages_per_second: Count = Field(
        1000, description="Messages a second that a socket may send. A burst of twice as many is accepted."
    )
    ping_interval: Seconds = Field(
        20, description="Seconds between two pings of a connection. Less finds dead connections sooner."
    )
    pong_timeout: Seconds = Field(
        15, description="Seconds to answer a ping before the connection is closed. At most ping_interval."
    )

    @model_validator(mode="after")
    def _pong_before_next_ping(self) -> "SocketSettings":
        if self.pong_timeout > self.ping_interval:
            raise ValueError("pong_timeout must not be longer than ping_interval")
        return self


class ChatSettings(SettingsGroup):
    """Limits of one chat socket."""

    chat_rate: Count = Field(
        20,
        description="Messages a second of a chat socket. A burst of twice as many is accepted, with a warning.",
    )
    chat_rooms: Count = Field(100, description="Maximum number of rooms that one chat socket may join.")
    chat_text: Count = Field(4000, description="Maximum number of characters of one chat message.")
