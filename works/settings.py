"""The base class of groups of settings. Each group is declared once, in the package that uses it.

The name of a setting is the same everywhere: `video_width` is the flag `--video-width`, the variable
`SLUICE_VIDEO_WIDTH` and the key `video_width` in `.env`. config.py joins the groups and reads their values.
"""

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

MIB = 1 << 20


class SettingsGroup(BaseModel):
    """A group of settings. Every member has a default, a valid range and a description with its unit."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, validate_default=True)


def _split(value: Any) -> Any:
    return tuple(value.replace(",", " ").split()) if isinstance(value, str) else value


Seconds = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(gt=0)]
Names = Annotated[tuple[str, ...], BeforeValidator(_split)]
"""A list of words, separated by commas or spaces."""


def check_web_address(value: str | None) -> str | None:
    """Checks the URL in a pydantic field_validator. Raises ValueError when it does not start with http:// or https://."""
    if value and not value.startswith(("http://", "https://")):
        raise ValueError("must begin with http:// or https://")
    return value
