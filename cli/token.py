"""``server.py token``: prints a token that is signed with this server's secret."""

import argparse
from collections.abc import Sequence

import config
from handlers.core import auth
from handlers.core.settings import TokenSettings
from works.settings import pick

_DAY = 24 * 3600


def main(arguments: Sequence[str]) -> int:
    """The exit status. Raises ValueError where the settings have no secret to sign with, or are refused."""
    parser = argparse.ArgumentParser("server.py token", description="Prints a token signed with jwt_secret.")
    parser.add_argument("--sub", required=True, help="the user's name")
    parser.add_argument("--scope", default="images", help=f"words of: {' '.join(auth.SCOPES)} (default: images)")
    parser.add_argument("--ip", help="the only address the token may be used from")
    parser.add_argument("--ttl", type=float, default=3600, help="seconds it is good for (default: 3600)")
    given = parser.parse_args(arguments)
    if not 0 < given.ttl < 100 * 365 * _DAY or not given.sub:
        parser.error("--ttl must be a number of seconds above 0, --sub a name")
    if unknown := set(given.scope.split()) - set(auth.SCOPES):
        parser.error(f"--scope: {' '.join(sorted(unknown))}: there are {' '.join(auth.SCOPES)}")
    settings = pick(TokenSettings, config.load({}))
    claims = {"ip": given.ip, "aud": settings.jwt_audience, "iss": settings.jwt_issuer}
    print(auth.issue(auth.signing_secret(settings), given.sub, given.scope, given.ttl, **claims))
    return 0
