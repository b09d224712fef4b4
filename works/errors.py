"""Errors are data: a code for programs, and a message that tells a person what to change."""

from typing import Literal, get_args

Code = Literal[
    "bad_message",
    "too_large",
    "bad_image",
    "unsupported_format",
    "too_many_pixels",
    "unknown_action",
    "bad_options",
    "busy",
    "cancelled",
    "timeout",
    "crashed",
    "forbidden",
    "not_found",
    "internal",
]
CODES: tuple[Code, ...] = get_args(Code)


class WorkError(Exception):
    """A request or a task was refused or has failed.

    ``temporary``: the same request may succeed later. ``retry_after_ms``: the earliest useful time, in milliseconds.
    """

    def __init__(self, code: Code, message: str, *, temporary: bool = False, retry_after_ms: int | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.temporary = temporary
        self.retry_after_ms = retry_after_ms

    def __reduce__(self) -> tuple[object, ...]:
        return _restore, (self.code, self.message, self.temporary, self.retry_after_ms)

    def as_dict(self) -> dict[str, object]:
        """Returns the members of this error in a wire message of type ``error``."""
        members: dict[str, object] = {
            "code": self.code,
            "message": self.message,
            "temporary": self.temporary,
        }
        if self.retry_after_ms is not None:
            members["retry_after_ms"] = self.retry_after_ms
        return members


class Busy(WorkError):
    """A limit is reached and nothing was accepted. The client should try again after ``retry_after_ms``."""

    def __init__(self, message: str, retry_after_ms: int) -> None:
        super().__init__("busy", message, temporary=True, retry_after_ms=retry_after_ms)


def _restore(code: Code, message: str, temporary: bool, retry_after_ms: int | None) -> WorkError:
    return WorkError(code, message, temporary=temporary, retry_after_ms=retry_after_ms)
