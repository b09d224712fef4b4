"""`server.py token`: prints a token that this server accepts, or would with the same settings."""

import argparse
from collections.abc import Sequence

import config
from handlers.core import auth

# Seconds; a token of a hundred years is a mistake.
_LONGEST = 100 * 365 * 24 * 3600


def main(arguments: Sequence[str]) -> int:
    """Prints the token. Raises ValueError where tokens are issued elsewhere."""
    parser = argparse.ArgumentParser("server.py token", description="Prints a token signed with jwt_secret.")
    parser.add_argument("--sub", required=True, help="the user's name")
    parser.add_argument("--scope", default="images", help=f"words of: {' '.join(auth.SCOPES)} (default: images)")
    parser.add_argument("--ip", help="the only address the token may be used from")
    parser.add_argument("--ttl", type=float, default=3600, help="seconds it is good for (default: 3600)")
    given = parser.parse_args(arguments)
    if not 0 < given.ttl < _LONGEST or not given.sub:
        parser.error("--ttl must be a number of seconds above 0, --sub a name")
    if unknown := set(given.scope.split()) - set(auth.SCOPES):
        parser.error(f"--scope: {' '.join(sorted(unknown))}: there are {' '.join(auth.SCOPES)}")
    print(auth.issue_by(config.load({}).tokens, given.sub, given.scope, given.ttl, ip=given.ip))
    return 0
