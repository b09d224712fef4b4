"""Reads the settings from command-line flags, environment variables and the file `.env`.

The flag `--jwt-secret` overrides the variable `SLUICE_JWT_SECRET`, which overrides the key `jwt_secret` in `.env`. Each
setting is declared once, in the `settings.py` of the package that uses it. Checks that involve several groups of
settings are in this file. No other file reads the environment.
"""

import argparse
import os
import re
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from dotenv import dotenv_values
from pydantic import Field, ValidationError, model_validator
from pydantic.fields import FieldInfo

from handlers.core.settings import ChatSettings, HttpSettings, SocketSettings, TokenSettings
from works.events.settings import EventSettings
from works.imaging.settings import ImageLimits
from works.jobs.batch.settings import BatchSettings
from works.jobs.film.settings import FilmSettings
from works.jobs.rollout.settings import RolloutSettings
from works.jobs.settings import HelperSettings, JobSettings
from works.queue.settings import ClusterSettings, DecoderSettings, QueueBounds
from works.sessions import SessionSettings
from works.settings import Seconds, SettingsGroup
from works.storage.settings import ResultSettings, StoreSettings, UploadSettings
from works.video.settings import VideoSettings

PREFIX = "SLUICE_"
# The token for `server.py job`. It is not a setting of the server, because that command is a client of a server.
_TOKEN = PREFIX + "TOKEN"
_LOOPBACK = ("127.0.0.1", "::1", "localhost")
# Kubernetes sets such variables in every pod, for each Service called sluice or sluice-NAME. They look like settings.
_SERVICE_LINK = re.compile(PREFIX + r"(\w+_)?(SERVICE_(HOST|PORT\w*)|PORT_\d+_(TCP|UDP|SCTP)(_(ADDR|PORT|PROTO))?)")
_SERVICE_ADDRESS = re.compile(r"(tcp|udp|sctp)://[\d.:\[\]a-fA-F]+:\d+")


class ServerSettings(SettingsGroup):
    """The server process: its address, its log and its shutdown."""

    port: int = Field(8000, ge=0, le=65535, description="TCP port to listen on. 0 picks a free port.")
    address: str = Field(
        "127.0.0.1",
        description="Address to listen on. 0.0.0.0 listens on all IPv4 addresses and needs a key (jwt_secret or a "
        "public key).",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Lowest level that is logged: debug, info, warning or error."
    )
    log_format: Literal["auto", "text", "json"] = Field(
        "auto", description="Format of the log: text, json, or auto (text on a terminal, JSON elsewhere)."
    )
    drain_timeout: Seconds = Field(
        10,
        description="Seconds that a shutdown waits for running work. More time loses less work.",
    )

    @property
    def is_loopback(self) -> bool:
        return self.address in _LOOPBACK


class Settings(SettingsGroup):
    """All settings. Each group is passed as a whole to the package that uses it."""

    server: ServerSettings = ServerSettings()
    tokens: TokenSettings = TokenSettings()
    http: HttpSettings = HttpSettings()
    sockets: SocketSettings = SocketSettings()
    images: ImageLimits = ImageLimits()
    decoders: DecoderSettings = DecoderSettings()
    queue: QueueBounds = QueueBounds()
    cluster: ClusterSettings = ClusterSettings()
    sessions: SessionSettings = SessionSettings()
    events: EventSettings = EventSettings()
    results: ResultSettings = ResultSettings()
    uploads: UploadSettings = UploadSettings()
    store: StoreSettings = StoreSettings()
    chat: ChatSettings = ChatSettings()
    video: VideoSettings = VideoSettings()
    jobs: JobSettings = JobSettings()
    job_helpers: HelperSettings = HelperSettings()
    rollout: RolloutSettings = RolloutSettings()
    batch: BatchSettings = BatchSettings()
    film: FilmSettings = FilmSettings()

    @model_validator(mode="after")
    def _check_together(self) -> "Settings":
        if not (self.server.is_loopback or self.tokens.has_key):
            raise ValueError(
                f"other machines can reach address {self.server.address}: set jwt_secret (or a public key) first"
            )
        if 2 * self.rollout.rollout_kill_timeout > self.jobs.job_cancel_timeout:
            raise ValueError("rollout_kill_timeout must not be longer than half of job_cancel_timeout")
        is_remote = self.results.is_remote or self.uploads.is_remote
        if is_remote and 2 * self.store.store_timeout >= self.decoders.slice_timeout:
            raise ValueError(
                "store_timeout must be less than half of slice_timeout, or slices time out before the store does"
            )
        return self


def fields_of(group: type[SettingsGroup], path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], FieldInfo]]:
    """Yields the path of attribute names and the declaration of every setting in a group, nested groups included."""
    for name, field in group.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, SettingsGroup):
            yield from fields_of(field.annotation, (*path, name))
        else:
            yield (*path, name), field


def _by_name() -> dict[str, tuple[tuple[str, ...], FieldInfo]]:
    found: dict[str, tuple[tuple[str, ...], FieldInfo]] = {}
    for path, field in fields_of(Settings):
        if path[-1] in found:
            raise TypeError(f"the setting {path[-1]} is declared twice: {found[path[-1]][0]}, {path}")
        found[path[-1]] = path, field
    return found


SETTINGS = _by_name()
"""Name of a setting -> its path of attribute names in Settings, and its declaration."""


def load(flags: Mapping[str, Any]) -> Settings:
    """Returns the settings: flags first, then the environment, then `.env`, then defaults.

    Raises ValueError for invalid or unknown settings, with one line for each of them.
    """
    given = _from_file() | _from_environment() | dict(flags)
    try:
        return Settings.model_validate(_nested(given))
    except ValidationError as error:
        raise ValueError("\n".join(_describe(error))) from None


def settings_of(**values: Any) -> Settings:
    """Returns settings with these values and defaults for all others. For tests and programs that embed a server."""
    return Settings.model_validate(_nested(values))


def _nested(given: Mapping[str, Any]) -> dict[str, Any]:
    whole: dict[str, Any] = {}
    for name, value in given.items():
        group = whole
        for step in SETTINGS[name][0][:-1]:
            group = group.setdefault(step, {})
        group[name] = value
    return whole


def _from_file() -> dict[str, Any]:
    values = {name.lower(): value for name, value in dotenv_values(".env").items() if value is not None}
    _check_known(values, {name: name for name in values})
    return values


def _from_environment() -> dict[str, Any]:
    variables = {name: value for name, value in os.environ.items() if name.startswith(PREFIX) and name != _TOKEN}
    links = [
        name
        for name, value in variables.items()
        if _SERVICE_LINK.fullmatch(name) or (name.endswith("PORT") and _SERVICE_ADDRESS.fullmatch(value))
    ]
    if links:
        name = f"{PREFIX}PORT" if f"{PREFIX}PORT" in links else min(links)
        raise ValueError(
            f"{name}={variables[name]}: Kubernetes sets this variable for a Service called sluice, and it looks like a "
            "setting. Set enableServiceLinks: false in the pod, or rename the Service"
        )
    values = {name.removeprefix(PREFIX).lower(): value for name, value in variables.items()}
    _check_known(values, {name.removeprefix(PREFIX).lower(): name for name in variables})
    return values


def _check_known(values: Mapping[str, Any], shown: Mapping[str, str]) -> None:
    unknown = sorted(shown[name] for name in values if name not in SETTINGS)
    if unknown:
        raise ValueError("\n".join(f"{name}: there is no such setting; see --help" for name in unknown))


def _describe(error: ValidationError) -> Iterator[str]:
    """Yields one line for each invalid setting. The value is never shown, because it may be a secret."""
    for fault in error.errors(include_input=False, include_url=False):
        name = next((str(step) for step in reversed(fault["loc"]) if step in SETTINGS), "")
        shown = f"{PREFIX}{name.upper()}: " if name else ""
        yield shown + fault["msg"].removeprefix("Value error, ")


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds one flag for each setting. The help text names the default and the environment variable."""
    groups = {
        name: parser.add_argument_group(name.replace("_", " "), type(group).__doc__) for name, group in Settings()
    }
    for name, (path, field) in SETTINGS.items():
        default = shown_default(name, field.default)
        groups[path[0]].add_argument(
            f"--{name.replace('_', '-')}",
            default=argparse.SUPPRESS,
            metavar=name.upper() if name in ("port", "address", "workers") else "VALUE",
            help=f"{field.description} Default: {default}. Variable: {PREFIX}{name.upper()}.",
        )


def shown_default(name: str, default: Any) -> str:
    """Returns the default of a setting as the help shows it: ``none``, words with spaces, or 1,000 for a number."""
    if isinstance(default, tuple):
        default = " ".join(default)
    if default in (None, ""):
        return "none"
    return f"{default:,}" if type(default) is int and name != "port" else str(default)


def client_token() -> str:
    """Returns the token for `server.py job` from the environment, or an empty string."""
    return os.environ.get(_TOKEN, "")


def store_variables() -> dict[str, str]:
    """Returns the variables of the object stores' providers, under their own names. They include secrets."""
    return {name: value for name, value in os.environ.items() if name.startswith(("AWS_", "AZURE_", "GOOGLE_"))}
