"""Tests of handlers.core.auth with keys from a JWKS document. A real HTTP server publishes the document; it can rotate
the keys, fail, or send a wrong document.
"""

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
    """Publishes ``body`` with ``status``, and counts the requests.

    ``fault`` makes the server break off its response, reset the connection, or wait.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.status, self.body, self.requests, self.fault = 200, b"", 0, ""
        self.may_continue = threading.Event()
        self.url = f"http://127.0.0.1:{self.server_address[1]}/keys"

    def publish(self, **algorithms: str) -> None:
        """Publishes a public key for each of these kids (key IDs)."""
        keys = []
        for kid, name in algorithms.items():
            private, algorithm = PRIVATE[name]
            keys.append({**algorithm.to_jwk(private.public_key(), as_dict=True), "kid": kid, "use": "sig"})
        self.body = json.dumps({"keys": keys}).encode()


class Answer(BaseHTTPRequestHandler):
    server: Publisher

    def do_GET(self) -> None:
        self.server.requests += 1
        if self.server.fault == "breaks off":
            self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{")
            return
        if self.server.fault == "resets":
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            os.close(self.connection.detach())
            return
        if self.server.fault == "waits":
            assert self.server.may_continue.wait(60)
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
    """Returns keys with a long timeout, because a busy machine may pause for longer than a server waits for keys."""
    return Jwks(publisher.url, timeout=GUARD, **options)


def token(algorithm: str, kid: str | None, **others: Any) -> str:
    claims = {"sub": "alice", "exp": int(time.time()) + 600, "scope": "images"} | others
    return jwt.encode(claims, PRIVATE[algorithm][0], algorithm, headers={"kid": kid} if kid else None)


async def connect_by_token(server: Server, given: str) -> Client:
    """Connects to a server that fetches keys from the publisher. Retries while the server cannot fetch them in time."""
    for _ in range(20):
        try:
            return await Client.connect(server, token=given)
        except websockets.InvalidStatus as refused:
            if "the public keys cannot be fetched" not in str(refused.response.body):
                raise
        await asyncio.sleep(0.1)
    raise AssertionError("the server never reached the publisher")


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
    assert publisher.requests == 1


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
    assert publisher.requests == 2
    await refusal(verifier, token("RS256", "old"))


async def test_invented_kids_do_not_cause_repeated_fetches_of_the_keys(publisher: Publisher) -> None:
    publisher.publish(known="RS256")
    verifier = Verifier(keys(publisher, cooldown=3600))
    for number in range(20):
        await refusal(verifier, token("RS256", f"invented {number}"))
    assert publisher.requests == 1


async def test_invented_kids_do_not_flood_a_publisher_that_fails(publisher: Publisher) -> None:
    publisher.fault = "resets"
    verifier = Verifier(keys(publisher, pause=3600))
    for number in range(20):
        assert "the public keys cannot be fetched" in await refusal(verifier, token("RS256", f"invented {number}"))
    assert publisher.requests == 1


async def test_a_fetch_for_invented_kids_does_not_delay_known_keys(publisher: Publisher) -> None:
    publisher.publish(known="RS256")
    verifier = Verifier(keys(publisher, cooldown=0))
    assert await verifier.verify(token("RS256", "known"), "192.0.2.1")
    publisher.fault = "waits"
    refused = [asyncio.create_task(refusal(verifier, token("RS256", f"invented {n}"))) for n in range(20)]
    await until(lambda: publisher.requests == 2)
    assert (await verifier.verify(token("RS256", "known"), "192.0.2.1")).name == "alice"
    assert not any(task.done() for task in refused)
    publisher.may_continue.set()
    await asyncio.gather(*refused)
    assert publisher.requests == 2, "one fetch for all tokens that waited"


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
async def test_tokens_are_refused_until_the_document_has_valid_keys(
    publisher: Publisher, status: int, body: bytes
) -> None:
    publisher.status, publisher.body = status, body
    verifier = Verifier(keys(publisher, pause=0))
    await refusal(verifier, token("RS256", "k"))
    publisher.status = 200
    publisher.publish(k="RS256")
    assert await verifier.verify(token("RS256", "k"), "192.0.2.1")


async def test_a_symmetric_key_in_the_document_is_not_accepted(publisher: Publisher) -> None:
    secret = "a secret of more than thirty-two bytes"
    publisher.body = json.dumps({"keys": [{**HMACAlgorithm.to_jwk(secret, as_dict=True), "kid": "k"}]}).encode()
    claims = {"sub": "alice", "exp": int(time.time()) + 600}
    given = jwt.encode(claims, secret, "HS256", headers={"kid": "k"})
    await refusal(Verifier(keys(publisher)), given)


@pytest.mark.parametrize("fault", ["breaks off", "resets"])
async def test_a_failed_fetch_is_reported_as_such_and_retried(publisher: Publisher, fault: str) -> None:
    verifier = Verifier(keys(publisher, pause=0))
    publisher.publish(k="RS256")
    publisher.fault = fault
    assert "the public keys cannot be fetched" in await refusal(verifier, token("RS256", "k"))
    publisher.fault = ""
    assert await verifier.verify(token("RS256", "k"), "192.0.2.1")


async def test_an_unreachable_publisher_is_reported_as_such() -> None:
    verifier = Verifier(Jwks("http://127.0.0.1:1/keys"))
    assert "the public keys cannot be fetched" in await refusal(verifier, token("RS256", "k"))


async def test_a_server_accepts_tokens_signed_with_a_published_key(publisher: Publisher, start_here: Start) -> None:
    publisher.publish(k="ES256")
    server = start_here(secret=None, jwks_url=publisher.url)
    async with await connect_by_token(server, token("ES256", "k")) as client:
        assert client.hello["user"] == "alice"
    with pytest.raises(websockets.InvalidStatus):
        await Client.connect(server, token=token("RS256", "k"))


async def test_a_client_that_leaves_while_the_keys_are_fetched_is_not_counted(
    publisher: Publisher, start: Start
) -> None:
    server = start(secret=None, jwks_url=publisher.url, connections_per_user=1)
    publisher.publish(k="ES256")
    publisher.fault = "waits"
    connection = socket.create_connection(("127.0.0.1", server.port))
    connection.sendall(upgrade(token=token("ES256", "k")))
    await until(lambda: publisher.requests == 1)
    connection.close()
    await asyncio.to_thread(httpx.get, f"{server.url}/healthz")
    publisher.may_continue.set()
    async with await connect_by_token(server, token("ES256", "k")):
        assert server.metric("sluice_connections") == 1
    assert "Traceback" not in "".join(server.log)
