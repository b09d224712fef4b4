"""Logs one line for each HTTP answer. The query string is left out, because it may contain a token."""

import structlog
from tornado.web import RequestHandler

log = structlog.get_logger()


def log_request(handler: RequestHandler) -> None:
    """Tornado's log_function. Answers below status 500 are logged at level debug."""
    write = log.debug if handler.get_status() < 500 else log.error
    write(
        "http.request",
        method=handler.request.method,
        path=handler.request.path,
        status=handler.get_status(),
        ms=round(handler.request.request_time() * 1000, 1),
    )
