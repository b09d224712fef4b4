"""Logs as events with fields, to standard error: text on a terminal, JSON for machines. Tokens are left out."""

import logging
import sys

import structlog
from structlog.typing import EventDict, WrappedLogger

from handlers.core.auth import redact_tokens


def configure_logging(level: str, style: str) -> None:
    """``style``: text, json, or auto (text when standard error is a terminal)."""
    text = style == "text" or (style == "auto" and sys.stderr.isatty())
    last = structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty()) if text else structlog.processors.JSONRenderer()
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso"),
            structlog.processors.format_exc_info,
            _redact,
            last,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    # Libraries log through the standard library; their INFO messages are of no use to an operator.
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")


def _redact(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    """Tokens occur in paths and in names too, where nobody expects them."""
    return {name: redact_tokens(value) if isinstance(value, str) else value for name, value in event.items()}
