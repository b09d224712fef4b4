"""Sluice, from settings to a listening server and back to rest: the only place where its parts are put together."""

import argparse
import asyncio
import os
import resource
import socket
import sys
import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import NoReturn

import structlog
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.web import Application

import cli.job
import cli.scheduler
import cli.token
import cli.worker
import config
from cli.cluster import stop_signal
from config import Settings
from handlers import health, routes
from handlers.core import auth, framing
from handlers.core.access_log import log_request
from handlers.core.connections import Connections, close_http_connections
from handlers.core.disconnects import KICKED, RESTARTING
from handlers.core.http import HandlerContext, NotFound
from handlers.core.logging import configure_logging
from works.background import BackgroundTasks
from works.bans import Bans
from works.chat.messages import Chat
from works.events.open import open_events
from works.jobs import load
from works.jobs.resources import JobResources
from works.jobs.service import JobService
from works.metrics import Metrics
from works.queue.decoder_child import ChildConfig
from works.queue.open import open_queue
from works.services import Services
from works.sessions import Sessions
from works.storage.address import StoreOptions, StoreThreads
from works.storage.open import open_results, open_upload_store
from works.uploads import Uploads
from works.video.service import VideoService
from works.video.snapshots import Snapshots

# Seconds that clients have to answer a close before the server ends without them.
_CLOSE_TIMEOUT = 2.0
_DAY = 24 * 3600
# Bytes of a body where none is expected; /process asks for more, once it knows who sends it.
_MAX_BODY = 64 << 10
# Threads that wait for stores, of results and of uploads each. A store that hangs may hold up as many requests at once.
_STORE_THREADS = 16


async def serve(settings: Settings) -> None:
    """Runs until SIGTERM or SIGINT, then drains. Raises OSError when the port or a store cannot be had."""
    allow_many_sockets()
    sockets = listen(settings)
    services = await open_services(settings)
    connections = Connections(settings.sockets, services.metrics)
    server = make_server(settings, make_application(settings, services, connections))
    server.add_sockets(sockets)
    start_background(services, connections)
    stop = stop_signal()
    announce(settings, sockets[0])
    await stop.wait()

    structlog.get_logger().info("draining", connections=len(connections))
    server.stop()
    # A proxy that keeps connections goes to another server with its next request, or the one after it.
    server.conn_params.no_keep_alive = True
    connections.refuse_new()
    await services.drain(settings.server.drain_timeout)
    connections.disconnect_all(RESTARTING)
    await connections.wait_closed(_CLOSE_TIMEOUT)
    await close_http_connections(server, _CLOSE_TIMEOUT)
    await services.close()


def allow_many_sockets() -> None:
    """A socket is a descriptor, and Debian's soft limit is 1,024 of them."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def listen(settings: Settings) -> list[socket.socket]:
    """Raises OSError when the port cannot be had."""
    address, port = settings.server.address, settings.server.port
    try:
        return bind_sockets(port, address)
    except OSError as error:
        raise OSError(f"cannot listen on {address} port {port}: {error.strerror}") from None


async def open_services(settings: Settings) -> Services:
    """Every service, opened and ready. Raises ValueError for a URL of an unknown kind, OSError for a place that cannot
    be used."""
    load(settings.jobs.job_modules)
    metrics = Metrics()
    results_options = store_options(settings, settings.results.media)
    results = open_results(settings.results.media, results_options)
    background = BackgroundTasks()
    events = open_events(settings.events, background)
    metrics.watch(metrics.event_syncs, lambda: events.syncs)
    child = ChildConfig.of(settings.decoders, settings.images, results.url, results_options)
    queue = await open_queue(settings.cluster, settings.decoders, settings.queue, child, results, metrics, background)
    video = VideoService(settings.video, queue, metrics)
    uploads_url = settings.uploads.url(settings.results)
    uploads_options = store_options(settings, uploads_url)
    uploads_store = open_upload_store(uploads_url, uploads_options, settings.uploads.spool_path)
    uploads = Uploads(uploads_store, queue, settings.uploads, settings.images, StoreThreads(_STORE_THREADS))
    bans = Bans(events.broker)
    await bans.load()
    await queue.start()
    threads = StoreThreads(_STORE_THREADS)
    resources = JobResources(
        settings=settings.jobs.within(settings.events.session_events),
        rollout=settings.rollout,
        batch=settings.batch,
        film=settings.film,
        helpers=settings.job_helpers,
        images=settings.images,
        results=results,
        uploads=uploads,
        threads=threads,
    )
    return Services(
        queue=queue,
        events=events,
        results=results,
        result_settings=settings.results,
        uploads=uploads,
        sessions=Sessions(events.broker, queue, settings.sessions),
        bans=bans,
        chat=Chat(events.broker, events.marks, events.presence, framing.frame),
        jobs=JobService(events.broker, events.marks, events.leases, queue, resources, framing.frame),
        video=video,
        snapshots=Snapshots(video),
        metrics=metrics,
        threads=threads,
        background=background,
    )


def store_options(settings: Settings, url: str) -> StoreOptions:
    """How the object store of this URL is reached, if it is one's."""
    return StoreOptions.gather(url, settings.store, config.store_variables())


def make_application(settings: Settings, services: Services, connections: Connections) -> Application:
    """Raises ValueError or OSError for a key that cannot be used."""
    return Application(
        routes(),
        default_handler_class=NotFound,
        log_function=log_request,
        websocket_ping_interval=settings.sockets.ping_interval,
        websocket_ping_timeout=settings.sockets.pong_timeout,
        # Base64 takes 4 bytes for 3; the rest is for the message around it.
        websocket_max_message_size=settings.images.max_slice_bytes * 4 // 3 + (64 << 10),
        context=HandlerContext(
            http=settings.http,
            sockets=settings.sockets,
            chat=settings.chat,
            images=settings.images,
            queue=settings.queue,
            video=settings.video,
            services=services,
            verifier=auth.Verifier.from_settings(settings.tokens),
            connections=connections,
        ),
    )


def make_server(settings: Settings, application: Application) -> HTTPServer:
    return HTTPServer(
        application,
        idle_connection_timeout=settings.http.header_timeout,
        body_timeout=settings.http.body_timeout,
        max_body_size=_MAX_BODY,
        max_header_size=32 << 10,
    )


def start_background(services: Services, connections: Connections) -> None:
    """What runs as long as the server does; services.background sees to it that none of it ends in silence."""
    kick = partial(connections.disconnect_user, disconnect=KICKED)
    services.start_sweeps()
    services.background.start("loop lag", partial(health.watch_loop, services.metrics))
    services.background.start("bans", partial(services.bans.follow, kick))
    services.background.start("jobs", services.jobs.runner.run)


def announce(settings: Settings, listening: socket.socket) -> None:
    """Prints the address and the way in: a link with a token where only this machine can use it, or how to get one."""
    host, port = listening.getsockname()[:2]
    url = f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"
    if not settings.tokens.are_issued_here:
        way_in = "\nOpen it with ?token=TOKEN; tokens are issued where the private key is."
    elif settings.server.is_loopback:
        way_in = f"?token={auth.issue_by(settings.tokens, 'developer', ' '.join(auth.SCOPES), _DAY)}"
    else:
        way_in = (
            f"\nOpen it with ?token=TOKEN; this prints one: python server.py token --sub NAME --scope '{_scopes()}'"
        )
    print(f"Sluice is ready: {url}{way_in}", flush=True)


def _scopes() -> str:
    """Those of a user of the console."""
    return " ".join(scope for scope in auth.SCOPES if scope != "admin")


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
    """The server itself."""
    flags = vars(parse(arguments))
    settings = config.load(flags)
    configure_logging(settings.server.log_level, settings.server.log_format)
    for flag in {"jwt_secret", "store_secret"} & flags.keys():
        shown = flag.replace("_", "-"), flag.upper()
        print("warning: --{} is seen by everybody on this machine; set SLUICE_{}".format(*shown), file=sys.stderr)
    if "://" in flags.get("sources", "") and "@" in flags["sources"]:
        print("warning: a password in --sources is seen by everybody here; set SLUICE_SOURCES", file=sys.stderr)
    asyncio.run(serve(settings))
    return 0


COMMANDS: dict[str, Callable[[Sequence[str]], int]] = {
    "token": cli.token.main,
    "job": cli.job.main,
    "worker": cli.worker.main,
    "scheduler": cli.scheduler.main,
}


def main(arguments: Sequence[str]) -> int:
    """The exit status: 2 for settings that make no sense and for what cannot be had."""
    command, rest = (
        (COMMANDS[arguments[0]], arguments[1:]) if arguments[:1] and arguments[0] in COMMANDS else (run, arguments)
    )
    try:
        return command(rest)
    except (ValueError, OSError) as error:
        print(f"sluice: {error}", file=sys.stderr)
        return 2


def leave(status: int) -> NoReturn:
    """Ends the process, also while a daemon thread is in a call to OpenCV.

    The usual end runs the destructors of C++, which abort a process with such a thread (SIGABRT instead of ``status``).
    """
    if any(thread.daemon for thread in threading.enumerate()):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


if __name__ == "__main__":
    leave(main(sys.argv[1:]))
