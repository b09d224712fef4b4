"""Sluice, from settings to a listening server and back to rest: the only place where its parts are put together."""

import argparse
import asyncio
import os
import resource
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from importlib.util import find_spec

import structlog
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.web import Application

import config
from cli import job, scheduler, token, worker
from handlers import health, routes
from handlers.core import access_log, auth, framing
from handlers.core.connections import Connections, close_http_connections
from handlers.core.disconnects import KICKED, RESTARTING
from handlers.core.http import HandlerContext, NotFound
from handlers.core.logging import configure_logging
from handlers.core.settings import ChatSettings, HttpSettings, SocketSettings, TokenSettings
from works.events.settings import EventSettings
from works.imaging import settings as imaging
from works.imaging.pipeline import ImageLimits
from works.imaging.settings import ImageLimits as ImageSettings
from works.jobs.batch.settings import BatchSettings
from works.jobs.film.settings import FilmSettings
from works.jobs.rollout.settings import RolloutSettings
from works.jobs.settings import HelperSettings, JobSettings
from works.queue.cluster_address import QueueSettings
from works.queue.decoder import DecoderSettings
from works.queue.order import QueueBounds
from works.queue.settings import QueueBounds as QueueSettingsGroup
from works.services import Services, open_services
from works.sessions import SessionSettings
from works.settings import pick
from works.storage.address import StoreOptions
from works.storage.uploads import UploadSettings
from works.video.settings import VideoSettings

# Seconds that clients have to answer a close before the server ends without them.
_GOODBYE = 2.0
_DAY = 24 * 3600
# Bytes of a body where none is expected; /process asks for more, once it knows who sends it.
_MOST_BODY = 64 << 10


async def serve(settings: config.Settings) -> None:
    """Runs until SIGTERM or SIGINT, then drains. Raises OSError when the port or a store cannot be had."""
    # A socket is a descriptor, and Debian's soft limit is 1,024 of them.
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    try:
        sockets = bind_sockets(settings.port, settings.address)
    except OSError as error:
        raise OSError(f"cannot listen on {settings.address} port {settings.port}: {error.strerror}") from None
    services = await make_services(settings)
    connections = Connections(pick(SocketSettings, settings), services.metrics)
    server = HTTPServer(
        make_application(settings, services, connections),
        idle_connection_timeout=settings.header_timeout,
        body_timeout=settings.body_timeout,
        max_body_size=_MOST_BODY,
        max_header_size=32 << 10,
    )
    server.add_sockets(sockets)
    kick = partial(connections.disconnect_user, disconnect=KICKED)
    duties = (
        services.keep_house(),
        health.watch_loop(services.metrics),
        services.bans.follow(kick),
        services.jobs.runner.run(),
    )
    chores = [asyncio.create_task(duty) for duty in duties]
    for chore in chores:
        chore.add_done_callback(report)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    announce(settings, sockets[0])
    await stop.wait()

    structlog.get_logger().info("draining", connections=len(connections))
    server.stop()
    # A proxy that keeps connections goes to another server with its next request, or the one after it.
    server.conn_params.no_keep_alive = True
    connections.refuse_new()
    await services.drain(settings.drain_timeout)
    connections.disconnect_all(RESTARTING)
    await connections.wait_closed(_GOODBYE)
    await close_http_connections(server, _GOODBYE)
    for chore in chores:
        chore.cancel()
    await services.close()


def report(chore: "asyncio.Task[None]") -> None:
    """A duty that ends before the server does is a fault of ours, and must not end in silence."""
    if not chore.cancelled() and chore.exception():
        structlog.get_logger().error("failed", duty=chore.get_name(), exc_info=chore.exception())


def child_settings(settings: config.Settings) -> DecoderSettings:
    ocr = find_spec("rapidocr") is not None  # was seen to peak at 1.5 GiB
    return DecoderSettings(
        media=settings.media,
        limits=pick(ImageLimits, settings),
        memory=settings.child_memory or (2 if ocr else 1) << 30,
        timeout=settings.slice_timeout,
        store=store_options(settings, settings.media),
    )


async def make_services(settings: config.Settings) -> Services:
    return await open_services(
        child_settings(settings),
        QueueBounds(settings.session_tasks, settings.session_bytes, settings.queue_tasks, settings.queue_bytes),
        pick(QueueSettings, settings),
        workers=settings.workers or os.cpu_count() or 1,
        isolation=settings.isolation,
        events=pick(EventSettings, settings),
        sessions=pick(SessionSettings, settings),
        media_ttl=settings.media_ttl,
        media_bytes=settings.media_bytes,
        bucket_rule=settings.store_lifetime == "bucket",
        uploads=replace(pick(UploadSettings, settings), uploads=settings.uploads_url),
        uploads_store=store_options(settings, settings.uploads_url),
        frame=framing.frame,
        images=pick(imaging.ImageLimits, settings),
        jobs=pick(JobSettings, settings),
        rollout=pick(RolloutSettings, settings),
        batch=pick(BatchSettings, settings),
        film=pick(FilmSettings, settings),
        helpers=pick(HelperSettings, settings),
        video=pick(VideoSettings, settings),
    )


def store_options(settings: config.Settings, url: str) -> StoreOptions:
    """How the object store of this URL is reached, if it is one's."""
    names = ("key", "endpoint", "region")
    secret = settings.store_secret.get_secret_value() if settings.store_secret else None
    return StoreOptions.gather(
        url,
        {name: getattr(settings, f"store_{name}") for name in names} | {"secret": secret},
        {name: value.get_secret_value() for name, value in config.store_variables().items()},
        timeout=settings.store_timeout,
        public_endpoint=settings.store_public_endpoint,
    )


def make_application(settings: config.Settings, services: Services, connections: Connections) -> Application:
    return Application(
        routes(),
        default_handler_class=NotFound,
        log_function=access_log.log_request,
        websocket_ping_interval=settings.ping_interval,
        websocket_ping_timeout=settings.pong_timeout,
        # Base64 takes 4 bytes for 3; the rest is for the message around it.
        websocket_max_message_size=settings.max_slice_bytes * 4 // 3 + (64 << 10),
        context=HandlerContext(
            http=pick(HttpSettings, settings),
            sockets=pick(SocketSettings, settings),
            chat=pick(ChatSettings, settings),
            images=pick(ImageSettings, settings),
            queue=pick(QueueSettingsGroup, settings),
            video=pick(VideoSettings, settings),
            services=services,
            verifier=auth.Verifier.from_settings(pick(TokenSettings, settings)),
            connections=connections,
        ),
    )


def announce(settings: config.Settings, listening: socket.socket) -> None:
    host, port = listening.getsockname()[:2]
    url = f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"
    if not settings.has_key:
        secret = auth.development_secret(auth.DEVELOPMENT_FOLDER)
        issued = auth.issue(
            secret, "developer", " ".join(auth.SCOPES), _DAY, aud=settings.jwt_audience, iss=settings.jwt_issuer
        )
        url += f"?token={issued}"
    print(f"Sluice is ready: {url}", flush=True)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "server.py",
        usage="server.py [--SETTING VALUE ...] | server.py token --sub NAME [...] | server.py job COMMAND [...] | "
        "server.py worker --scheduler URL [...] | server.py scheduler --scheduler URL [...]",
        description="Sluice: slices of tall pictures in over WebSocket, worked in the order they are seen.",
        epilog="Each setting may also stand in .env, by its plain name. 'server.py token --help' issues tokens, "
        "'server.py job --help' starts and watches jobs.",
    )
    config.add_flags(parser)
    return parser.parse_args(arguments)


def run(arguments: Sequence[str]) -> int:
    """``server.py`` without a command: the server itself, until a signal."""
    flags = vars(parse(arguments))
    settings = config.load(flags)
    configure_logging(settings.log_level, settings.log_format)
    for flag in {"jwt_secret", "store_secret"} & flags.keys():
        shown = flag.replace("_", "-"), flag.upper()
        print("warning: --{} is seen by everybody on this machine; set SLUICE_{}".format(*shown), file=sys.stderr)
    if "://" in flags.get("sources", "") and "@" in flags["sources"]:
        print("warning: a password in --sources is seen by everybody here; set SLUICE_SOURCES", file=sys.stderr)
    asyncio.run(serve(settings))
    return 0


COMMANDS: dict[str, Callable[[Sequence[str]], int]] = {
    "token": token.main,
    "job": job.main,
    "worker": partial(worker.main, decoder_settings=child_settings),
    "scheduler": scheduler.main,
}


def main(arguments: Sequence[str]) -> int:
    """The exit status: that of the command, 2 for settings or an address that cannot be had."""
    try:
        if arguments and arguments[0] in COMMANDS:
            return COMMANDS[arguments[0]](arguments[1:])
        return run(arguments)
    except (ValueError, OSError) as error:
        print(f"sluice: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
