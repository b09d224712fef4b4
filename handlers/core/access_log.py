"""Writes one log line for each HTTP response. The line leaves out the query string, because it may contain a token."""

import structlog
from tornado.web import RequestHandler

log = structlog.get_logger()


def log_request(handler: RequestHandler) -> None:
    """Logs a finished request. Tornado calls this function through its setting ``log_function``.

    Responses with a status below 500 are logged at level debug, all others at level error.
    """
    write = log.debug if handler.get_status() < 500 else log.error
    write(
        "request",
        method=handler.request.method,
        path=handler.request.path,
        status=handler.get_status(),
        ms=round(handler.request.request_time() * 1000, 1),
    )
