"""Starts and stops a Sluice server. This is the only file that connects its parts."""

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

# Seconds that clients have to answer the closing handshake at shutdown.
_CLOSE_TIMEOUT = 2.0
_DAY = 24 * 3600
# Largest request body in bytes, where an endpoint sets no limit of its own. /process and /upload set theirs after
# authorization.
_MAX_BODY = 64 << 10
# Threads that wait for the result store, and as many for the upload store. A store that hangs can block this many
# requests.
_STORE_THREADS = 16


async def serve(settings: Settings) -> None:
    """Runs a server until SIGTERM or SIGINT, then shuts it down gracefully.

    Raises OSError when the port or a store cannot be opened.
    """
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

    structlog.get_logger().info("server.draining", connections=len(connections))
    server.stop()
    # Ends keep-alive: a reverse proxy that reuses its connections then sends its next requests to another server.
    server.conn_params.no_keep_alive = True
    connections.refuse_new()
    await services.drain(settings.server.drain_timeout)
    connections.disconnect_all(RESTARTING)
    await connections.wait_closed(_CLOSE_TIMEOUT)
    await close_http_connections(server, _CLOSE_TIMEOUT)
    await services.close()


def allow_many_sockets() -> None:
    """Raises the limit of open files to the maximum. Each socket needs one, and Debian's soft limit is 1,024."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def listen(settings: Settings) -> list[socket.socket]:
    """Binds the listening sockets. Raises OSError when the port is in use or not permitted."""
    address, port = settings.server.address, settings.server.port
    try:
        return bind_sockets(port, address)
    except OSError as error:
        raise OSError(f"cannot listen on {address} port {port}: {error.strerror}") from None


async def open_services(settings: Settings) -> Services:
    """Opens every service.

    Raises:
        ValueError: a URL in the settings has an unknown scheme.
        OSError: a store or a folder cannot be opened.
    """
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
    """Returns how to connect to the object store at this URL. The options are empty for other URLs."""
    return StoreOptions.gather(url, settings.store, config.store_variables())


def make_application(settings: Settings, services: Services, connections: Connections) -> Application:
    """Creates the Tornado application. Raises ValueError or OSError when the key for tokens cannot be used."""
    return Application(
        routes(),
        default_handler_class=NotFound,
        log_function=log_request,
        websocket_ping_interval=settings.sockets.ping_interval,
        websocket_ping_timeout=settings.sockets.pong_timeout,
        # Base64 makes 4 bytes of 3. The 64 KiB are for the JSON around the picture.
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
    """Starts the tasks that run as long as the server. services.background logs and restarts a task that ends."""
    kick = partial(connections.disconnect_user, disconnect=KICKED)
    services.start_sweeps()
    services.background.start("loop lag", partial(health.watch_loop, services.metrics))
    services.background.start("bans", partial(services.bans.follow, kick))
    services.background.start("jobs", services.jobs.runner.run)


def announce(settings: Settings, listening: socket.socket) -> None:
    """Prints the URL of the console.

    On a loopback address the URL contains a token for one day. Elsewhere the text says how to get a token.
    """
    host, port = listening.getsockname()[:2]
    url = f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"
    if not settings.tokens.are_issued_here:
        way_in = "\nOpen it with ?token=TOKEN. Create the token where the private key is."
    elif settings.server.is_loopback:
        way_in = f"?token={auth.issue_by(settings.tokens, 'developer', ' '.join(auth.SCOPES), _DAY)}"
    else:
        way_in = f"\nOpen it with ?token=TOKEN. Print a token: python server.py token --sub NAME --scope '{_scopes()}'"
    print(f"Sluice is ready: {url}{way_in}", flush=True)


def _scopes() -> str:
    """Returns all scopes that a user of the console needs."""
    return " ".join(scope for scope in auth.SCOPES if scope != "admin")


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "server.py",
        usage="server.py [--SETTING VALUE ...] | server.py token --sub NAME [...] | server.py job COMMAND [...] | "
        "server.py worker --scheduler URL [...] | server.py scheduler --scheduler URL [...]",
        description="Sluice is a WebSocket server. It processes slices of tall pictures in reading order.",
        epilog="A setting can also be an environment variable or a line NAME=VALUE in the file .env. "
        "Commands: token prints a token, job starts and watches jobs, worker and scheduler form a cluster. "
        "Each has a --help of its own.",
    )
    config.add_flags(parser)
    return parser.parse_args(arguments)


def run(arguments: Sequence[str]) -> int:
    """Runs the server. Returns the exit status."""
    flags = vars(parse(arguments))
    settings = config.load(flags)
    configure_logging(settings.server.log_level, settings.server.log_format)
    for flag in {"jwt_secret", "store_secret"} & flags.keys():
        shown = flag.replace("_", "-"), flag.upper()
        print("warning: all users of this machine can read --{}; set SLUICE_{} instead".format(*shown), file=sys.stderr)
    if "://" in flags.get("sources", "") and "@" in flags["sources"]:
        print(
            "warning: all users of this machine can read the password in --sources; set SLUICE_SOURCES instead",
            file=sys.stderr,
        )
    asyncio.run(serve(settings))
    return 0


COMMANDS: dict[str, Callable[[Sequence[str]], int]] = {
    "token": cli.token.main,
    "job": cli.job.main,
    "worker": cli.worker.main,
    "scheduler": cli.scheduler.main,
}


def main(arguments: Sequence[str]) -> int:
    """Runs the server or a command. Returns the exit status, 2 for invalid settings or a resource that cannot be
    opened.
    """
    command, rest = (
        (COMMANDS[arguments[0]], arguments[1:]) if arguments[:1] and arguments[0] in COMMANDS else (run, arguments)
    )
    try:
        return command(rest)
    except (ValueError, OSError) as error:
        print(f"sluice: {error}", file=sys.stderr)
        return 2


def leave(status: int) -> NoReturn:
    """Ends the process, even while a daemon thread runs in OpenCV.

    The usual exit runs C++ destructors. They abort the process while such a thread runs, and the exit status would be
    that of SIGABRT.
    """
    if any(thread.daemon for thread in threading.enumerate()):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


if __name__ == "__main__":
    leave(main(sys.argv[1:]))
