"""Parses a message of a client from JSON, and checks it against the schema of its type."""

import json
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import ValidationError

from handlers.core.framing import MAX_HEADER
from works.errors import WorkError
from works.validation import StrictModel, describe_faults

# The most brackets, braces and commas that a long message may have. Base64 contains none of them. Without this limit,
# 20 MiB of brackets took 4 s and 570 MB of memory to parse.
_MAX_MARKS = 1000


class Message(StrictModel):
    """A message from the client."""

    type: str


class Token(Message):
    type: Literal["token"]
    token: str


def parse(text: str | bytes) -> dict[str, Any]:
    """Returns the members of a JSON object.

    ``text`` is the JSON of a binary message when it is of type bytes. Such JSON is always short, because framing.py
    limits its length.

    Raises WorkError when the text is not a JSON object, and when it is long but not mostly base64.
    """
    if isinstance(text, str) and len(text) > MAX_HEADER and sum(map(text.count, "[{,")) > _MAX_MARKS:
        raise WorkError("bad_message", f"besides base64 a message has at most {MAX_HEADER:,} characters")
    try:
        members = json.loads(text)
    except (ValueError, RecursionError):
        raise WorkError("bad_message", "the message is not JSON") from None
    if not isinstance(members, dict):
        raise WorkError("bad_message", "the message must be a JSON object")
    return members


def validate(members: dict[str, Any], accepts: Mapping[str, type[Message]]) -> Message:
    """Returns the message after a check against the schema of its type. Every socket also accepts the type ``token``.

    Raises WorkError when the type is unknown or when the message does not match the schema.
    """
    known: dict[str, type[Message]] = {"token": Token, **accepts}
    kind = members.get("type")
    schema = known.get(kind) if isinstance(kind, str) else None
    if schema is None:
        raise WorkError("bad_message", f"type: {str(kind)[:40]!r} is none of {', '.join(sorted(known))}")
    try:
        return schema.model_validate(members)
    except ValidationError as error:
        raise WorkError("bad_message", describe_faults(error, str(kind))) from None
