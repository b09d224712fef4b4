"""Issues tokens for the console and the command line, and verifies tokens.

The algorithm is determined by the server's key, never by the token. ``sub`` and ``exp`` are required, ``aud`` and
``iss`` when they are configured.
"""

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
# Longer tokens are refused without parsing. A typical token has about 200 characters.
MAX_LENGTH = 8192
# Matches a JWT from its first bytes, or any word longer than a UUID, such as the claims or the signature of a token.
_TOKEN = re.compile(r"eyJ[\w.%-]*|[\w-]{37,}")
# Seconds by which the clocks of two machines may differ.
_LEEWAY = 5
# Folder of the development secret, which signs tokens while no key is configured.
DEVELOPMENT_FOLDER = Path("var")


@dataclass(frozen=True, slots=True)
class User:
    """The user named by a token, the user's scopes, and the expiry of the token in seconds since 1970.

    ``rooms``: patterns of the rooms that the user may enter, with the wildcards of file names.
    """

    name: str
    scopes: frozenset[str]
    expires_at: float
    ip: str | None = None
    rooms: tuple[str, ...] = ("*",)

    def may_enter(self, room: str) -> bool:
        return any(fnmatchcase(room, pattern) for pattern in self.rooms)


class TokenError(Exception):
    """A token was rejected. Holds the refusal and the values of the placeholders in its message."""

    def __init__(self, refusal: Refusal, **values: Any) -> None:
        self.refusal, self.values = refusal, values
        self.message = refusal.message.format(**values)
        super().__init__(self.message)

    @property
    def reason(self) -> str:
        """One of missing, expired, bad, ip_mismatch."""
        return self.refusal.cause


class Keys(Protocol):
    """The source of the keys that verify tokens."""

    async def find(self, token: str) -> tuple[Any, str]:
        """Returns the key of a token and its only algorithm. Raises jwt.PyJWTError when there is no key for
        the token.
        """


@dataclass(frozen=True, slots=True)
class OneKey:
    key: Any
    algorithm: str

    async def find(self, token: str) -> tuple[Any, str]:
        return self.key, self.algorithm

    @classmethod
    def public(cls, pem: str) -> "OneKey":
        """Loads a public key from PEM text or from a PEM file.

        Raises:
            ValueError: the key has an unsupported type.
            OSError: the file cannot be read.
        """
        text = pem if pem.lstrip().startswith("-----BEGIN") else Path(pem).read_text()
        key = load_pem_public_key(text.encode())
        return cls(key, _algorithm_of(key))


class Jwks:
    """Keys by ``kid`` (key id) from a JWKS document (JSON Web Key Set), which is fetched again after ``lifetime``
    seconds.

    An unknown ``kid`` also triggers a fetch, so that keys can be rotated. But there is only one fetch at a time, and
    none within ``cooldown`` seconds of the last fetch or ``pause`` seconds of a failed one. So invented ids cannot
    flood the key server, and tokens with known keys do not wait. ``timeout``: seconds of one fetch.
    """

    def __init__(
        self, url: str, *, lifetime: float = 300, timeout: float = 5, cooldown: float = 30, pause: float = 1
    ) -> None:
        self._client = jwt.PyJWKClient(url, timeout=timeout)
        self._lifetime, self._cooldown, self._pause = lifetime, cooldown, pause
        self._keys: dict[str, Any] = {}
        self._until = self._not_before = 0.0  # monotonic times: end of the lifetime, earliest next fetch
        self._fault = ""
        self._fetching: asyncio.Task[None] | None = None

    async def find(self, token: str) -> tuple[Any, str]:
        """Returns the key of the token's ``kid`` and its algorithm. Raises jwt.PyJWTError when there is none."""
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
        """Creates the verifier of these settings.

        Raises:
            ValueError: the public key has an unsupported type.
            OSError: a key file cannot be read.
        """
        return cls(_load_keys(settings), settings.jwt_audience, settings.jwt_issuer)

    async def verify(self, token: str, address: str) -> User:
        """Returns the user of a token that was sent from ``address``. Raises TokenError."""
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
    """Describes the error without the library's message, which may quote the token."""
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
    """Replaces every part of the text that may belong to a token. For logs and for messages that quote a client."""
    return _TOKEN.sub("...", text)


def issue(secret: str, name: str, scope: str, ttl: float, **claims: str | None) -> str:
    """Returns a token signed with HS256, valid for ``ttl`` seconds. Claims that are None are left out."""
    body: dict[str, Any] = {"sub": name, "scope": scope, "exp": int(time.time() + ttl)}
    body |= {claim: value for claim, value in claims.items() if value is not None}
    return jwt.encode(body, secret, algorithm="HS256")


def signing_secret(settings: TokenSettings) -> str:
    """Returns the secret that signs tokens. Raises ValueError when the settings have only a public key."""
    if not settings.are_issued_here:
        raise ValueError("this server has only a public key and cannot sign tokens; sign them where the private key is")
    return settings.jwt_secret.get_secret_value() if settings.jwt_secret else development_secret(DEVELOPMENT_FOLDER)


def issue_by(settings: TokenSettings, name: str, scope: str, ttl: float, ip: str | None = None) -> str:
    """Returns a token that a server with these settings accepts for `ttl` seconds. Raises ValueError as
    `signing_secret`.
    """
    claims = {"ip": ip, "aud": settings.jwt_audience, "iss": settings.jwt_issuer}
    return issue(signing_secret(settings), name, scope, ttl, **claims)


def development_secret(folder: Path) -> str:
    """Returns the secret in ``folder``/development.key. Creates the file with mode 0600 when it is missing.

    Raises ValueError when the file has no valid secret.
    """
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
