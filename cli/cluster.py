"""What ``server.py worker`` and ``server.py scheduler`` share: flags, settings, and the signals that end them."""

import argparse
import asyncio
import signal
from typing import Any

import config
from handlers.core.logging import configure_logging


def parser(role: str, description: str) -> argparse.ArgumentParser:
    """With the flags of all settings, ``--scheduler`` and ``--listen``."""
    parser = argparse.ArgumentParser(f"server.py {role}", description=description)
    parser.add_argument(
        "--scheduler",
        dest="queue",
        default=argparse.SUPPRESS,
        metavar="URL",
        help="the scheduler's tcp://HOST:PORT or tls://HOST:PORT, as the setting queue says it",
    )
    parser.add_argument("--listen", default="", metavar="ADDRESS", help="this machine's address (default: found out)")
    config.add_flags(parser)
    return parser


def load(role: str, flags: dict[str, Any]) -> config.Settings:
    """The settings, by which logging is configured. Raises ValueError, also when no scheduler is named."""
    settings = config.load(flags)
    if settings.queue == "local:":
        raise ValueError(f"server.py {role} needs --scheduler tcp://HOST:PORT or tls://HOST:PORT")
    configure_logging(settings.log_level, settings.log_format)
    return settings


def stop_event() -> asyncio.Event:
    """An event that SIGTERM and SIGINT set, instead of ending the process."""
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    return stopping
