"""Settings: every knob of Sluice, named once. Flag ``--jwt-secret``, variable ``SLUICE_JWT_SECRET``, ``.env`` key
``jwt_secret``, in that order of weight; validated together. Nothing else reads the environment."""

import argparse
import ipaddress
import os
import re
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    DotEnvSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

PREFIX = "SLUICE_"
MIB = 1 << 20
Seconds = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(gt=0)]
Names = Annotated[tuple[str, ...], NoDecode]
"""Several words, written with commas or spaces between them."""


class Settings(BaseSettings):
    model_config = SettingsConfigDict(env_prefix=PREFIX, env_file=".env", extra="forbid", frozen=True)

    port: int = Field(8000, ge=0, le=65535, description="port to listen on; 0 takes a free one")
    address: str = Field("127.0.0.1", description="address to listen on; 0.0.0.0 for all, once a key is set")
    workers: int = Field(0, ge=0, description="slices worked at once; 0: as many as cores")
    isolation: Literal["process", "thread"] = Field(
        "process", description="where pictures are decoded; thread: in the server itself, for trusted pictures only"
    )
    media: str = Field("file:media", description="where results are kept")
    uploads: str = Field("file:var/uploads", description="where uploads are kept")
    events: str = Field("sqlite:var/sluice.db", description="where events are kept: sqlite:FILE, redis://HOST:PORT/DB")
    queue: str = Field("local:", description="what does the work")

    jwt_secret: SecretStr | None = Field(None, description="HS256 secret, at least 32 bytes")
    jwt_public_key: str | None = Field(None, description="public key in PEM, or its file (RS256, ES256, EdDSA)")
    jwks_url: str | None = Field(None, description="address of a JWKS document with the public keys")
    jwt_audience: str | None = Field(None, description="the aud that tokens must have")
    jwt_issuer: str | None = Field(None, description="the iss that tokens must have")
    allow_origins: Names = Field((), description="origins besides our own whose pages may connect")
    trusted_proxies: Names = Field((), description="addresses or networks whose X-Forwarded-* are believed")
    metrics_allow: Names = Field(
        ("127.0.0.0/8", "::1"), description="networks that read /metrics without an admin token"
    )
    public_url: str | None = Field(None, description="address in result URLs; else the one the client connected to")

    max_slice_bytes: Count = Field(16 * MIB, description="bytes of one encoded slice")
    max_pixels: Count = Field(50_000_000, description="pixels of a picture and of its result")
    max_side: Count = Field(65_500, description="pixels a side; libjpeg takes no more")
    max_frames: Count = Field(1, description="frames of a picture; only the first is worked")
    formats: Names = Field(("jpeg", "png", "webp"), description="formats accepted")
    session_tasks: Count = Field(512, description="slices of a session that may wait")
    session_bytes: Count = Field(64 * MIB, description="bytes of a session that may wait")
    queue_tasks: Count = Field(50_000, description="slices of all sessions that may wait; each takes some 2 KiB")
    queue_bytes: Count = Field(256 * MIB, description="bytes of all sessions that may wait")
    session_events: Count = Field(10_000, description="events a stream keeps for clients that come back")
    child_memory: int = Field(
        0, ge=0, description="bytes of address space of a decoder child; 0: 1 GiB, 2 GiB where OCR is installed"
    )
    slice_timeout: Seconds = Field(10, description="seconds to work a slice")
    outbox: Count = Field(4 * MIB, description="bytes that may wait for a client that reads slowly")
    stall_timeout: Seconds = Field(20, description="seconds that a client may take to read one message")
    connections_per_user: Count = Field(8, description="open sockets of a user")
    connections_per_address: Count = Field(64, description="open sockets of an address")
    messages_per_second: Count = Field(1000, description="messages of a socket; bursts of twice that are let pass")
    chat_rate: Count = Field(20, description="messages of a chat socket; bursts of twice that, with a warning")
    chat_rooms: Count = Field(100, description="rooms that a chat socket joins")
    chat_text: Count = Field(4000, description="characters of a chat message")
    ping_interval: Seconds = Field(20, description="seconds between pings")
    pong_timeout: Seconds = Field(15, description="seconds for a pong to come")
    header_timeout: Seconds = Field(10, description="seconds for the headers of a request")
    body_timeout: Seconds = Field(60, description="seconds for the body of a request")
    media_ttl: Seconds = Field(24 * 3600, description="seconds that results are kept")
    media_bytes: Count = Field(10 << 30, description="bytes of results that are kept")
    upload_bytes: Count = Field(32 * MIB, description="bytes of one upload")
    upload_bytes_per_user: Count = Field(1 << 30, description="bytes of a user's uploads that are kept")
    upload_bytes_total: Count = Field(10 << 30, description="bytes of all uploads that are kept")
    uploads_per_user: Count = Field(4, description="uploads of a user under way at once")
    upload_timeout: Seconds = Field(300, description="seconds for an upload to come in")
    upload_grace: Seconds = Field(3600, description="seconds that an upload is kept which no message refers to")
    upload_ttl: Seconds = Field(30 * 24 * 3600, description="seconds that an upload is kept which a message refers to")
    session_grace: Seconds = Field(30, description="seconds that work goes on after a lost connection")
    session_ttl: Seconds = Field(600, description="seconds that a session can be resumed after the close")
    drain_timeout: Seconds = Field(10, description="seconds to finish what runs when told to stop")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="least level logged")
    log_format: Literal["auto", "text", "json"] = Field("auto", description="auto: text on a terminal, else json")

    @field_validator("allow_origins", "trusted_proxies", "metrics_allow", "formats", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return tuple(value.replace(",", " ").split()) if isinstance(value, str) else value

    @field_validator("formats")
    @classmethod
    def _known_formats(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value or set(value) - {"jpeg", "png", "webp"}:
            raise ValueError("choose from jpeg, png, webp")
        return value

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

    @field_validator("jwks_url", "public_url")
    @classmethod
    def _web_address(cls, value: str | None) -> str | None:
        if value and not value.startswith(("http://", "https://")):
            raise ValueError("must begin with http:// or https://")
        return value

    @field_validator("queue")
    @classmethod
    def _known_queue(cls, value: str) -> str:
        if value != "local:":
            raise ValueError("the known kinds are local:")
        return value

    @field_validator("jwt_secret")
    @classmethod
    def _long_enough(cls, value: SecretStr | None) -> SecretStr | None:
        if value and len(value.get_secret_value().encode()) < 32:
            raise ValueError("must be at least 32 bytes (RFC 7518, 3.2); try: openssl rand -hex 32")
        return value

    @model_validator(mode="after")
    def _together(self) -> "Settings":
        keys = [self.jwt_secret, self.jwt_public_key, self.jwks_url]
        if sum(key is not None for key in keys) > 1:
            raise ValueError("set one of jwt_secret, jwt_public_key, jwks_url")
        if not self.has_key and self.address not in ("127.0.0.1", "::1", "localhost"):
            raise ValueError(f"address {self.address} is open to others: set jwt_secret (or a public key) first")
        if self.session_ttl < self.session_grace:
            raise ValueError("session_ttl must not be shorter than session_grace")
        if self.pong_timeout > self.ping_interval:
            raise ValueError("pong_timeout must not be longer than ping_interval")
        return self

    @property
    def has_key(self) -> bool:
        return any((self.jwt_secret, self.jwt_public_key, self.jwks_url))

    @classmethod
    def settings_customise_sources(
        cls, settings_cls: type[BaseSettings], init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource, dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:  # fmt: skip
        return init_settings, env_settings, DotEnvSettingsSource(settings_cls, env_prefix="")


def add_flags(parser: argparse.ArgumentParser) -> None:
    """One flag for each setting; the help says its default and its variable."""
    for name, field in Settings.model_fields.items():
        default = " ".join(field.default) if isinstance(field.default, tuple) else field.default
        shown = (
            "none" if default in (None, "") else f"{default:,}" if type(default) is int and name != "port" else default
        )
        parser.add_argument(
            f"--{name.replace('_', '-')}",
            default=argparse.SUPPRESS,
            metavar=name.upper() if name in ("port", "address", "workers") else "VALUE",
            help=f"{field.description} (default: {shown}; {PREFIX}{name.upper()})",
        )


def load(flags: dict[str, Any]) -> Settings:
    """Flags over environment over .env over defaults. Raises ValueError with a line for each thing to change."""
    known = {PREFIX + name.upper() for name in Settings.model_fields}
    unknown = [name for name in os.environ if name.startswith(PREFIX) and name not in known]
    if unknown:
        raise ValueError("\n".join(f"{name}: no such setting; see --help" for name in sorted(unknown)))
    try:
        return Settings(**flags)
    except ValidationError as error:
        raise ValueError("\n".join(_lines(error))) from None


def _lines(error: ValidationError) -> Sequence[str]:
    """Never the values: one of them may be a secret."""
    lines = []
    for fault in error.errors(include_input=False, include_url=False):
        name = str(fault["loc"][0]) if fault["loc"] else ""
        if fault["type"] == "extra_forbidden":
            lines.append(f"{name}: no such setting; see --help")
        else:
            lines.append(f"{PREFIX + name.upper() + ': ' if name else ''}{fault['msg'].removeprefix('Value error, ')}")
    return lines
