"""`server.py token`: prints a token that a server with the same settings accepts."""

import argparse
from collections.abc import Sequence

import config
from handlers.core import auth

# Longest lifetime of a token, in seconds. A token for more than a hundred years is a mistake.
_LONGEST = 100 * 365 * 24 * 3600


def main(arguments: Sequence[str]) -> int:
    """Prints a token. Returns the exit status. Raises ValueError when the settings have no secret to sign tokens."""
    parser = argparse.ArgumentParser(
        "server.py token", description="Prints a token (JWT) that is signed with jwt_secret."
    )
    parser.add_argument("--sub", required=True, help="Name of the user (claim sub).")
    parser.add_argument(
        "--scope",
        default="images",
        help=f"What the user may do, separated by spaces: {' '.join(auth.SCOPES)}. Default: images.",
    )
    parser.add_argument("--ip", help="Only IP address that may use the token. Default: any.")
    parser.add_argument("--ttl", type=float, default=3600, help="Seconds until the token expires. Default: 3600.")
    given = parser.parse_args(arguments)
    if not 0 < given.ttl < _LONGEST or not given.sub:
        parser.error("--ttl must be a number of seconds greater than 0, and --sub must not be empty")
    if unknown := set(given.scope.split()) - set(auth.SCOPES):
        parser.error(f"--scope: {' '.join(sorted(unknown))}: unknown; choose from {' '.join(auth.SCOPES)}")
    print(auth.issue_by(config.load({}).tokens, given.sub, given.scope, given.ttl, ip=given.ip))
    return 0
