"""The command-line arguments that `server.py worker` and `server.py scheduler` share."""

import argparse
import asyncio
import signal
from collections.abc import Sequence

import config
from handlers.core.logging import configure_logging
from works.queue.cluster_address import ClusterAddress


def parser_of(role: str, description: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(f"server.py {role}", description=description)
    parser.add_argument(
        "--scheduler",
        dest="queue",
        default=argparse.SUPPRESS,
        metavar="URL",
        help="Scheduler of the cluster: tcp://HOST:PORT or tls://HOST:PORT. Default: the setting queue.",
    )
    parser.add_argument(
        "--listen",
        default="",
        metavar="ADDRESS",
        help="Address to listen on. Default: found from the route to the scheduler.",
    )
    config.add_flags(parser)
    return parser


def parse(
    role: str, parser: argparse.ArgumentParser, arguments: Sequence[str], *others: str
) -> tuple[config.Settings, ClusterAddress, dict[str, str]]:
    """Returns the settings, the scheduler's address, and the values of `--listen` and of the flags in ``others``.

    Raises ValueError when a setting is invalid or no scheduler is named.
    """
    flags = vars(parser.parse_args(arguments))
    own = {name: flags.pop(name) for name in ("listen", *others)}
    settings = config.load(flags)
    if settings.cluster.is_local:
        raise ValueError(f"server.py {role} needs --scheduler tcp://HOST:PORT or tls://HOST:PORT")
    configure_logging(settings.server.log_level, settings.server.log_format)
    return settings, ClusterAddress(settings.cluster), own


def stop_signal() -> asyncio.Event:
    """Returns an event that SIGTERM and SIGINT set."""
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    return stopping
