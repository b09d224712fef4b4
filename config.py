"""Settings: the groups of every room put together, and filled from flags, the environment and `.env`.

Flag `--jwt-secret` weighs more than the variable `SLUICE_JWT_SECRET`, which weighs more than the key `jwt_secret` of
`.env`. Each setting is declared once, in the group of the room that uses it; what concerns several groups is checked
here. Nothing else reads the environment.
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
# For `server.py job`, which is a client of some server.
_TOKEN = PREFIX + "TOKEN"
_LOOPBACK = ("127.0.0.1", "::1", "localhost")
# What Kubernetes sets in every pod for each Service called sluice or sluice-NAME: variables that look like ours.
_SERVICE_LINK = re.compile(PREFIX + r"(\w+_)?(SERVICE_(HOST|PORT\w*)|PORT_\d+_(TCP|UDP|SCTP)(_(ADDR|PORT|PROTO))?)")
_SERVICE_ADDRESS = re.compile(r"(tcp|udp|sctp)://[\d.:\[\]a-fA-F]+:\d+")


class ServerSettings(SettingsGroup):
    """The server as a process: where it listens, what it logs, how it ends."""

    port: int = Field(8000, ge=0, le=65535, description="port to listen on; 0 takes a free one")
    address: str = Field("127.0.0.1", description="address to listen on; 0.0.0.0 for all, once a key is set")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="least level logged")
    log_format: Literal["auto", "text", "json"] = Field("auto", description="auto: text on a terminal, else json")
    drain_timeout: Seconds = Field(10, description="seconds to finish what runs when told to stop")

    @property
    def is_loopback(self) -> bool:
        return self.address in _LOOPBACK


class Settings(SettingsGroup):
    """Every setting, in the groups that are handed to the rooms."""

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
            raise ValueError(f"address {self.server.address} is open to others: set jwt_secret (or a public key) first")
        if 2 * self.rollout.rollout_kill_timeout > self.jobs.job_cancel_timeout:
            raise ValueError("rollout_kill_timeout must not be longer than half of job_cancel_timeout")
        is_remote = self.results.is_remote or self.uploads.is_remote
        if is_remote and 2 * self.store.store_timeout >= self.decoders.slice_timeout:
            raise ValueError(
                "store_timeout must be less than half of slice_timeout, or slices end before it is told why"
            )
        return self


def fields_of(group: type[SettingsGroup], path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], FieldInfo]]:
    """Every setting of a group and of the groups within it: where it stands, and its declaration."""
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
"""By its name, where each setting stands in Settings, and its declaration."""


def load(flags: Mapping[str, Any]) -> Settings:
    """Flags over environment over .env over defaults. Raises ValueError with a line for each thing to change."""
    given = _from_file() | _from_environment() | dict(flags)
    try:
        return Settings.model_validate(_nested(given))
    except ValidationError as error:
        raise ValueError("\n".join(_describe(error))) from None


def settings_of(**values: Any) -> Settings:
    """Settings of these values by name, and of nothing else: for programs that start a server within themselves."""
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
            f"{name}={variables[name]}: Kubernetes sets this for a Service called sluice, and it looks like one of our "
            "settings; set enableServiceLinks: false in the pod, or give the Service another name"
        )
    values = {name.removeprefix(PREFIX).lower(): value for name, value in variables.items()}
    _check_known(values, {name.removeprefix(PREFIX).lower(): name for name in variables})
    return values


def _check_known(values: Mapping[str, Any], shown: Mapping[str, str]) -> None:
    unknown = sorted(shown[name] for name in values if name not in SETTINGS)
    if unknown:
        raise ValueError("\n".join(f"{name}: no such setting; see --help" for name in unknown))


def _describe(error: ValidationError) -> Iterator[str]:
    """Never the values: one of them may be a secret."""
    for fault in error.errors(include_input=False, include_url=False):
        name = next((str(step) for step in reversed(fault["loc"]) if step in SETTINGS), "")
        shown = f"{PREFIX}{name.upper()}: " if name else ""
        yield shown + fault["msg"].removeprefix("Value error, ")


def add_flags(parser: argparse.ArgumentParser) -> None:
    """One flag for each setting, in its group; the help says its default and its variable."""
    for name, (_, field) in SETTINGS.items():
        parser.add_argument(
            f"--{name.replace('_', '-')}",
            default=argparse.SUPPRESS,
            metavar=name.upper() if name in ("port", "address", "workers") else "VALUE",
            help=f"{field.description} (default: {_shown(name, field.default)}; {PREFIX}{name.upper()})",
        )


def _shown(name: str, default: Any) -> str:
    if isinstance(default, tuple):
        default = " ".join(default)
    if default in (None, ""):
        return "none"
    return f"{default:,}" if type(default) is int and name != "port" else str(default)


def client_token() -> str:
    """For `server.py job`."""
    return os.environ.get(_TOKEN, "")


def store_variables() -> dict[str, str]:
    """What the environment says of object stores, in their providers' own names; secrets too."""
    return {name: value for name, value in os.environ.items() if name.startswith(("AWS_", "AZURE_", "GOOGLE_"))}
