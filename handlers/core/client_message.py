"""Parses and checks a client's JSON message."""

import json
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import ValidationError

from handlers.core.framing import MAX_HEADER
from works.errors import WorkError
from works.validation import StrictModel, describe_faults

# Maximum number of characters besides base64. JSON with many brackets is slow: 20 MiB of them took 4 s and 570 MB to
# parse.
_MAX_MARKS = 1000


class Message(StrictModel):
    """Base class of messages from the client."""

    type: str


class Token(Message):
    type: Literal["token"]
    token: str


def parse(text: str | bytes) -> dict[str, Any]:
    """Returns the members of a JSON object. Raises WorkError for any other text, and for long text that is not mostly
    base64.

    The JSON of a binary message is ``bytes``. framing.py limits its length.
    """
    if isinstance(text, str) and len(text) > MAX_HEADER and sum(map(text.count, "[{,")) > _MAX_MARKS:
        raise WorkError(
            "bad_message", f"message too long: at most {MAX_HEADER:,} characters besides the picture in base64"
        )
    try:
        members = json.loads(text)
    except (ValueError, RecursionError):
        raise WorkError("bad_message", "the message is not valid JSON") from None
    if not isinstance(members, dict):
        raise WorkError("bad_message", "the message must be a JSON object")
    return members


def validate(members: dict[str, Any], accepts: Mapping[str, type[Message]]) -> Message:
    """Returns the message, checked by the schema of its type. Every socket also accepts ``token``. Raises WorkError."""
    known: dict[str, type[Message]] = {"token": Token, **accepts}
    kind = members.get("type")
    schema = known.get(kind) if isinstance(kind, str) else None
    if schema is None:
        raise WorkError("bad_message", f"type: {str(kind)[:40]!r} is unknown; use {', '.join(sorted(known))}")
    try:
        return schema.model_validate(members)
    except ValidationError as error:
        raise WorkError("bad_message", describe_faults(error, str(kind))) from None
