"""``server.py job``: starts and watches jobs in a terminal, over the socket that pages use. It reconnects
when needed.
"""

import argparse
import asyncio
import json
import secrets
import shutil
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from typing import Any, TextIO
from urllib.parse import urlsplit

import tornado.httpclient
import tornado.websocket

import config
from handlers.core.disconnects import RECONNECT_CODES
from handlers.core.websocket import SUBPROTOCOL

# Seconds between attempts to connect, and seconds after which no more attempts are made.
_RETRY_INTERVAL, _RETRY_TIMEOUT = 1.0, 300.0
# Seconds between pings, and for a pong. A server without power never closes its connections.
_PING = 30.0
# Maximum number of bytes of a message. A snapshot of the largest job is smaller.
_MAX_MESSAGE = 32 << 20
_STATUS = {"succeeded": 0}


class ServerRefused(Exception):
    """The server refuses the request, or cannot be reached."""


class Screen:
    """Prints lines. On a terminal it keeps a progress bar below them."""

    def __init__(self, out: TextIO) -> None:
        self._out, self._has_bar = out, out.isatty()
        self._stage, self._bar = "", ""

    def show(self, line: str) -> None:
        wipe = "\r\x1b[K" if self._bar else ""
        self._out.write(f"{wipe}{line}\n{self._bar}")
        self._out.flush()

    def note(self, line: str) -> None:
        """Prints a line of this program, not of the job, to standard error."""
        if self._bar:
            self._out.write("\r\x1b[K")
            self._out.flush()
        print(f"sluice: {line}", file=sys.stderr, flush=True)
        self._out.write(self._bar)
        self._out.flush()

    def stage(self, name: str) -> None:
        self._stage = name
        self.show(f"== {name}")

    def progress(self, done: int, failed: int, total: int | None, eta_s: float | None) -> None:
        if not self._has_bar:
            return
        width = shutil.get_terminal_size().columns - 1
        text = f" {done}/{total or '?'}" + (f"  {failed} failed" if failed else "")
        if eta_s is not None:
            text += f"  {int(eta_s) // 60}:{int(eta_s) % 60:02} left"
        room = max(min(width - len(text) - 2, 40), 0)
        filled = round(room * min(done / total, 1)) if total else 0
        self._bar = f"[{'#' * filled}{'-' * (room - filled)}]{text}"[:width]
        self._out.write(f"\r\x1b[K{self._bar}")
        self._out.flush()

    def event(self, id: str, event: dict[str, Any]) -> None:
        kind = event["type"]
        if kind == "log":
            self.show(f"{event['target']}: {event['line']}" if event["target"] else event["line"])
        elif kind == "stage":
            self.stage(event["name"])
        elif kind == "progress":
            self.progress(event["done"], event["failed"], event["total"], event["eta_s"])
        elif kind == "approval":
            self.show(f"?? {event['question']}\n   answer with: job answer {id} {event['approval']} yes|no")
        elif kind == "answered":
            self.show(f"== {event['by']} answered {'yes' if event['ok'] else 'no'}")
        elif kind == "cancelling":
            self.show(f"== cancelling: {event['by'] or event['reason']}")

    def end(self, state: str, event: dict[str, Any]) -> None:
        if self._bar:
            self._out.write("\n")
            self._bar = ""
        targets = ", ".join(f"{count} {name}" for name, count in event["targets"].items())
        self.show(f"== {state}" + (f": {event['message']}" if event.get("message") else ""))
        if targets:
            self.show(f"   {targets}")
        if event["unknown_count"]:
            self.show(f"   unknown state: {', '.join(event['unknown'])}")
        if event["result"] is not None:
            self.show(json.dumps(event["result"], indent=2))


class JobClient:
    """A reconnecting connection to the server's socket for jobs. Raises ServerRefused for an invalid URL."""

    def __init__(self, url: str, token: str, screen: Screen) -> None:
        self._url, self._token, self._screen = _socket_of(url), token, screen
        self._socket: tornado.websocket.WebSocketClientConnection | None = None

    async def connect(self) -> None:
        """Connects. Raises ServerRefused when the server refuses, or when it cannot be reached for _RETRY_TIMEOUT
        seconds.
        """
        headers = {"Authorization": f"Bearer {self._token}"}
        request = tornado.httpclient.HTTPRequest(self._url, headers=headers, connect_timeout=10, request_timeout=20)
        end, noted = asyncio.get_running_loop().time() + _RETRY_TIMEOUT, False
        while True:
            try:
                self._socket = await tornado.websocket.websocket_connect(
                    request,
                    subprotocols=[SUBPROTOCOL],
                    max_message_size=_MAX_MESSAGE,
                    ping_interval=_PING,
                    ping_timeout=_PING,
                )
                return
            except tornado.httpclient.HTTPClientError as error:
                if error.code < 500 and error.code != 429:
                    hint = "the token (scope jobs)" if error.code in (401, 403) else "the address of the server"
                    raise ServerRefused(f"{self._url}: {error.code} {error.message}; check {hint}") from None
                fault = str(error)
            except (OSError, tornado.websocket.WebSocketError) as error:
                fault = str(error)
            if asyncio.get_running_loop().time() > end:
                raise ServerRefused(f"{self._url} cannot be reached: {fault}")
            if not noted:
                self._screen.note(f"{self._url} cannot be reached: {fault}; trying again for {_RETRY_TIMEOUT:g} s")
            noted = True
            await asyncio.sleep(_RETRY_INTERVAL)

    async def receive(self) -> dict[str, Any] | None:
        """Returns the next message, or None when the connection is lost and reconnecting may help. Raises
        ServerRefused.
        """
        assert self._socket
        text = await self._socket.read_message()
        if text is not None:
            message: dict[str, Any] = json.loads(text)
            if message["type"] == "error":
                lines = [f"  {each['field'] or 'params'}: {each['message']}" for each in message.get("errors", [])]
                raise ServerRefused(
                    "\n".join(["the parameters are invalid", *lines] if lines else [message["message"]])
                )
            return message
        code = self._socket.close_code
        if code in (None, 1006, *RECONNECT_CODES):
            return None
        raise ServerRefused(f"the server has closed the connection: {code} {self._socket.close_reason or ''}")

    async def request(self, type: str, answer: str, **members: Any) -> dict[str, Any]:
        """Sends a request and returns its answer. It is sent again when the connection is lost, so it must be
        idempotent.
        """
        while True:
            if self._socket is None:
                await self.connect()
            assert self._socket
            with suppress(tornado.websocket.WebSocketClosedError):
                await self._socket.write_message(json.dumps({"type": type, **members}))
            while message := await self.receive():
                if message["type"] == answer:
                    return message
            self._socket = None

    async def watch(self, id: str, after: int) -> AsyncIterator[dict[str, Any]]:
        """Yields the messages with all events after this offset, each once, up to the last. Raises ServerRefused."""
        epoch = None
        while True:
            watching = await self.request("watch", "watching", id=id, after=after, epoch=epoch)
            if not watching["recovered"]:
                raise ServerRefused(
                    "later events are no longer retained; watch the job from its start, without --after"
                )
            epoch = watching["epoch"]
            while message := await self.receive():
                if message["type"] == "events" and message["id"] == id:
                    after = message["offset"]
                    yield message
                    if "ended" in message:
                        return
            self._socket = None


def _socket_of(url: str) -> str:
    try:
        parts = urlsplit(url.rstrip("/"))
        scheme = {"http": "ws", "https": "wss", "ws": "ws", "wss": "wss"}[parts.scheme]
        if not parts.hostname or parts.port == 0:
            raise ValueError
    except (ValueError, KeyError):
        raise ServerRefused(f"--url {url!r}: must have the form http://HOST:PORT or https://HOST") from None
    return f"{scheme}://{parts.netloc}{parts.path}/ws/jobs"


async def watch(client: JobClient, id: str, after: int, screen: Screen) -> int:
    """Watches a job to its end. Returns the exit status: 0 for a job that has succeeded."""
    async for message in client.watch(id, after):
        for event in message["events"]:
            if "ended" in message:
                screen.end(message["ended"], event)
                return _STATUS.get(message["ended"], 1)
            screen.event(id, event)
    return 1


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser("server.py job", description="Starts, watches and cancels jobs on a running server.")
    top.add_argument("--url", default="http://127.0.0.1:8000", help="URL of the server. Default: %(default)s.")
    top.add_argument(
        "--token",
        help="Token with the scope jobs. Safer: set SLUICE_TOKEN, which other users of this machine cannot read.",
    )
    commands = top.add_subparsers(dest="command", required=True)
    start = commands.add_parser("start", help="Start a job and watch it.")
    start.add_argument("job", help="Kind of job, such as batch.")
    start.add_argument(
        "params", nargs="*", metavar="NAME=VALUE", help="Parameters. A value is JSON, or otherwise text."
    )
    start.add_argument("--detach", action="store_true", help="Print the id and exit, without watching.")
    start.add_argument(
        "--client-id", help="Name of this request. The same name again returns the same job. Default: a new one."
    )
    watching = commands.add_parser("watch", help="Watch a job from its start.")
    watching.add_argument("id")
    watching.add_argument(
        "--after", type=int, default=0, help="Offset of the last event that is already known. Default: 0."
    )
    commands.add_parser("cancel", help="Cancel a job.").add_argument("id")
    retry = commands.add_parser("retry", help="Start a job again for some of its targets, and watch it.")
    retry.add_argument("id")
    retry.add_argument(
        "--only",
        default="failed",
        help="State of these targets: failed, unreachable, not_started, cancelled or unfinished. Default: failed.",
    )
    answer = commands.add_parser("answer", help="Answer a question of a job with yes or no.")
    answer.add_argument("id")
    answer.add_argument("approval")
    answer.add_argument("ok", choices=("yes", "no"))
    listing = commands.add_parser("list", help="List the newest jobs.")
    listing.add_argument("--all", action="store_true", help="List the jobs of all users. Needs the scope admin.")
    return top


def value_of(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


async def run(given: argparse.Namespace, client: JobClient, screen: Screen) -> int:
    if given.command == "start":
        pairs = [pair.partition("=") for pair in given.params]
        members = {"job": given.job, "params": {name: value_of(value) for name, _, value in pairs}}
        client_id = given.client_id or secrets.token_hex(8)
        given.id = (await client.request("start", "accepted", client_id=client_id, **members))["id"]
        screen.show(given.id)
        return 0 if given.detach else await watch(client, given.id, 0, screen)
    if given.command == "retry":
        given.id = (
            await client.request("retry", "accepted", client_id=secrets.token_hex(8), id=given.id, only=given.only)
        )["id"]
        screen.show(given.id)
        return await watch(client, given.id, 0, screen)
    if given.command == "watch":
        return await watch(client, given.id, given.after, screen)
    if given.command == "cancel":
        screen.show((await client.request("cancel", "cancelling", id=given.id))["state"])
    elif given.command == "answer":
        await client.request("answer", "answered", id=given.id, approval=given.approval, ok=given.ok == "yes")
    else:
        for job in (await client.request("jobs", "jobs", filter="all" if given.all else "mine"))["jobs"]:
            done = job["progress"].get("done", 0)
            screen.show(f"{job['id']}  {job['state']:12} {job['job']:12} {job['user']}  {done} done  {job['stage']}")
    return 0


def main(arguments: Sequence[str]) -> int:
    """Runs the command. Returns the exit status: 0, 1 for a job that has not succeeded, 2 for a refusal, 130 for
    Ctrl-C.
    """
    given = parser().parse_args(arguments)
    screen = Screen(sys.stdout)
    try:
        return asyncio.run(run(given, JobClient(given.url, given.token or config.client_token(), screen), screen))
    except ServerRefused as error:
        print(f"sluice: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        if id := getattr(given, "id", None):
            print(f"\nthe job continues; watch it with: job watch {id}; stop it with: job cancel {id}", file=sys.stderr)
        return 130
