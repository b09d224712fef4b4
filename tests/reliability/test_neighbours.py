"""Two users, one of whom knows every id of the other: with those nothing is read, resumed, cancelled, moved or slowed.

A row for each message type and each endpoint; a new one without a row fails. Seen to fail with the user left out of a
stream's name, the session out of PendingTasks.rerank, its remove or BaseQueue._running_of, the turns out of
PendingTasks.take, the name out of the renewal of a token, and with /admin/kick open to the scope images.
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
def one(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One worker, so that whatever came in between would be seen in the order of the results."""
    running = Server(tmp_path_factory.mktemp("one"), workers=1, slice_timeout=2 * GUARD, connections_per_user=100)
    yield running
    assert running.process.poll() is None, "the server died:\n" + "".join(running.log)
    running.stop()


async def answers(client: Client) -> str:
    """All that the client is sent until everything it has said is dealt with."""
    await client.send("cancel", id="mark")
    heard = []
    while (message := await client.receive()).get("id") != "mark":
        heard.append(json.dumps(message))
    return "\n".join(heard)


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
    heard = []
    for after in (0, 1, 10**9):
        for session in (bob["session"], f"../bob/{bob['session']}", f"bob/{bob['session']}"):
            async with await Client.connect(server, "alice") as other:
                await other.send("resume", session=session, epoch=bob["epoch"], after=after)
                told = await other.wait_for("resumed")
                assert (told["recovered"], told["replayed"], told["pending"]) == (False, 0, [])
                heard.append(await answers(other))
    return "\n".join(heard)


async def token(server: Server, alice: Client, bob: Hello) -> str:
    await alice.send("token", token=server.token("bob"))
    assert (await alice.wait_for("error"))["code"] == "forbidden"
    await alice.send("resume", session=bob["session"], epoch=bob["epoch"], after=0)
    assert (await alice.wait_for("resumed"))["recovered"] is False
    return await answers(alice)


async def goodbye(server: Server, alice: Client, bob: Hello) -> str:
    """What ends with a connection is that connection's, whatever its ids."""
    for leave in (lambda other: other.socket.close(1000), lambda other: other.abort()):
        other = await Client.connect(server, "alice")
        heard = await slices(server, other, bob)
        if (waiting := leave(other)) is not None:
            await waiting
    await until(lambda: server.metric("sluice_connections") == 2)
    return heard


async def older(server: Server, alice: Client, bob: Hello) -> str:
    address = f"{server.ws}/ws?query_string={server.token('alice')}"
    async with websockets.connect(address, proxy=None) as socket:
        heard = str(await socket.recv())
        for uuid in ("b0", "plug", bob["session"]):
            header = json.dumps({"uuid": uuid, "offset_top": 0, "zoom": 1, "image": "page", "cancel": uuid})
            await socket.send(header.ljust(150) + "no picture")
            heard += str(await socket.recv())
    return heard.replace(bob["session"], "")  # the uuid comes back as it went


async def process(server: Server, alice: Client, bob: Hello) -> str:
    heard = ""
    for name, value in (("session", bob["session"]), ("id", "b0"), ("image", "page"), ("user", "bob")):
        line = f"POST /process?{name}={value}"
        answer = await ask(server, request(line, *bearer(server.token("alice").encode()), body=small()))
        assert answer.status == 400
        heard += answer.body.decode()
    # The worker is busy; what she takes back is her own.
    depth = server.metric("sluice_queue_depth")
    _, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(request("POST /process", *bearer(server.token("alice").encode()), body=small()))
    await until(lambda: server.metric("sluice_queue_depth") == depth + 1)
    writer.transport.abort()
    await until(lambda: server.metric("sluice_queue_depth") == depth)
    return heard


async def media(server: Server, alice: Client, bob: Hello) -> str:
    """The name is the key: whoever has it may read. Nobody may write."""
    name = server.results()[0]
    before = (server.media / name).read_bytes()
    heard = ""
    for method in ("POST", "PUT", "PATCH", "DELETE", "OPTIONS"):
        answer = await ask(server, request(f"{method} /media/{name}", *bearer(server.token().encode()), body=b"x"))
        assert answer.status == 405, method
        heard += answer.body.decode()
    assert (server.media / name).read_bytes() == before
    return heard


def refused(line: str, body: dict[str, object] | None = None) -> Attempt:
    """What a token with the scope ``images`` alone may not ask for."""

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
    "(the end of a connection)": goodbye,
}
# By an address that each of them answers.
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
    "/ws": older,
    "/process": process,
    f"/media/{'0' * 32}.jpg": media,
    "/admin/kick": refused("POST /admin/kick", {"user": "bob", "deny_s": 60}),
    # What chat's own messages may do is in test_chat_neighbours.py.
    **{path: page(path) for path in ("/ws/chat", "/ws/echo", "/ws/broadcast", "/ws/countdown")},
    "/chat/publish": refused("POST /chat/publish", {"to": "bob", "text": "x"}),
    "/chat/broadcast": refused("POST /chat/broadcast", {"text": "x"}),
    "/chat/presence": refused("GET /chat/presence?room=x"),
    "/upload": refused("POST /upload", {"x": 1}),
    f"/upload/{'0' * 32}.png": upload,
    # What others' jobs and watches may do is in test_jobs.py, test_jobs_http.py and test_video_rights.py.
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
async def test_nothing_of_a_neighbour_is_read_or_moved(one: Server, row: str) -> None:
    """Bob has one slice at work and three waiting; whatever Alice tries, his answers are those he would have had."""
    async with await Client.connect(one, "bob") as bob, await Client.connect(one, "alice") as alice:
        await bob.slice("first", small(), image="page")
        first = await bob.wait_for("result")
        await bob.plug()
        await until(lambda: one.metric("sluice_running") == 1)
        for top in TOPS:
            await bob.slice(f"b{top}", small(), top, image="page")
            await bob.wait_for("accepted", id=f"b{top}")
        heard = await {**MESSAGES, **ENDPOINTS}[row](one, alice, bob.hello)
        await bob.send("cancel", id="plug")
        ends = [(end["type"], end["id"]) for end in await bob.ends(4)]
        assert ends == [("error", "plug"), *(("result", f"b{top}") for top in TOPS)]
        for secret in (bob.hello["session"], bob.hello["epoch"], first["url"].rpartition("/")[2], '"bob"'):
            assert secret not in heard
        # And so it is with hers.
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
async def test_a_session_that_waits_for_its_user_is_nobody_elses(one: Server, name: str) -> None:
    """Names that SQL, paths or sloppy comparison might take for Bob's."""
    async with await Client.connect(one, "bob") as bob:
        await bob.slice("a", small())
        await bob.wait_for("result")
        bob.abort()
    place = {"session": bob.hello["session"], "epoch": bob.hello["epoch"], "after": 0}
    async with await Client.connect(one, name) as other:
        await other.send("resume", **place)
        assert (await other.wait_for("resumed"))["recovered"] is False
    async with await Client.connect(one, "bob") as again:
        await again.send("resume", **place)
        assert (await again.wait_for("resumed"))["recovered"] is True
        assert (await again.wait_for("result"))["id"] == "a"


def written(server: Server, end: dict[str, Any]) -> int:
    """When the one worker was done with it, in nanoseconds; how long the test takes to cancel the rest is no matter."""
    return (server.media / end["url"].rpartition("/")[2]).stat().st_mtime_ns


async def test_a_neighbours_flood_under_the_same_ids_costs_a_turn_and_no_more(one: Server) -> None:
    """Alice has 200 slices waiting, under Bob's ids and nearer to the top: his three are done when few of hers are."""
    payload = encoded(photograph()[:200, :200])
    async with await Client.connect(one, "alice") as alice, await Client.connect(one, "bob") as bob:
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
        last = max(written(one, end) for end in results)
    assert sum(written(one, end) < last for end in hers) <= 4
