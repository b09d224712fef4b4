"""Tokens: issued for the console and the command line, verified into a User. The algorithm follows from our key,
never from the token; ``sub`` and ``exp`` are required, ``aud`` and ``iss`` when they are configured."""

import asyncio
import re
import secrets
import time
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

import jwt
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from handlers.core.refusals import (
    TOKEN_BAD,
    TOKEN_EXPIRED,
    TOKEN_MISSING,
    TOKEN_OF_OTHER_ADDRESS,
    TOKEN_TOO_LONG,
    Refusal,
)
from handlers.core.settings import TokenSettings

Scope = Literal["images", "chat", "video", "jobs", "admin"]
SCOPES: tuple[Scope, ...] = get_args(Scope)
# Longer tokens are refused unread; a token of ours has about 200 characters.
MAX_LENGTH = 8192
# A token from its first bytes on; or what is longer than a UUID, as the claims and the signature of one are.
_TOKEN = re.compile(r"eyJ[\w.%-]*|[\w-]{37,}")
# Seconds that the clocks of two machines may differ.
_LEEWAY = 5
# Where the development secret is, which signs while no key is set.
DEVELOPMENT_FOLDER = Path("var")


@dataclass(frozen=True, slots=True)
class User:
    """The user that a token names, what they may do, and until when (seconds since 1970).

    ``rooms``: patterns of the rooms they may enter, as in file names.
    """

    name: str
    scopes: frozenset[str]
    expires_at: float
    ip: str | None = None
    rooms: tuple[str, ...] = ("*",)

    def may_enter(self, room: str) -> bool:
        return any(fnmatchcase(room, pattern) for pattern in self.rooms)


class TokenError(Exception):
    """A token that is not accepted: the refusal, and the values of the places in its message."""

    def __init__(self, refusal: Refusal, **values: Any) -> None:
        self.refusal, self.values = refusal, values
        self.message = refusal.message.format(**values)
        super().__init__(self.message)

    @property
    def reason(self) -> str:
        """One of missing, expired, bad, ip_mismatch."""
        return self.refusal.cause


class Keys(Protocol):
    """Where the key of a token comes from."""

    async def find(self, token: str) -> tuple[Any, str]:
        """The key and the one algorithm it is for. Raises jwt.PyJWTError when there is none."""


@dataclass(frozen=True, slots=True)
class OneKey:
    key: Any
    algorithm: str

    async def find(self, token: str) -> tuple[Any, str]:
        return self.key, self.algorithm

    @classmethod
    def public(cls, pem: str) -> "OneKey":
        """A public key in PEM, or the file that holds it. Raises ValueError for other kinds of key, OSError."""
        text = pem if pem.lstrip().startswith("-----BEGIN") else Path(pem).read_text()
        key = load_pem_public_key(text.encode())
        return cls(key, _algorithm_of(key))


class Jwks:
    """Keys by ``kid`` from a JWKS document, which is fetched again after ``lifetime`` seconds.

    An unknown kid has it fetched too, so that keys can be rotated, but not within ``cooldown`` seconds of the last
    fetch, or ``pause`` of one that failed, and never twice at once: made-up kids must not flood the server that
    publishes the keys, and tokens of known keys do not wait for that. ``timeout`` is that of one fetch.
    """

    def __init__(
        self, url: str, *, lifetime: float = 300, timeout: float = 5, cooldown: float = 30, pause: float = 1
    ) -> None:
        self._client = jwt.PyJWKClient(url, timeout=timeout)
        self._lifetime, self._cooldown, self._pause = lifetime, cooldown, pause
        self._keys: dict[str, Any] = {}
        self._until = self._not_before = 0.0  # monotonic: when the keys are out of date, when they may be fetched
        self._fault = ""
        self._fetching: asyncio.Task[None] | None = None

    async def find(self, token: str) -> tuple[Any, str]:
        kid = jwt.get_unverified_header(token).get("kid", "")
        if kid not in self._keys or time.monotonic() >= self._until:
            if self._fetching is None and time.monotonic() >= self._not_before:
                self._fetching = asyncio.create_task(self._fetch())
            if self._fetching:
                await asyncio.shield(self._fetching)
            if self._fault:
                raise jwt.PyJWKClientConnectionError(self._fault)
        try:
            return self._keys[kid], _algorithm_of(self._keys[kid])
        except KeyError:
            raise jwt.InvalidKeyError("no such kid") from None
        except ValueError as error:
            raise jwt.InvalidKeyError(str(error)) from None

    async def _fetch(self) -> None:
        rest, self._fault = self._pause, "not fetched"
        try:
            found = await asyncio.to_thread(self._client.get_signing_keys, refresh=True)
            self._keys = {str(key.key_id): key.key for key in reversed(found)}
            self._until = time.monotonic() + self._lifetime
            rest, self._fault = self._cooldown, ""
        except (jwt.PyJWTError, OSError, ValueError, TypeError, RecursionError) as error:
            self._fault = str(error)
        finally:
            self._not_before, self._fetching = time.monotonic() + rest, None


def _algorithm_of(key: Any) -> str:
    if isinstance(key, RSAPublicKey) and key.key_size >= 2048:
        return "RS256"
    if isinstance(key, EllipticCurvePublicKey) and key.curve.name == "secp256r1":
        return "ES256"
    if isinstance(key, Ed25519PublicKey):
        return "EdDSA"
    raise ValueError("the public key must be RSA of at least 2048 bits, EC P-256 or Ed25519")


class Verifier:
    def __init__(self, keys: Keys, audience: str | None = None, issuer: str | None = None) -> None:
        self._keys, self._audience, self._issuer = keys, audience, issuer
        self._required = ["sub", "exp", *(["aud"] if audience else []), *(["iss"] if issuer else [])]

    @classmethod
    def from_settings(cls, settings: TokenSettings) -> "Verifier":
        """Raises ValueError for a public key of an unknown kind, OSError for a file that cannot be read."""
        return cls(_load_keys(settings), settings.jwt_audience, settings.jwt_issuer)

    async def verify(self, token: str, address: str) -> User:
        """The User of a token sent from ``address``. Raises TokenError."""
        if not token:
            raise TokenError(TOKEN_MISSING)
        if len(token) > MAX_LENGTH:
            raise TokenError(TOKEN_TOO_LONG, most=MAX_LENGTH)
        try:
            key, algorithm = await self._keys.find(token)
            claims = jwt.decode(
                token,
                key,
                algorithms=[algorithm],
                audience=self._audience,
                issuer=self._issuer,
                leeway=_LEEWAY,
                options={
                    "require": self._required,
                    "verify_aud": self._audience is not None,
                    "enforce_minimum_key_length": True,
                },
            )
            user = _user(claims)
        except jwt.ExpiredSignatureError:
            raise TokenError(TOKEN_EXPIRED) from None
        except (jwt.PyJWTError, ValueError, TypeError, RecursionError, OverflowError) as error:
            raise TokenError(TOKEN_BAD, why=_describe(error)) from None
        if user.ip is not None and user.ip != address:
            raise TokenError(TOKEN_OF_OTHER_ADDRESS)
        return user


def _load_keys(settings: TokenSettings) -> Keys:
    if settings.jwks_url:
        return Jwks(settings.jwks_url)
    if settings.jwt_public_key:
        return OneKey.public(settings.jwt_public_key)
    return OneKey(signing_secret(settings), "HS256")


def _user(claims: dict[str, Any]) -> User:
    name, scope, ip = claims["sub"], claims.get("scope", ""), claims.get("ip")
    if not isinstance(name, str) or not 1 <= len(name) <= 200 or not name.isprintable():
        raise ValueError("sub must be a name of 1 to 200 printable characters")
    if not isinstance(scope, str) or not isinstance(ip, str | None):
        raise ValueError("scope and ip must be strings")
    rooms = claims.get("rooms", ["*"])
    if not isinstance(rooms, list) or not all(isinstance(pattern, str) for pattern in rooms):
        raise ValueError("rooms must be a list of strings")
    return User(name, frozenset(scope.split()), float(claims["exp"]), ip, tuple(rooms))


def _describe(error: Exception) -> str:
    """The cause in our own words: a library's message may quote the token."""
    match error:
        case jwt.MissingRequiredClaimError():
            return f"the claim {error.claim} is missing"
        case jwt.InvalidAudienceError():
            return "the claim aud names another audience"
        case jwt.InvalidIssuerError():
            return "the claim iss names another issuer"
        case jwt.InvalidSignatureError() | jwt.InvalidAlgorithmError() | jwt.InvalidKeyError():
            return "it is not signed with this server's key"
        case jwt.PyJWKClientConnectionError():
            return "the public keys cannot be fetched; try again later"
        case jwt.PyJWTError():
            return "it is not a valid JWT"
        case _:
            return str(error)[:100] if type(error) is ValueError else "it is not a valid JWT"


def redact_tokens(text: str) -> str:
    """The text with everything replaced that may be part of a token: for logs, and for messages that quote a client."""
    return _TOKEN.sub("...", text)


def issue(secret: str, name: str, scope: str, ttl: float, **claims: str | None) -> str:
    """A token signed with HS256; claims that are None are left out."""
    body: dict[str, Any] = {"sub": name, "scope": scope, "exp": int(time.time() + ttl)}
    body |= {claim: value for claim, value in claims.items() if value is not None}
    return jwt.encode(body, secret, algorithm="HS256")


def signing_secret(settings: TokenSettings) -> str:
    """The secret that tokens are issued with. Raises ValueError where tokens are issued elsewhere."""
    if not settings.are_issued_here:
        raise ValueError("this server has only a public key and cannot sign tokens; sign them where the private key is")
    return settings.jwt_secret.get_secret_value() if settings.jwt_secret else development_secret(DEVELOPMENT_FOLDER)


def issue_by(settings: TokenSettings, name: str, scope: str, ttl: float, ip: str | None = None) -> str:
    """A token for `ttl` seconds that a server with these settings accepts. Raises ValueError as `signing_secret`."""
    claims = {"ip": ip, "aud": settings.jwt_audience, "iss": settings.jwt_issuer}
    return issue(signing_secret(settings), name, scope, ttl, **claims)


def development_secret(folder: Path) -> str:
    """The secret in ``folder``/development.key (mode 0600), made when it is not there."""
    path = folder / "development.key"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        part.touch(mode=0o600)
        part.write_text(secrets.token_hex(32) + "\n")
        part.rename(path)
    secret = path.read_text().strip()
    if len(secret) < 32:
        raise ValueError(f"{path} does not contain a key of 32 bytes; delete the file and start again")
    return secret
