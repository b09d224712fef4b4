"""Tests of handlers.core.auth: which tokens are accepted or refused for each kind of key. No message may
quote a token.
"""

import base64
import hashlib
import hmac
import json
import stat
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from handlers.core.auth import MAX_LENGTH, OneKey, TokenError, Verifier, development_secret, issue

SECRET = "a secret of more than thirty-two bytes"
HERE = "192.0.2.1"
DEEP = base64.urlsafe_b64encode(b"[" * 4000).rstrip(b"=").decode()
RSA = rsa.generate_private_key(65537, 2048)
PRIVATE: dict[str, PrivateKeyTypes] = {
    "RS256": RSA,
    "ES256": ec.generate_private_key(ec.SECP256R1()),
    "EdDSA": ed25519.Ed25519PrivateKey.generate(),
}


def pem(private: PrivateKeyTypes) -> str:
    return private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def claims(**others: Any) -> dict[str, Any]:
    """Returns the claims of a valid token. Each keyword replaces a claim; the value None removes it."""
    body = {"sub": "alice", "exp": int(time.time()) + 600, "scope": "images chat", "aud": "sluice", "iss": "issuer"}
    return {name: value for name, value in {**body, **others}.items() if value is not None}


def signed(secret: str = SECRET, algorithm: str = "HS256", **others: Any) -> str:
    return jwt.encode(claims(**others), secret, algorithm)


def forged(header: dict[str, Any], body: Any, signature: bytes = b"") -> str:
    """Returns a token that is built by hand, with any header, body and signature."""
    parts = [json.dumps(header).encode(), body if isinstance(body, bytes) else json.dumps(body).encode(), signature]
    return ".".join(base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in parts)


def strict() -> Verifier:
    return Verifier(OneKey(SECRET, "HS256"), "sluice", "issuer")


async def refusal(verifier: Verifier, token: str, address: str = HERE) -> TokenError:
    with pytest.raises(TokenError) as caught:
        await verifier.verify(token, address)
    for part in token.split("."):
        assert len(part) < 8 or part not in caught.value.message, "a message must not quote the token"
    return caught.value


async def test_an_issued_token_is_verified_into_its_user() -> None:
    token = issue(SECRET, "alice", "images chat", 600, ip=HERE, aud="sluice", iss="issuer", nickname=None)
    user = await strict().verify(token, HERE)
    assert (user.name, user.scopes, user.ip) == ("alice", {"images", "chat"}, HERE)
    assert abs(user.expires_at - time.time() - 600) < 60
    assert "nickname" not in jwt.decode(token, options={"verify_signature": False})


@pytest.mark.parametrize("algorithm", PRIVATE)
async def test_a_public_key_determines_the_algorithm_of_its_tokens(algorithm: str, tmp_path: Path) -> None:
    file = tmp_path / "key.pem"
    file.write_text(pem(PRIVATE[algorithm]))
    token = jwt.encode(claims(), PRIVATE[algorithm], algorithm)
    for given in (pem(PRIVATE[algorithm]), str(file)):
        verifier = Verifier(OneKey.public(given))
        assert (await verifier.verify(token, HERE)).name == "alice"
        for other in PRIVATE.keys() - {algorithm}:
            assert (await refusal(verifier, jwt.encode(claims(), PRIVATE[other], other))).reason == "bad"


async def test_a_token_signed_with_the_public_key_as_secret_is_refused() -> None:
    unsigned = forged({"alg": "HS256", "typ": "JWT"}, claims()).rpartition(".")[0]
    signature = hmac.new(pem(RSA).encode(), unsigned.encode(), hashlib.sha256).digest()
    token = f"{unsigned}.{base64.urlsafe_b64encode(signature).rstrip(b'=').decode()}"
    error = await refusal(Verifier(OneKey.public(pem(RSA))), token)
    assert (error.reason, error.message) == ("bad", "token rejected: it is not signed with this server's key")


def test_a_public_key_of_another_kind_or_too_short_is_refused_when_loaded() -> None:
    for key in (ec.generate_private_key(ec.SECP384R1()), rsa.generate_private_key(65537, 1024)):
        with pytest.raises(ValueError, match="RSA of at least 2048 bits, EC P-256 or Ed25519"):
            OneKey.public(pem(key))


def with_other_claims() -> str:
    """Returns a token with the header and the signature of one token, and the claims of another."""
    head, _, signature = signed().split(".")
    return ".".join((head, signed(sub="eve").split(".")[1], signature))


BAD: dict[str, tuple[Callable[[], str], str, str]] = {
    # Each case: the token, the reason of the refusal, a word of the message.
    "none at all": (lambda: "", "missing", "Authorization: Bearer"),
    "no JWT": (lambda: "open sesame", "bad", "not a valid JWT"),
    "two parts": (lambda: "abcdefghijk.lmnopqrstuvw", "bad", "not a valid JWT"),
    "bytes that are no JSON": (lambda: "\u00ff\u00fe.\u00ff.\u00ff", "bad", "not a valid JWT"),
    "another secret": (lambda: signed("another secret of thirty-two bytes"), "bad", "with this server's key"),
    "algorithm none": (lambda: forged({"alg": "none"}, claims()), "bad", "with this server's key"),
    "algorithm nOnE": (lambda: forged({"alg": "nOnE"}, claims()), "bad", "with this server's key"),
    "no signature": (lambda: signed().rpartition(".")[0] + ".", "bad", "with this server's key"),
    "no algorithm": (lambda: forged({}, claims(), b"x" * 32), "bad", ""),
    "HS512": (lambda: signed(SECRET * 2, "HS512"), "bad", "with this server's key"),
    "a claim changed": (with_other_claims, "bad", "with this server's key"),
    "no exp": (lambda: signed(exp=None), "bad", "exp is missing"),
    "no sub": (lambda: signed(sub=None), "bad", "sub is missing"),
    "no aud": (lambda: signed(aud=None), "bad", "aud is missing"),
    "no iss": (lambda: signed(iss=None), "bad", "iss is missing"),
    "another aud": (lambda: signed(aud="other"), "bad", "another audience"),
    "another iss": (lambda: signed(iss="other"), "bad", "another issuer"),
    "run out": (lambda: signed(exp=int(time.time()) - 60), "expired", "token expired"),
    "an exp in words": (lambda: signed(exp="soon"), "bad", "not a valid JWT"),
    "an endless exp": (lambda: signed(exp=float("inf")), "bad", "not a valid JWT"),
    "an exp that is a list": (lambda: signed(exp=[1]), "bad", "not a valid JWT"),
    "not yet": (lambda: signed(nbf=int(time.time()) + 600), "bad", "not a valid JWT"),
    "a sub that is a number": (lambda: forged_with_secret({**claims(), "sub": 7}), "bad", ""),
    "an empty sub": (lambda: signed(sub=""), "bad", "1 to 200"),
    "a long sub": (lambda: signed(sub="x" * 201), "bad", "1 to 200"),
    "a scope that is a list": (lambda: signed(scope=["images"]), "bad", "scope and ip must be strings"),
    "a scope that is an object": (lambda: signed(scope={"images": True}), "bad", "scope and ip must be strings"),
    "an ip that is a number": (lambda: signed(ip=3221225985), "bad", "scope and ip must be strings"),
    "another ip": (lambda: signed(ip="192.0.2.2"), "ip_mismatch", "another IP address"),
    "an ip with a space": (lambda: signed(ip=HERE + " "), "ip_mismatch", "another IP address"),
    "claims that are a list": (lambda: forged_with_secret([1, 2]), "bad", "not a valid JWT"),
    "claims nested deep": (lambda: forged_with_secret(b"[" * 5000), "bad", "not a valid JWT"),
    "a header nested deep": (lambda: forged({}, {}).replace("e30", DEEP, 1), "bad", "not a valid JWT"),
    "one character too long": (lambda: "x" * (MAX_LENGTH + 1), "bad", "8,192"),
    "5 MB": (lambda: signed(padding="x" * 5_000_000), "bad", "8,192"),
}


def forged_with_secret(body: Any) -> str:
    """Returns a token with a valid signature around a body that PyJWT would refuse to sign."""
    text = body if isinstance(body, bytes) else json.dumps(body).encode()
    return jwt.PyJWS().encode(text, SECRET, "HS256")


@pytest.mark.parametrize("case", BAD)
async def test_a_bad_token_is_refused_with_its_reason_and_never_quoted(case: str) -> None:
    make, reason, word = BAD[case]
    error = await refusal(strict(), make())
    assert error.reason == reason
    assert word in error.message


async def test_clocks_may_differ_by_a_few_seconds() -> None:
    for _ in range(20):
        with suppress(TokenError):  # a busy machine may lose these few seconds once, but not in all 20 attempts
            assert await strict().verify(signed(exp=int(time.time()) - 2), HERE)
            return
    raise AssertionError("a token that expired two seconds ago was never accepted")


async def test_a_token_with_an_audience_is_accepted_when_none_is_required() -> None:
    assert await Verifier(OneKey(SECRET, "HS256")).verify(signed(), HERE)


async def test_tokens_of_a_short_secret_are_refused() -> None:
    with pytest.warns(jwt.InsecureKeyLengthWarning):
        token = issue("short", "alice", "images", 600)
    assert (await refusal(Verifier(OneKey("short", "HS256")), token)).reason == "bad"


def test_the_development_key_is_created_once_and_readable_by_its_owner_only(tmp_path: Path) -> None:
    folder = tmp_path / "var"
    secret = development_secret(folder)
    assert len(secret) >= 32
    assert development_secret(folder) == secret
    assert stat.S_IMODE((folder / "development.key").stat().st_mode) == 0o600
