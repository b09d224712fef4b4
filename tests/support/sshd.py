"""Hosts for the tests: real OpenSSH servers on free loopback ports, and asyncssh servers for unusual behaviour.

All hosts accept the user who runs the tests, with one key. A command on a host runs on this machine.
"""

import asyncio
import os
import pwd
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path

import asyncssh
import psutil

from tests.support.ports import free_port

USER = pwd.getpwuid(os.geteuid()).pw_name
_CONFIG = """
AuthorizedKeysFile {folder}/key.pub
HostKey {folder}/{name}
PidFile none
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
MaxStartups 1000
UseDNS no
# With SHLVL above 1 bash does not read ~/.bashrc, which may take seconds for the user of this machine.
SetEnv SHLVL=3
"""
Process = Callable[["asyncssh.SSHServerProcess[bytes]"], Awaitable[None]]


def make_key(path: Path) -> str:
    """Writes a private key to ``path`` and returns the public key in the format of known_hosts."""
    key = asyncssh.generate_private_key("ssh-ed25519")
    key.write_private_key(path)
    path.chmod(0o600)
    key.write_public_key(path.with_suffix(".pub"))
    return key.export_public_key().decode().strip()


class Sshd:
    """An OpenSSH server that listens on up to 16 ports. A client sees each port as a separate host."""

    def __init__(self, folder: Path, ports: list[int], name: str = "host") -> None:
        self.ports = ports
        self.public = make_key(folder / name)
        config = folder / f"{name}.conf"
        lines = [f"ListenAddress 127.0.0.1:{port}" for port in ports]
        config.write_text("\n".join(lines) + _CONFIG.format(folder=folder, name=name))
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # sshd does not start as root without this folder
        program = shutil.which("sshd", path=os.environ.get("PATH", "") + ":/usr/sbin")
        assert program, "sshd is not installed: apt-get install openssh-server"
        self.log = folder / f"{name}.log"
        with self.log.open("w") as log:
            self.process = subprocess.Popen([program, "-D", "-e", "-f", str(config)], stdout=log, stderr=log)
        end = time.monotonic() + 60
        while not all(map(_answers, ports)):
            if self.process.poll() is not None or time.monotonic() > end:
                self.stop()
                raise AssertionError("sshd does not answer:\n" + self.log.read_text())
            time.sleep(0.01)

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)


def _answers(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
            return connection.recv(4) == b"SSH-"
    except OSError:
        return False


class Fleet:
    """A folder with the client key, ``known_hosts`` and the hosts by name. Plans and settings refer to these files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.key = folder / "key"
        self.known_hosts = folder / "known_hosts"
        self.hosts: dict[str, int] = {}
        self.client = make_key(self.key)
        self.known_hosts.touch()

    def add(self, name: str, port: int, public: str = "") -> None:
        """Adds a host. Without ``public``, the key of the host is not in ``known_hosts``."""
        self.hosts[name] = port
        if public:
            with self.known_hosts.open("a") as known:
                known.write(f"[127.0.0.1]:{port} {public}\n")

    def yaml(self) -> str:
        """Returns the hosts, and the group ``all`` of them, as the first part of a file of plans."""
        lines = [f"  {name}: {{address: 127.0.0.1, port: {port}}}" for name, port in self.hosts.items()]
        names = ", ".join(self.hosts)
        return "\n".join(
            [f"defaults: {{user: {USER}}}", "hosts:", *lines, f"groups: {{all: {{hosts: [{names}]}}}}", ""]
        )


def gone(group: int) -> bool:
    """Returns whether no process of this process group is left, except zombies."""
    for process in psutil.process_iter():
        with suppress(psutil.NoSuchProcess, ProcessLookupError):
            if os.getpgid(process.pid) == group and process.status() != psutil.STATUS_ZOMBIE:
                return False
    return True


@contextmanager
def sshd(fleet: Fleet, *names: str, known: bool = True) -> Iterator[Sshd]:
    """Runs a real sshd with one port for each of these hosts."""
    server = Sshd(fleet.folder, [free_port() for _ in names], f"sshd-{names[0]}")
    while "Address already in use" in server.log.read_text():  # another process took the port first
        server.stop()
        server = Sshd(fleet.folder, [free_port() for _ in names], f"sshd-{names[0]}")
    for name, port in zip(names, server.ports, strict=True):
        fleet.add(name, port, server.public if known else "")
    try:
        yield server
    finally:
        server.stop()


@asynccontextmanager
async def strange(fleet: Fleet, process: Process, *names: str, lie: bool = False) -> AsyncIterator[None]:
    """Runs hosts in this process that behave as ``process`` does.

    With ``lie``, their key differs from the known key.
    """
    key = asyncssh.generate_private_key("ssh-ed25519")
    ours = asyncssh.read_authorized_keys(str(fleet.key.with_suffix(".pub")))
    held: list[asyncssh.SSHServerConnection] = []

    class Server(asyncssh.SSHServer):
        def connection_made(self, connection: asyncssh.SSHServerConnection) -> None:
            held.append(connection)

    listeners = [
        await asyncssh.listen(
            "127.0.0.1",
            0,
            server_factory=Server,
            server_host_keys=[key],
            process_factory=process,
            authorized_client_keys=ours,
            encoding=None,
            login_timeout=300,
            config=None,
        )
        for _ in names
    ]
    shown = asyncssh.generate_private_key("ssh-ed25519") if lie else key
    for name, listener in zip(names, listeners, strict=True):
        fleet.add(name, listener.get_port(), shown.export_public_key().decode().strip())
    try:
        yield
    finally:
        for listener in listeners:
            listener.close()
        for connection in held:
            connection.abort()


@asynccontextmanager
async def silent(fleet: Fleet, *names: str) -> AsyncIterator[None]:
    """Runs hosts that accept connections but send nothing."""
    held: list[asyncio.StreamWriter] = []

    async def hold(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        held.append(writer)

    servers = [await asyncio.start_server(hold, "127.0.0.1", 0) for _ in names]
    for name, server in zip(names, servers, strict=True):
        fleet.add(name, server.sockets[0].getsockname()[1], fleet.client)
    try:
        yield
    finally:
        for server in servers:
            server.close()
        for writer in held:
            writer.transport.abort()


@contextmanager
def refusing(fleet: Fleet, *names: str) -> Iterator[None]:
    """Reserves ports for hosts on which no server listens."""
    held = [socket.socket() for _ in names]
    for name, each in zip(names, held, strict=True):
        each.bind(("127.0.0.1", 0))
        fleet.add(name, each.getsockname()[1], fleet.client)
    try:
        yield
    finally:
        for each in held:
            each.close()
