"""auth: keys from a JWKS document, served here by a real HTTP server that can be told to rotate, stumble and lie."""

import asyncio
import json
import os
import socket
import struct
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import jwt
import pytest
import websockets
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, HMACAlgorithm, OKPAlgorithm, RSAAlgorithm

from handlers.core.auth import Jwks, TokenError, Verifier
from tests.support.client import Client, upgrade
from tests.support.running import GUARD, Server, Start, until

PRIVATE: dict[str, tuple[Any, Any]] = {
    "RS256": (rsa.generate_private_key(65537, 2048), RSAAlgorithm),
    "ES256": (ec.generate_private_key(ec.SECP256R1()), ECAlgorithm),
    "EdDSA": (ed25519.Ed25519PrivateKey.generate(), OKPAlgorithm),
}


class Publisher(ThreadingHTTPServer):
    """Publishes ``body`` with ``status``; counts how often it was asked. ``fault``: breaks off, resets or waits."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.status, self.body, self.asked, self.fault = 200, b"", 0, ""
        self.go_on = threading.Event()
        self.url = f"http://127.0.0.1:{self.server_address[1]}/keys"

    def publish(self, **algorithms: str) -> None:
        """The public keys of these kids."""
        keys = []
        for kid, name in algorithms.items():
            private, algorithm = PRIVATE[name]
            keys.append({**algorithm.to_jwk(private.public_key(), as_dict=True), "kid": kid, "use": "sig"})
        self.body = json.dumps({"keys": keys}).encode()


class Answer(BaseHTTPRequestHandler):
    server: Publisher

    def do_GET(self) -> None:
        self.server.asked += 1
        if self.server.fault == "breaks off":
            self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{")
            return
        if self.server.fault == "resets":
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            os.close(self.connection.detach())
            return
        if self.server.fault == "waits":
            assert self.server.go_on.wait(60)
        self.send_response(self.server.status)
        self.end_headers()
        self.wfile.write(self.server.body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def publisher() -> Iterator[Publisher]:
    with Publisher() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def keys(publisher: Publisher, **options: float) -> Jwks:
    """With a timeout for a machine that may stand still for longer than a server waits for keys."""
    return Jwks(publisher.url, timeout=GUARD, **options)


def token(algorithm: str, kid: str | None, **others: Any) -> str:
    claims = {"sub": "alice", "exp": int(time.time()) + 600, "scope": "images"} | others
    return jwt.encode(claims, PRIVATE[algorithm][0], algorithm, headers={"kid": kid} if kid else None)


async def let_in(server: Server, given: str) -> Client:
    """By a server that asks the publisher, once it has had an answer in time."""
    for _ in range(20):
        try:
            return await Client.connect(server, token=given)
        except websockets.InvalidStatus as refused:
            if "the public keys cannot be fetched" not in str(refused.response.body):
                raise
        await asyncio.sleep(0.1)
    raise AssertionError("the publisher is never reached")


async def refusal(verifier: Verifier, given: str) -> str:
    with pytest.raises(TokenError) as caught:
        await verifier.verify(given, "192.0.2.1")
    assert caught.value.reason == "bad"
    return caught.value.message


@pytest.mark.parametrize("algorithm", PRIVATE)
async def test_a_key_is_found_by_its_kid_and_fetched_once(publisher: Publisher, algorithm: str) -> None:
    publisher.publish(first="RS256", second="ES256", third="EdDSA")
    verifier = Verifier(keys(publisher))
    kid = {"RS256": "first", "ES256": "second", "EdDSA": "third"}[algorithm]
    for _ in range(3):
        assert (await verifier.verify(token(algorithm, kid), "192.0.2.1")).name == "alice"
    assert publisher.asked == 1


async def test_a_token_that_names_another_key_or_none_is_refused(publisher: Publisher) -> None:
    publisher.publish(first="RS256", second="ES256")
    verifier = Verifier(keys(publisher))
    await refusal(verifier, token("RS256", "second"))
    await refusal(verifier, token("RS256", None))
    await refusal(verifier, jwt.encode({"sub": "alice"}, "s" * 32, "HS256", headers={"kid": "first"}))


async def test_keys_can_be_rotated(publisher: Publisher) -> None:
    publisher.publish(old="RS256")
    verifier = Verifier(keys(publisher, cooldown=0))
    assert await verifier.verify(token("RS256", "old"), "192.0.2.1")
    publisher.publish(new="ES256")
    assert await verifier.verify(token("ES256", "new"), "192.0.2.1")
    assert publisher.asked == 2
    await refusal(verifier, token("RS256", "old"))


async def test_made_up_kids_do_not_have_the_keys_fetched_again_and_again(publisher: Publisher) -> None:
    publisher.publish(known="RS256")
    verifier = Verifier(keys(publisher, cooldown=3600))
    for number in range(20):
        await refusal(verifier, token("RS256", f"made up {number}"))
    assert publisher.asked == 1


async def test_made_up_kids_do_not_beset_a_publisher_that_stumbles(publisher: Publisher) -> None:
    publisher.fault = "resets"
    verifier = Verifier(keys(publisher, pause=3600))
    for number in range(20):
        assert "the public keys cannot be fetched" in await refusal(verifier, token("RS256", f"made up {number}"))
    assert publisher.asked == 1


async def test_while_the_keys_are_fetched_for_made_up_kids_nobody_else_waits(publisher: Publisher) -> None:
    publisher.publish(known="RS256")
    verifier = Verifier(keys(publisher, cooldown=0))
    assert await verifier.verify(token("RS256", "known"), "192.0.2.1")
    publisher.fault = "waits"
    strangers = [asyncio.create_task(refusal(verifier, token("RS256", f"made up {n}"))) for n in range(20)]
    await until(lambda: publisher.asked == 2)
    assert (await verifier.verify(token("RS256", "known"), "192.0.2.1")).name == "alice"
    assert not any(stranger.done() for stranger in strangers)
    publisher.go_on.set()
    await asyncio.gather(*strangers)
    assert publisher.asked == 2, "once for all who asked meanwhile"


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (500, b""),
        (302, b""),
        (200, b"no JSON"),
        (200, b"\xff"),
        (200, b"[]"),
        (200, b'{"keys": []}'),
        (200, b'{"keys": [7]}'),
    ],
)
async def test_a_document_without_good_keys_lets_nobody_in_until_it_is_mended(
    publisher: Publisher, status: int, body: bytes
) -> None:
    publisher.status, publisher.body = status, body
    verifier = Verifier(keys(publisher, pause=0))
    await refusal(verifier, token("RS256", "k"))
    publisher.status = 200
    publisher.publish(k="RS256")
    assert await verifier.verify(token("RS256", "k"), "192.0.2.1")


async def test_a_symmetric_key_in_the_document_signs_for_nobody(publisher: Publisher) -> None:
    secret = "a secret of more than thirty-two bytes"
    publisher.body = json.dumps({"keys": [{**HMACAlgorithm.to_jwk(secret, as_dict=True), "kid": "k"}]}).encode()
    claims = {"sub": "alice", "exp": int(time.time()) + 600}
    given = jwt.encode(claims, secret, "HS256", headers={"kid": "k"})
    await refusal(Verifier(keys(publisher)), given)


@pytest.mark.parametrize("fault", ["breaks off", "resets"])
async def test_a_publisher_that_stumbles_is_no_fault_of_the_token(publisher: Publisher, fault: str) -> None:
    verifier = Verifier(keys(publisher, pause=0))
    publisher.publish(k="RS256")
    publisher.fault = fault
    assert "the public keys cannot be fetched" in await refusal(verifier, token("RS256", "k"))
    publisher.fault = ""
    assert await verifier.verify(token("RS256", "k"), "192.0.2.1")


async def test_a_publisher_that_is_gone_is_no_fault_of_the_token() -> None:
    verifier = Verifier(Jwks("http://127.0.0.1:1/keys"))
    assert "the public keys cannot be fetched" in await refusal(verifier, token("RS256", "k"))


async def test_a_server_takes_tokens_signed_with_a_published_key(publisher: Publisher, start_here: Start) -> None:
    publisher.publish(k="ES256")
    server = start_here(secret=None, jwks_url=publisher.url)
    async with await let_in(server, token("ES256", "k")) as client:
        assert client.hello["user"] == "alice"
    with pytest.raises(websockets.InvalidStatus):
        await Client.connect(server, token=token("RS256", "k"))


async def test_a_client_that_leaves_while_the_keys_are_fetched_gives_its_place_back(
    publisher: Publisher, start: Start
) -> None:
    server = start(secret=None, jwks_url=publisher.url, connections_per_user=1)
    publisher.publish(k="ES256")
    publisher.fault = "waits"
    knock = socket.create_connection(("127.0.0.1", server.port))
    knock.sendall(upgrade(token=token("ES256", "k")))
    await until(lambda: publisher.asked == 1)
    knock.close()
    await asyncio.to_thread(httpx.get, f"{server.url}/healthz")
    publisher.go_on.set()
    async with await let_in(server, token("ES256", "k")):
        assert server.metric("sluice_connections") == 1
    assert "Traceback" not in "".join(server.log)
