"""Runs commands on hosts over SSH with asyncssh. Only hosts with a known key are used, and every wait has a limit.

A command runs under ``/bin/sh`` in a process group of its own. To stop it, a second channel ends that group, because
sshd does not pass signals on for root (OpenSSH, session.c).
"""

import asyncio
import os
import re
import secrets
import shlex
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncssh

from works.jobs.rollout.inventory import Target

# Maximum number of bytes of a command's output in flight. The loop takes them in one turn: 100 MB take a second.
_WINDOW = 64 << 10
# Maximum number of bytes before the line with the process id, from a login shell that prints a greeting.
_MAX_GREETING = 64 << 10
# Seconds without output after which a command that has exited counts as done. Its background processes may keep its
# output open forever.
_OUTPUT_TIMEOUT = 3.0
# Seconds to close a connection.
_CLOSE_TIMEOUT = 1.0
# Ends a process group: first TERM, then KILL after half of the time (in tenths of seconds). Status 0 when the group is
# gone.
_STOP = """send() { kill -s $1 -- -PID 2>/dev/null || kill -s $1 PID 2>/dev/null; }
send TERM; n=0
while send 0; do
  [ $n -lt TENTHS ] || exit 1
  [ $n -lt $((TENTHS / 2)) ] || send KILL
  sleep 0.1 2>/dev/null || sleep 1
  n=$((n + 1))
done"""

OnOutput = Callable[[bytes], Awaitable[None]]


class Unreachable(Exception):
    """Nothing was run on the host. ``code``: host_key, denied, refused, timeout or lost."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class ConnectionBroken(Exception):
    """The connection was lost or runs no more commands. ``begun``: a command may have been running."""

    def __init__(self, message: str, begun: bool) -> None:
        super().__init__(message)
        self.begun = begun


@dataclass(frozen=True, slots=True)
class Exit:
    """The end of a command. ``status`` is None when a signal ended it."""

    status: int | None
    signal: str = ""


class Command:
    """One command on its channel. asyncssh calls the methods that are not asynchronous."""

    def __init__(self) -> None:
        self.nonce = secrets.token_hex(8)
        self.pid: int | None = None
        self.exit: Exit | None = None
        self.channel: Any = None
        self._greeting: bytes | None = b""
        self._pending = bytearray()
        self._ended = self._closed = False
        self._wake = asyncio.Event()

    def wrap(self, script: str) -> str:
        """Returns the command line for the host's login shell."""
        inner = f"printf '%s %s\\n' {self.nonce} $$ >&2\nexec 2>&1 </dev/null\n{script}"
        return f"exec /bin/sh -c {shlex.quote(inner)}"

    def connection_made(self, channel: Any) -> None:
        self.channel = channel

    def session_started(self) -> None:
        pass

    def data_received(self, data: bytes, datatype: int | None) -> None:
        if datatype is not None and self._greeting is not None:
            data = self._find_pid(self._greeting + data)
        self._pending += data
        if len(self._pending) > 2 * _WINDOW:
            self.channel.pause_reading()
        self._wake.set()

    def _find_pid(self, data: bytes) -> bytes:
        """Returns the output without the line with the process id. Before that line has arrived, returns nothing."""
        found = re.search(rb"%b (\d{1,10})\n" % self.nonce.encode(), data)
        if found:
            self.pid = int(found[1])
        elif len(data) <= _MAX_GREETING:
            self._greeting = data
            return b""
        self._greeting = None
        return data[: found.start()] + data[found.end() :] if found else data

    def eof_received(self) -> bool:
        self._ended = True
        self._wake.set()
        return False

    def exit_status_received(self, status: int) -> None:
        self.exit = Exit(status)
        self._wake.set()

    def exit_signal_received(self, signal: str, core_dumped: bool, message: str, language: str) -> None:
        self.exit = Exit(None, signal[:20])
        self._wake.set()

    def connection_lost(self, error: Exception | None) -> None:
        self._closed = True
        self._wake.set()

    def pause_writing(self) -> None:
        pass

    def resume_writing(self) -> None:
        pass

    async def read(self) -> bytes:
        """Waits for output and returns it, or nothing at the end."""
        while not self._pending and not self._closed and not (self._ended and self.exit):
            self._wake.clear()
            try:
                async with asyncio.timeout(_OUTPUT_TIMEOUT if self.exit else None):
                    await self._wake.wait()
            except TimeoutError:
                break
        if not self._pending and self._greeting:
            self._pending += self._greeting
            self._greeting = None
        data = bytes(self._pending)
        self._pending.clear()
        if data and not self._closed:
            self.channel.resume_reading()
        return data


class SshConnection:
    """A host with an open SSH connection."""

    def __init__(self, connection: asyncssh.SSHClientConnection) -> None:
        self._connection = connection
        self._command: Command | None = None

    async def run(self, script: str, on_output: OnOutput) -> Exit:
        """Runs a command to its end. Raises ConnectionBroken.

        A caller that gives up before, by a timeout or a cancel, must call ``stop``.
        """
        self._command = command = Command()
        return await self._follow(command, script, on_output)

    async def _follow(self, command: Command, script: str, on_output: OnOutput) -> Exit:
        try:
            await self._connection.create_session(
                lambda: command,  # type: ignore[arg-type, return-value]
                command.wrap(script),
                encoding=None,
                window=_WINDOW,
            )
            while data := await command.read():
                await on_output(data)
        except (asyncssh.Error, OSError) as error:
            raise ConnectionBroken(_describe_error(error), begun=command.channel is not None) from None
        if command.exit is None:
            raise ConnectionBroken("connection lost", begun=True)
        command.channel.abort()
        return command.exit

    async def stop(self, timeout: float) -> bool:
        """Ends the running command within ``timeout`` seconds. Returns whether it is known to have ended."""
        command = self._command
        if command is None or command.channel is None:
            return True
        if command.exit is None:
            with suppress(TimeoutError, ConnectionBroken):
                async with asyncio.timeout(timeout):
                    return await self._end(command, timeout)
        return command.exit is not None

    async def _end(self, command: Command, timeout: float) -> bool:
        while command.pid is None and command.exit is None and await command.read():
            pass  # there may be much output before the process id
        if command.pid is not None:
            stop = _STOP.replace("PID", str(command.pid)).replace("TENTHS", str(max(int(timeout * 8), 2)))
            with suppress(ConnectionBroken):
                ended = await self._follow(Command(), stop, _discard)
                return ended.status == 0 or command.exit is not None
        with suppress(OSError):
            command.channel.send_signal("KILL")
        while command.exit is None and await command.read():
            pass
        return command.exit is not None

    async def close(self) -> None:
        self._connection.close()
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(_CLOSE_TIMEOUT):
                    await self._connection.wait_closed()
        finally:
            self._connection.abort()


class Ssh:
    """Connects to hosts with one key, if ``known_hosts`` has their keys."""

    def __init__(self, known_hosts: Path, key: Path, connect_timeout: float) -> None:
        """Reads both files. Raises ValueError with the name of the setting to change."""
        self._connect_timeout = connect_timeout
        try:
            self._known_hosts = asyncssh.read_known_hosts(str(known_hosts))
        except (OSError, ValueError) as error:
            raise ValueError(f"ssh_known_hosts: {_describe_error(error)}") from None
        try:
            certificate = key.with_name(f"{key.name}-cert.pub")
            private = asyncssh.read_private_key(key)
            self._key: Any = (private, asyncssh.read_certificate(certificate)) if certificate.exists() else private
        except asyncssh.KeyEncryptionError:
            raise ValueError("ssh_key: the key has a passphrase; create a key without one for the server") from None
        except (OSError, ValueError) as error:
            raise ValueError(f"ssh_key: {_describe_error(error)}") from None

    @asynccontextmanager
    async def login(self, target: Target) -> AsyncIterator[SshConnection]:
        """Connects to a host. Raises Unreachable."""
        connection = SshConnection(await self._connect(target))
        try:
            yield connection
        finally:
            await connection.close()

    async def _connect(self, target: Target) -> asyncssh.SSHClientConnection:
        try:
            async with asyncio.timeout(self._connect_timeout):
                return await asyncssh.connect(
                    target.address,
                    target.port,
                    username=target.user,
                    client_keys=[self._key],
                    # An object, even without entries: None would trust every host, and () would use the keys in ~/.ssh.
                    known_hosts=self._known_hosts,
                    # Algorithms of its known keys first. So a host with another key is reported as having a wrong one.
                    server_host_key_algs="+ssh-ed25519,ecdsa-sha2-*,rsa-sha2-*",
                    # Uses nothing of the user of this machine: no ~/.ssh/config, agent, certificates or Kerberos.
                    config=None,
                    agent_path=None,
                    x509_trusted_certs=None,
                    gss_host=None,
                    gss_kex=False,
                    gss_auth=False,
                    password_auth=False,
                    kbdint_auth=False,
                    host_based_auth=False,
                    preferred_auth=["publickey"],
                    compression_algs=None,
                    connect_timeout=None,
                    # Detects a host that has gone silently, also during a command.
                    keepalive_interval=self._connect_timeout,
                    keepalive_count_max=2,
                )
        except asyncssh.HostKeyNotVerifiable:
            raise Unreachable("host_key", self._host_key_fault(target)) from None
        except TimeoutError:
            raise Unreachable("timeout", f"the login did not finish within {self._connect_timeout:g} s") from None
        except asyncssh.PermissionDenied:
            raise Unreachable("denied", f"the login as {target.user} with the server's key was denied") from None
        except (asyncssh.Error, OSError, ValueError) as error:
            raise Unreachable("refused" if isinstance(error, OSError) else "lost", _describe_error(error)) from None

    def _host_key_fault(self, target: Target) -> str:
        named = f"[{target.address}]:{target.port}" if target.port != 22 else target.address
        keys, authorities = self._known_hosts.match(target.address, "", target.port if target.port != 22 else None)[:2]
        if keys or authorities:
            return f"the host's key differs from that in known_hosts for {named}; nothing was run"
        return f"known_hosts has no key for {named}; nothing was run"


async def _discard(data: bytes) -> None:
    """Discards the output of the command that stops another."""


def _describe_error(error: Exception) -> str:
    """Returns the error in one short line. Some of its text comes from the host."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    if isinstance(error, OSError) and (error.errno or 0) > 0:
        text = os.strerror(error.errno or 0)  # asyncio's own text has the address instead
    return text.replace("\n", " ")[:300] or type(error).__name__
