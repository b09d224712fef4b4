"""Tests server.py as a process: its start, its errors at the start, its shutdown, and that no process of it remains."""

import asyncio
import os
import re
import signal
import stat
import subprocess
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import jwt
import psutil
import pytest
import websockets
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.support import forking
from tests.support.client import Client
from tests.support.pictures import small
from tests.support.running import SECRET, Server, Start, alive, until


@pytest.fixture
def start(start: Start) -> Start:
    """Starts each server with ``python server.py``, as a user does."""
    return partial(start, unforked=True)


def run(folder: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Runs server.py until it ends, in this folder and with these variables."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("SLUICE_")}
    return forking.run([*arguments], folder, clean | variables)


def family(server: Server) -> list[psutil.Process]:
    """Returns all processes that the server has started."""
    return psutil.Process(server.process.pid).children(recursive=True)


def gone(processes: list[psutil.Process]) -> bool:
    return not any(alive(one) for one in processes)


async def remaining_messages(client: Client) -> list[dict[str, Any]]:
    """Returns all messages that still arrive until the connection closes."""
    said = []
    try:
        while True:
            said.append(await client.receive())
    except websockets.ConnectionClosed:
        return said


async def test_a_printed_token_opens_a_socket(server: Server, tmp_path: Path) -> None:
    printed = run(
        tmp_path,
        "token",
        "--sub",
        "dora",
        "--scope",
        "images chat",
        "--ip",
        "127.0.0.1",
        "--ttl",
        "60",
        SLUICE_JWT_SECRET=SECRET,
    )
    assert (printed.returncode, printed.stderr) == (0, "")
    token = printed.stdout.strip()
    async with await Client.connect(server, token=token) as client:
        assert client.hello["user"] == "dora"
    claims = jwt.decode(token, options={"verify_signature": False})
    assert (claims["scope"], claims["ip"]) == ("images chat", "127.0.0.1")


def test_a_printed_token_has_the_audience_and_the_issuer_of_the_settings(tmp_path: Path) -> None:
    printed = run(
        tmp_path,
        "token",
        "--sub",
        "dora",
        SLUICE_JWT_SECRET=SECRET,
        SLUICE_JWT_AUDIENCE="sluice",
        SLUICE_JWT_ISSUER="company",
    )
    claims = jwt.decode(printed.stdout.strip(), SECRET, ["HS256"], audience="sluice", issuer="company")
    assert claims["scope"] == "images"


async def test_without_a_key_the_server_creates_one_and_prints_a_link(start: Start) -> None:
    server = start(secret=None)
    found = re.search(r"ready: (http://127\.0\.0\.1:\d+/\?token=\S+)", "".join(server.log))
    assert found
    answer = httpx.get(found[1])
    assert (answer.status_code, answer.headers["Location"]) == (302, "/")
    cookie = {"Cookie": f"sluice_token={answer.cookies['sluice_token']}", "Origin": server.url}
    async with await websockets.connect(f"{server.ws}/ws/images", additional_headers=cookie, proxy=None):
        pass
    key = server.folder / "var" / "development.key"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert "".join(server.log).count(key.read_text().strip()) == 0
    token = run(server.folder, "token", "--sub", "eve").stdout.strip()
    async with await Client.connect(server, token=token) as client:
        assert client.hello["user"] == "eve"
    listening = {one.laddr.ip for one in psutil.Process(server.process.pid).net_connections() if one.status == "LISTEN"}
    assert listening == {"127.0.0.1"}


async def printed_start(server: Server) -> str:
    """Returns the text that the server printed when it was ready: one or two lines that contain the word token."""
    await until(lambda: "token" in "".join(server.log))
    printed = "".join(server.log)
    return printed[printed.index("Sluice is ready: ") :]


@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "localhost"])
async def test_a_server_on_loopback_with_a_secret_prints_a_link(start: Start, address: str) -> None:
    server = start(address=address, jwt_audience="pictures", jwt_issuer="here")
    link = re.search(r"/\?token=(\S+)", await printed_start(server))
    assert link
    answer = httpx.get(f"{server.url}/?token={link[1]}")
    assert (answer.status_code, answer.headers["Location"]) == (302, "/")
    claims = jwt.decode(link[1], SECRET, ["HS256"], audience="pictures", issuer="here")
    assert set(claims["scope"].split()) == {"images", "chat", "video", "jobs", "admin"}


async def test_a_server_on_a_public_address_prints_the_token_command_and_no_token(start: Start) -> None:
    printed = await printed_start(start(address="0.0.0.0"))
    assert "eyJ" not in printed
    assert re.search(r"python server\.py token --sub NAME --scope '[a-z ]+'", printed)


async def test_a_server_that_cannot_issue_tokens_explains_where_to_get_them(start: Start, tmp_path: Path) -> None:
    key = ed25519.Ed25519PrivateKey.generate().public_key()
    pem = key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (tmp_path / "key.pem").write_bytes(pem)
    printed = await printed_start(start(secret=None, jwt_public_key=str(tmp_path / "key.pem")))
    assert "eyJ" not in printed
    assert "where the private key is" in printed


def test_each_start_on_port_0_takes_a_free_port(start: Start, server: Server) -> None:
    other = start(port=0)
    assert other.port != server.port
    assert httpx.get(f"{other.url}/healthz").status_code == 200


CANNOT: dict[str, tuple[list[str], dict[str, str], str]] = {
    # The arguments, the variables, and a text in the error.
    "unknown flag": (["--prot=1"], {}, "--prot"),
    "a short secret": ([], {"SLUICE_JWT_SECRET": "hunter2"}, "SLUICE_JWT_SECRET: must have at least 32 bytes"),
    "an address of another machine": (["--address=192.0.2.1"], {"SLUICE_JWT_SECRET": SECRET}, "192.0.2.1"),
    "a missing public key": (["--jwt-public-key=none.pem"], {}, "none.pem"),
    "an invalid public key": (["--jwt-public-key=-----BEGIN nothing"], {}, "sluice: "),
    "an unknown media store": (["--media=tape:1"], {}, "file:FOLDER"),
    "a media folder that cannot be created": (["--media=file:/proc/none"], {}, "/proc/none"),
    "an unknown event log": (["--events=diary:1"], {}, "sqlite:FILE"),
    "an event log that cannot be created": (["--events=sqlite:/proc/none/x.db"], {}, "/proc/none"),
    "an event log that is not a database": (["--events=sqlite:notes.txt"], {}, "notes.txt"),
    "token without a name": (["token"], {}, "--sub"),
    "token of an unknown scope": (["token", "--sub=a", "--scope=images pictures"], {}, "pictures"),
    "token without the private key": (["token", "--sub=a"], {"SLUICE_JWKS_URL": "https://a.example/k"}, "private key"),
}


@pytest.mark.parametrize("case", CANNOT)
def test_a_failed_start_prints_one_clear_line(tmp_path: Path, case: str) -> None:
    arguments, variables, word = CANNOT[case]
    (tmp_path / "notes.txt").write_text("not a database " * 1000)
    ended = run(tmp_path, *(["--port=0"] if "token" not in arguments else []), *arguments, **variables)
    assert ended.returncode == 2
    assert word in ended.stderr
    assert "Traceback" not in ended.stderr
    assert "hunter2" not in ended.stderr + ended.stdout
    assert "ready" not in ended.stdout


def test_the_error_names_a_port_in_use(server: Server, tmp_path: Path) -> None:
    ended = run(tmp_path, f"--port={server.port}")
    assert ended.returncode == 2
    assert str(server.port) in ended.stderr
    assert "in use" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_second_server_in_the_same_folder_is_refused(server: Server) -> None:
    ended = run(server.folder, "--port=0")
    assert ended.returncode == 2
    assert "sluice.db" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_the_server_warns_of_a_secret_on_the_command_line(start: Start) -> None:
    server = start(secret=None, jwt_secret=SECRET)
    assert "warning: all users of this machine can read --jwt-secret" in "".join(server.log)
    assert SECRET not in "".join(server.log)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_shutdown_finishes_running_slices_and_fails_waiting_slices_as_temporary(
    start: Start, number: int
) -> None:
    server = start(workers=1, drain_timeout=60)
    await until(server.children)
    processes = family(server)
    client, other = await Client.connect(server), await Client.connect(server, "bob")
    (decoder,) = server.children()
    decoder.suspend()  # the running slice must not end before the other slices have failed
    await client.slice("running", small())
    await client.wait_for("accepted")
    for name in "abc":
        await client.slice(name, small(), 100)
    await client.wait_for("accepted", id="c")
    await other.slice("theirs", small())
    await other.wait_for("accepted")
    await until(lambda: server.metric("sluice_running") == 1)
    stopping = asyncio.create_task(asyncio.to_thread(server.stop, number))
    failed = [*await client.ends(3), *await other.ends(1)]
    decoder.resume()
    status, said, theirs = await asyncio.gather(stopping, remaining_messages(client), remaining_messages(other))
    assert status == 0
    assert (client.socket.close_code, other.socket.close_code) == (1012, 1012)
    ends = {message["id"]: message for message in failed + said + theirs if message["type"] in ("result", "error")}
    assert ends.keys() == {"running", "a", "b", "c", "theirs"}
    assert ends.pop("running")["type"] == "result"
    assert {(end["code"], end["temporary"]) for end in ends.values()} == {("cancelled", True)}
    await until(lambda: gone(processes))
    assert not [line for line in server.log if "Traceback" in line or "error" in line]


async def test_a_server_accepts_nothing_new_during_a_shutdown(start: Start) -> None:
    server = start(workers=1, drain_timeout=60)
    await until(server.children)
    (decoder,) = server.children()
    client = await Client.connect(server)
    with ThreadPoolExecutor() as pool:
        decoder.suspend()  # the running slice must not end before the new requests were tried
        headers = {"Authorization": f"Bearer {server.token()}"}
        picture = pool.submit(httpx.post, f"{server.url}/process", content=small(), timeout=100, headers=headers)
        await until(lambda: server.metric("sluice_running") == 1)
        server.process.send_signal(signal.SIGTERM)
        await until(lambda: any("server.draining" in line for line in server.log))
        await client.slice("late", small())
        error = await client.wait_for("error")
        assert (error["id"], error["temporary"]) == ("late", True)
        assert error["code"] in ("busy", "cancelled"), "cancelled when it arrived just as the shutdown started"
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{server.url}/healthz")
        decoder.resume()
        status, code = await asyncio.gather(asyncio.to_thread(server.ended), client.closed())
        assert (status, code) == (0, 1012)
        assert picture.result().status_code == 200, "the running request must be completed"


async def test_a_long_slice_does_not_prevent_a_shutdown(start: Start) -> None:
    server = start(workers=1, slice_timeout=60, drain_timeout=0.2)
    processes = family(server)
    client = await Client.connect(server)
    await client.plug()
    status, said = await asyncio.gather(asyncio.to_thread(server.stop), remaining_messages(client))
    assert status == 0
    assert [(end["id"], end["code"], end["temporary"]) for end in said if end["type"] == "error"] == [
        ("plug", "cancelled", True)
    ]
    await until(lambda: gone(processes))


async def test_a_thread_in_opencv_does_not_prevent_a_shutdown(start: Start) -> None:
    """The thread still has half a minute of work, and nothing can interrupt it."""
    server = start(workers=1, isolation="thread", drain_timeout=0.2)
    client = await Client.connect(server)
    await client.plug()
    status, said = await asyncio.gather(asyncio.to_thread(server.stop), remaining_messages(client))
    assert status == 0
    assert [end["code"] for end in said if end["type"] == "error"] == ["cancelled"]


async def test_a_server_that_is_killed_leaves_no_process_behind(start: Start) -> None:
    server = start(workers=2)
    async with await Client.connect(server) as client:
        await client.plug()
        await client.slice("b", small(), 100)
        await client.wait_for("result")
        processes = family(server)
    assert len(processes) >= 3, "the server must have a forkserver and two decoder children"
    await asyncio.to_thread(server.stop, signal.SIGKILL)
    await until(lambda: gone(processes))
