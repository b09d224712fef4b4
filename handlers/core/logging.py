"""Writes logs as events with fields to standard error: as text on a terminal, as JSON for machines. Tokens
are removed.
"""

import logging
import sys

import structlog
from structlog.typing import EventDict, WrappedLogger

from handlers.core.auth import redact_tokens


def configure_logging(level: str, style: str) -> None:
    """Configures the logs of this process.

    ``style`` is "text", "json" or "auto". With "auto", logs are text when standard error is a terminal, else JSON.
    """
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
    # Libraries use the logging module of Python. Their INFO messages do not help an operator.
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")


def _redact(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    """Removes tokens from every field, because tokens also occur in unexpected places such as paths and names."""
    return {name: redact_tokens(value) if isinstance(value, str) else value for name, value in event.items()}
