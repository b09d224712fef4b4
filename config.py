"""Settings: every knob of Sluice, named once. Flag ``--jwt-secret``, variable ``SLUICE_JWT_SECRET``, ``.env`` key
``jwt_secret``, in that order of weight; validated together. Nothing else reads the environment. The bounds among them
are in limits.py."""

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

from limits import Limits, Names, Seconds

PREFIX = "SLUICE_"
_TOKEN = PREFIX + "TOKEN"
_OBJECTS = ("s3://", "gs://", "az://")
Folders = Annotated[tuple[str, ...], NoDecode]
"""Several NAME=PATH, written with commas between them."""


class Settings(Limits):
    model_config = SettingsConfigDict(env_prefix=PREFIX, env_file=".env", extra="forbid", frozen=True)

    port: int = Field(8000, ge=0, le=65535, description="port to listen on; 0 takes a free one")
    address: str = Field("127.0.0.1", description="address to listen on; 0.0.0.0 for all, once a key is set")
    workers: int = Field(0, ge=0, description="slices worked at once; 0: as many as cores")
    isolation: Literal["process", "thread"] = Field(
        "process", description="where pictures are decoded; thread: in the server itself, for trusted pictures only"
    )
    media: str = Field("file:media", description="where results are kept")
    uploads: str | None = Field(
        None, description="where uploads are kept; unset: in file:var/uploads, or in the bucket of media under uploads/"
    )
    spool: str = Field("var/spool", description="folder for uploads on their way to an object store")
    events: str = Field("sqlite:var/sluice.db", description="where events are kept: sqlite:FILE, redis://HOST:PORT/DB")
    queue: str = Field(
        "local:", description="what does the work: local:, tcp://HOST:PORT or tls://HOST:PORT of a Dask scheduler"
    )
    queue_ca: str | None = Field(
        None, description="file with the certificate of the cluster's own authority, for tls://"
    )
    queue_cert: str | None = Field(None, description="file with this part's certificate, for tls://")
    queue_key: str | None = Field(None, description="file with its key, for tls://")
    queue_plain: bool = Field(
        False, description="true: speak tcp:// with a scheduler at a public address, where another layer encrypts"
    )
    queue_ahead: float = Field(
        0.5, ge=0, le=4, description="slices that wait at the cluster for each of its threads, ready to be begun"
    )
    queue_patience: Seconds = Field(30, description="seconds that accepted slices wait for a cluster that is away")

    store_endpoint: str | None = Field(None, description="address of the object store, unless its provider's own")
    store_public_endpoint: str | None = Field(None, description="by which address clients reach it, if by another")
    store_region: str | None = Field(None, description="region of the bucket")
    store_key: str | None = Field(None, description="access key, or Azure account; unset: the provider's variables")
    store_secret: SecretStr | None = Field(None, description="secret access key, or what the provider has for one")
    store_timeout: Seconds = Field(
        4, description="seconds for one request to the object store; twice that must be less than slice_timeout"
    )
    store_serve: Literal["redirect", "stream"] = Field(
        "redirect", description="clients fetch from the object store, by signed addresses, or through this server"
    )
    store_link_ttl: Seconds = Field(300, description="seconds that a signed address is good for")
    store_lifetime: Literal["sweep", "bucket"] = Field(
        "sweep", description="who deletes old results in a bucket: this server, or a rule of the bucket's"
    )
    accel_redirect: str | None = Field(
        None, description="internal location of the nginx in front (trusted_proxies), which then sends local files"
    )

    sources: SecretStr | None = Field(
        None, description="what can be watched: name=place ..., a JSON object, or a .json file; docs/video.md"
    )
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

    plans: str | None = Field(None, description="YAML file of the plans that rollouts may follow")
    ssh_known_hosts: str | None = Field(
        None, description="file with the host keys of rollouts; no others are spoken to"
    )
    ssh_key: str | None = Field(None, description="file with the private key of rollouts, without a passphrase")
    job_modules: Names = Field((), description="modules of yours with further kinds of jobs, importable here")
    job_folder: str = Field("var/jobs", description="where jobs have their scratch folders")
    folders: Folders = Field((), description="folders that jobs may read: NAME=PATH, commas between several")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="least level logged")
    log_format: Literal["auto", "text", "json"] = Field("auto", description="auto: text on a terminal, else json")

    @field_validator("allow_origins", "trusted_proxies", "metrics_allow", "formats", "job_modules", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return tuple(value.replace(",", " ").split()) if isinstance(value, str) else value

    @field_validator("folders", mode="before")
    @classmethod
    def _named(cls, value: object) -> object:
        entries = (
            tuple(entry.strip() for entry in value.split(",") if entry.strip()) if isinstance(value, str) else value
        )
        if isinstance(entries, tuple) and not all(re.fullmatch(r"[\w.-]+=.+", str(entry)) for entry in entries):
            raise ValueError("must be like scans=/srv/scans, each a name without spaces and a path")
        return entries

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

    @field_validator("accel_redirect")
    @classmethod
    def _location(cls, value: str | None) -> str | None:
        if value and not re.fullmatch(r"/([\w-]+/)+", value):
            raise ValueError("must be like /_files/, as in nginx's location")
        return value

    @field_validator("jwks_url", "public_url", "store_endpoint", "store_public_endpoint")
    @classmethod
    def _web_address(cls, value: str | None) -> str | None:
        if value and not value.startswith(("http://", "https://")):
            raise ValueError("must begin with http:// or https://")
        return value

    @field_validator("queue")
    @classmethod
    def _known_queue(cls, value: str) -> str:
        if value != "local:" and not re.fullmatch(r"(tcp|tls)://[^/@]+:\d+/?", value):
            raise ValueError("the known kinds are local:, tcp://HOST:PORT, tls://HOST:PORT")
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
        if 2 * self.rollout_kill_timeout > self.job_cancel_timeout:
            raise ValueError("rollout_kill_timeout must not be longer than half of job_cancel_timeout")
        if self.accel_redirect and not self.trusted_proxies:
            raise ValueError("accel_redirect needs trusted_proxies: the address of the nginx in front")
        remote = self.media.startswith(_OBJECTS) or (self.uploads or "").startswith(_OBJECTS)
        if remote and 2 * self.store_timeout >= self.slice_timeout:
            raise ValueError(
                "store_timeout must be less than half of slice_timeout, or slices end before it is told why"
            )
        return self

    @property
    def uploads_url(self) -> str:
        """Beside results in an object store, so that the one setting is enough for many servers to share both."""
        if self.uploads:
            return self.uploads
        if not self.media.startswith(_OBJECTS):
            return "file:var/uploads"
        scheme, _, path = self.media.partition("://")
        bucket, _, prefix = path.strip("/").partition("/")
        return f"{scheme}://{bucket}/uploads/{prefix}".rstrip("/")

    @property
    def has_key(self) -> bool:
        return any((self.jwt_secret, self.jwt_public_key, self.jwks_url))

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, env_settings, DotEnvSettingsSource(settings_cls, env_prefix="")


def add_flags(parser: argparse.ArgumentParser) -> None:
    """One flag for each setting; the help says its default and its variable."""
    fields = Settings.model_fields
    for name in sorted(fields, key=lambda name: name in Limits.model_fields):
        field = fields[name]
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


def client_token() -> str:
    """For ``server.py job``, which is a client of some server."""
    return os.environ.get(_TOKEN, "")


def load(flags: dict[str, Any]) -> Settings:
    """Flags over environment over .env over defaults. Raises ValueError with a line for each thing to change."""
    known = {PREFIX + name.upper() for name in Settings.model_fields} | {_TOKEN}
    unknown = [name for name in os.environ if name.startswith(PREFIX) and name not in known]
    if unknown:
        raise ValueError("\n".join(f"{name}: no such setting; see --help" for name in sorted(unknown)))
    try:
        return Settings(**flags)
    except ValidationError as error:
        raise ValueError("\n".join(_lines(error))) from None


def store_variables() -> dict[str, SecretStr]:
    """What the environment says of object stores, in their providers' own names."""
    providers = ("AWS_", "AZURE_", "GOOGLE_")
    return {name: SecretStr(value) for name, value in os.environ.items() if name.startswith(providers)}


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
