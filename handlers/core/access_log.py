"""Logs as events with fields, to standard error: text on a terminal, JSON for machines. Never a query string."""

import logging
import sys

import structlog
from structlog.typing import EventDict, WrappedLogger
from tornado.web import RequestHandler

from handlers.core.auth import without_tokens

log = structlog.get_logger()


def configure(level: str, style: str) -> None:
    """``style``: text, json, or auto (text when standard error is a terminal)."""
    text = style == "text" or (style == "auto" and sys.stderr.isatty())
    last = structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty()) if text else structlog.processors.JSONRenderer()
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso"),
            structlog.processors.format_exc_info,
            _tokens_out,
            last,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    # Libraries log through the standard library; what they say at INFO is of no use to an operator.
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")


def _tokens_out(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    """Tokens come in paths and names too, where nobody looks for them."""
    return {name: without_tokens(value) if isinstance(value, str) else value for name, value in event.items()}


def request(handler: RequestHandler) -> None:
    """Tornado's log_function: one line for each answer over HTTP; quiet for those that were in order."""
    say = log.debug if handler.get_status() < 500 else log.error
    say(
        "request",
        method=handler.request.method,
        path=handler.request.path,
        status=handler.get_status(),
        ms=round(handler.request.request_time() * 1000, 1),
    )
