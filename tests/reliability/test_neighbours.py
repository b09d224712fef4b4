"""Two users: Alice knows all ids of Bob. These ids must not allow her to read, resume, cancel, move or delay anything
of Bob.

MESSAGES has a row for each message type and ENDPOINTS for each endpoint; a new type or endpoint without a row fails the
test. These tests fail when one of these defences is removed: the user in the name of a stream; the session in
PendingTasks.rerank, in PendingTasks.remove or in BaseQueue._running_of; the turns of sessions in PendingTasks.take; the
check of the user name when a token is renewed; or the scope of /admin/kick (opened to the scope images).
"""

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
import websockets

import handlers
from handlers.images import ImagesWebSocket
from tests.reliability.doors import ask, bearer, request
from tests.support.client import Client
from tests.support.pictures import encoded, photograph, small
from tests.support.running import GUARD, Server, until

TOPS = (0, 1000, 2000)
Hello = dict[str, Any]
Attempt = Callable[[Server, Client, Hello], Awaitable[str]]


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with one worker, so that the order of the results shows any slice that was processed in between."""
    running = Server(tmp_path_factory.mktemp("one"), workers=1, slice_timeout=2 * GUARD, connections_per_user=100)
    yield running
    assert running.process.poll() is None, "the server died:\n" + "".join(running.log)
    running.stop()


async def answers(client: Client) -> str:
    """Returns all messages that the server sends until it has handled everything that the client has sent."""
    await client.send("cancel", id="mark")
    received = []
    while (message := await client.receive()).get("id") != "mark":
        received.append(json.dumps(message))
    return "\n".join(received)


async def slices(server: Server, alice: Client, bob: Hello) -> str:
    for top in TOPS:
        await alice.slice(f"b{top}", small(), top, image="page")
    return await answers(alice)


async def viewport(server: Server, alice: Client, bob: Hello) -> str:
    await alice.send("viewport", top=2000, height=100, image="page")
    return await answers(alice)


async def cancel(server: Server, alice: Client, bob: Hello) -> str:
    for id in ("plug", "b0", "b1000", bob["session"], f"{bob['session']}/b0"):
        await alice.send("cancel", id=id)
        assert (await alice.wait_for("error", id=id))["code"] == "not_found"
    for image in ("page", ""):
        await alice.send("cancel", image=image)
    return await answers(alice)


async def resume(server: Server, alice: Client, bob: Hello) -> str:
    received = []
    for after in (0, 1, 10**9):
        for session in (bob["session"], f"../bob/{bob['session']}", f"bob/{bob['session']}"):
            async with await Client.connect(server, "alice") as other:
                await other.send("resume", session=session, epoch=bob["epoch"], after=after)
                resumed = await other.wait_for("resumed")
                assert (resumed["recovered"], resumed["replayed"], resumed["pending"]) == (False, 0, [])
                received.append(await answers(other))
    return "\n".join(received)


async def token(server: Server, alice: Client, bob: Hello) -> str:
    await alice.send("token", token=server.token("bob"))
    assert (await alice.wait_for("error"))["code"] == "forbidden"
    await alice.send("resume", session=bob["session"], epoch=bob["epoch"], after=0)
    assert (await alice.wait_for("resumed"))["recovered"] is False
    return await answers(alice)


async def leave_connections(server: Server, alice: Client, bob: Hello) -> str:
    """Closes connections in two ways. The end of a connection may only affect the slices of this connection, even when
    their ids are those of Bob.
    """
    for leave in (lambda other: other.socket.close(1000), lambda other: other.abort()):
        other = await Client.connect(server, "alice")
        received = await slices(server, other, bob)
        if (waiting := leave(other)) is not None:
            await waiting
    await until(lambda: server.metric("sluice_connections") == 2)
    return received


async def older_protocol(server: Server, alice: Client, bob: Hello) -> str:
    address = f"{server.ws}/ws?query_string={server.token('alice')}"
    async with websockets.connect(address, proxy=None) as socket:
        received = str(await socket.recv())
        for uuid in ("b0", "plug", bob["session"]):
            header = json.dumps({"uuid": uuid, "offset_top": 0, "zoom": 1, "image": "page", "cancel": uuid})
            await socket.send(header.ljust(150) + "no picture")
            received += str(await socket.recv())
    # The older protocol echoes the uuid of the request, so an echo of Bob's session does not prove a leak.
    return received.replace(bob["session"], "")


async def process(server: Server, alice: Client, bob: Hello) -> str:
    received = ""
    for name, value in (("session", bob["session"]), ("id", "b0"), ("image", "page"), ("user", "bob")):
        line = f"POST /process?{name}={value}"
        answer = await ask(server, request(line, *bearer(server.token("alice").encode()), body=small()))
        assert answer.status == 400
        received += answer.body.decode()
    # The worker is busy, so this slice waits. When Alice drops her connection, only her own slice is cancelled.
    depth = server.metric("sluice_queue_depth")
    _, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(request("POST /process", *bearer(server.token("alice").encode()), body=small()))
    await until(lambda: server.metric("sluice_queue_depth") == depth + 1)
    writer.transport.abort()
    await until(lambda: server.metric("sluice_queue_depth") == depth)
    return received


async def media(server: Server, alice: Client, bob: Hello) -> str:
    """Tests that a client who knows the name of a result may read it, and that no client may change it."""
    name = server.results()[0]
    before = (server.media / name).read_bytes()
    received = ""
    for method in ("POST", "PUT", "PATCH", "DELETE", "OPTIONS"):
        answer = await ask(server, request(f"{method} /media/{name}", *bearer(server.token().encode()), body=b"x"))
        assert answer.status == 405, method
        received += answer.body.decode()
    assert (server.media / name).read_bytes() == before
    return received


def refused(line: str, body: dict[str, object] | None = None) -> Attempt:
    """Returns an attempt to use an endpoint that a token with only the scope ``images`` must not use."""

    async def ask_for(server: Server, alice: Client, bob: Hello) -> str:
        data = b"" if body is None else json.dumps(body).encode()
        answer = await ask(server, request(line, *bearer(server.token("alice").encode()), body=data))
        assert answer.status == 403, line
        return answer.body.decode()

    return ask_for


async def upload(server: Server, alice: Client, bob: Hello) -> str:
    answer = await ask(server, request(f"GET /upload/{'0' * 32}.png", *bearer(server.token("alice").encode())))
    assert answer.status == 404
    return answer.body.decode()


def page(path: str) -> Attempt:
    async def read(server: Server, alice: Client, bob: Hello) -> str:
        answer = await ask(server, request(f"GET {path}?session={bob['session']}", *bearer(server.token().encode())))
        assert answer.status == 200, path
        return answer.raw.decode()

    return read


MESSAGES: dict[str, Attempt] = {
    "slice": slices,
    "viewport": viewport,
    "cancel": cancel,
    "resume": resume,
    "token": token,
    "(the end of a connection)": leave_connections,
}
# Each key is a URL path that the endpoint answers.
ENDPOINTS: dict[str, Attempt] = {
    **{
        path: page(path)
        for path in (
            "/",
            "/static/console/console.js",
            "/static/sluice.js",
            "/favicon.ico",
            "/healthz",
            "/readyz",
            "/metrics",
        )
    },
    "/ws/images": page("/ws/images"),
    "/ws": older_protocol,
    "/process": process,
    f"/media/{'0' * 32}.jpg": media,
    "/admin/kick": refused("POST /admin/kick", {"user": "bob", "deny_s": 60}),
    # test_chat_neighbours.py tests the messages of the chat.
    **{path: page(path) for path in ("/ws/chat", "/ws/echo", "/ws/broadcast", "/ws/countdown")},
    "/chat/publish": refused("POST /chat/publish", {"to": "bob", "text": "x"}),
    "/chat/broadcast": refused("POST /chat/broadcast", {"text": "x"}),
    "/chat/presence": refused("GET /chat/presence?room=x"),
    "/upload": refused("POST /upload", {"x": 1}),
    f"/upload/{'0' * 32}.png": upload,
    # test_jobs.py, test_jobs_http.py and test_video_rights.py test access to the jobs and watches of other users.
    **{path: page(path) for path in ("/ws/jobs", "/ws/video")},
    "/jobs": refused("GET /jobs"),
    "/jobs/0": refused("GET /jobs/0"),
    **{f"/jobs/0/{what}": refused(f"POST /jobs/0/{what}", {}) for what in ("cancel", "retry", "answer")},
    **{f"/video/yard/{what}": refused(f"GET /video/yard/{what}") for what in ("snapshot.jpg", "stream.mjpg")},
}


def test_every_message_type_and_every_endpoint_has_a_row() -> None:
    assert {"token", *ImagesWebSocket.accepts} == {name for name in MESSAGES if name[0] != "("}
    assert not [route for route in handlers.routes() if not any(map(route.regex.match, ENDPOINTS))]


@pytest.mark.parametrize("row", [*MESSAGES, *ENDPOINTS])
async def test_a_user_cannot_read_or_change_anything_of_another_user(single: Server, row: str) -> None:
    """Bob has one running slice and three waiting slices. No attempt of Alice may change his answers."""
    async with await Client.connect(single, "bob") as bob, await Client.connect(single, "alice") as alice:
        await bob.slice("first", small(), image="page")
        first = await bob.wait_for("result")
        await bob.plug()
        await until(lambda: single.metric("sluice_running") == 1)
        for top in TOPS:
            await bob.slice(f"b{top}", small(), top, image="page")
            await bob.wait_for("accepted", id=f"b{top}")
        received = await {**MESSAGES, **ENDPOINTS}[row](single, alice, bob.hello)
        await bob.send("cancel", id="plug")
        ends = [(end["type"], end["id"]) for end in await bob.ends(4)]
        assert ends == [("error", "plug"), *(("result", f"b{top}") for top in TOPS)]
        for secret in (bob.hello["session"], bob.hello["epoch"], first["url"].rpartition("/")[2], '"bob"'):
            assert secret not in received
        # After her attempt, Alice still gets correct results of her own.
        await alice.slice("after", small())
        assert (await alice.wait_for("result", id="after"))["url"] != first["url"]


NAMES = (
    "alice",
    "BOB",
    "bob ",
    " bob",
    "bob/",
    "bob/.",
    "/bob",
    "../session/bob",
    "bob'--",
    "bob%",
    "bo_",
    "bób",
    "session/bob",
)


@pytest.mark.parametrize("name", NAMES)
async def test_only_its_own_user_can_resume_a_session(single: Server, name: str) -> None:
    """Tests names that SQL, file paths or an imprecise comparison could confuse with Bob's name."""
    async with await Client.connect(single, "bob") as bob:
        await bob.slice("a", small())
        await bob.wait_for("result")
        bob.abort()
    position = {"session": bob.hello["session"], "epoch": bob.hello["epoch"], "after": 0}
    async with await Client.connect(single, name) as other:
        await other.send("resume", **position)
        assert (await other.wait_for("resumed"))["recovered"] is False
    async with await Client.connect(single, "bob") as reconnected:
        await reconnected.send("resume", **position)
        assert (await reconnected.wait_for("resumed"))["recovered"] is True
        assert (await reconnected.wait_for("result"))["id"] == "a"


def processed_at(server: Server, end: dict[str, Any]) -> int:
    """Returns when the worker wrote the result, in nanoseconds.

    These times do not depend on how long the test takes to cancel the remaining slices.
    """
    return (server.media / end["url"].rpartition("/")[2]).stat().st_mtime_ns


async def test_a_flood_of_another_user_with_the_same_ids_costs_only_one_turn(single: Server) -> None:
    """Alice has 200 waiting slices with the ids of Bob's slices, and nearer to the top of the picture.

    Bob's three slices must be done after only a few of hers.
    """
    payload = encoded(photograph()[:200, :200])
    async with await Client.connect(single, "alice") as alice, await Client.connect(single, "bob") as bob:
        await bob.plug()
        for number in range(200):
            await alice.slice(f"b{number}", payload, -1.0, image="page", action="denoise")
        await answers(alice)
        for number in range(3):
            await bob.slice(f"b{number}", small(), 1000.0 + number, image="page")
        await bob.send("cancel", id="plug")
        error, *results = await bob.ends(4)
        assert [end["type"] for end in (error, *results)] == ["error", "result", "result", "result"]
        await alice.send("cancel", image="page")
        hers = [end for end in await alice.ends(200) if end["type"] == "result"]
        last = max(processed_at(single, end) for end in results)
    assert sum(processed_at(single, end) < last for end in hers) <= 4
