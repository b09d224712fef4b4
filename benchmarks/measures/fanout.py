"""Sends messages to 2,000 members of a room in one process: deliveries a second, against python-socketio and Channels.

Sluice stores each message and syncs it to the disk before it delivers the message. The others do not store messages.
"""

import json
import selectors
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass

from benchmarks import peers
from benchmarks.alternating import alternate
from benchmarks.client import Client, Rate, Wire
from benchmarks.environments import Unavailable
from benchmarks.figures import Figure, Measured, ratios
from benchmarks.frames import TEXT, Frame, head, message
from benchmarks.measures import Plan
from benchmarks.processes import OPEN_LIMITS, Server, raise_file_limit, sluice, token

MEMBERS = 2000
# Messages in transit at the same time. The next message is sent when all members have received the message before the
# last.
_AHEAD = 2
_MARK = b'"text":"'


@dataclass(frozen=True, slots=True)
class Chat:
    """The protocol of a chat server: the message that enters the room, the marker of its answer, and a message to the
    room.
    """

    wire: Wire
    greeting: Frame
    entered: bytes
    say: Callable[[int], Frame]


def _text(text: str) -> Frame:
    return head(TEXT, text.encode()), b""


OURS = Chat(
    Wire("/ws/chat", _MARK, b'"type":"error"'),
    message(type="join", room="room"),
    b'"type":"joined"',
    lambda number: message(type="send", room="room", client_id=f"{time.monotonic_ns()}", text=f"message {number:06}"),
)
SOCKETIO = Chat(
    Wire("/socket.io/?EIO=4&transport=websocket", _MARK, b"44{"),
    _text("40"),
    b'40{"sid"',
    lambda number: _text("42" + json.dumps(["say", f"message {number:06}"])),
)
CHANNELS = Chat(
    Wire("/room", _MARK, b'"error"'), _text("join"), b'"joined"', lambda number: _text(f"message {number:06}")
)


class Room:
    """All members of one room. The first member sends the messages."""

    def __init__(self, server: Server, chat: Chat) -> None:
        self._server, self._chat = server, chat
        self._selector = selectors.DefaultSelector()
        self.members = [self._member(number) for number in range(MEMBERS)]
        self._read(0.5)

    def _member(self, number: int) -> Client:
        client = Client(self._server.port, token(), self._chat.wire)
        client.send(self._chat.greeting)
        client.read_until(self._chat.entered)
        self._selector.register(client.fileno(), selectors.EVENT_READ, client)
        if number % 100 == 0:
            self._read(0)
        return client

    def _read(self, seconds: float) -> int:
        """Returns the number of deliveries that arrive now. If there are none, waits for some, at most ``seconds``."""
        return sum(key.data.receive(wait=False).count(_MARK) for key, _ in self._selector.select(seconds))

    def run(self, seconds: float) -> Rate:
        before, started = self._server.cpu_seconds(), time.perf_counter()
        sent = received = 0
        while time.perf_counter() - started < seconds or received < sent * MEMBERS:
            if time.perf_counter() - started < seconds and sent * MEMBERS - received < _AHEAD * MEMBERS:
                self.members[0].send(self._chat.say(sent))
                sent += 1
            received += self._read(0.05)
            assert time.perf_counter() - started < seconds + 60, (
                f"only {received} of {sent * MEMBERS} deliveries arrived"
            )
        return Rate(received, time.perf_counter() - started, self._server.cpu_seconds() - before)

    def close(self) -> None:
        for member in self.members:
            member.close()


def fanout(plan: Plan) -> Measured:
    name = f"deliveries/s to {MEMBERS:,} members"
    if raise_file_limit() < MEMBERS + 200:
        return Measured([Figure(name, missing=f"ulimit -n must be above {MEMBERS + 200:,}")])
    missing: list[Figure] = []
    with ExitStack() as stack:
        # While one room is measured, the clients of the other rooms do not answer pings.
        open_limits = {**OPEN_LIMITS, "chat_rate": 1_000_000, "ping_interval": 900}
        server = stack.enter_context(sluice(plan.workers, **open_limits))
        rooms = {"Sluice": Room(server, OURS)}
        for peer, start, chat in (
            ("python-socketio", peers.socketio, SOCKETIO),
            ("Channels with Redis", peers.channels_room, CHANNELS),
        ):
            try:
                rooms[peer] = Room(stack.enter_context(start()), chat)
            except (Unavailable, RuntimeError, OSError) as error:
                missing.append(Figure(f"{name} against {peer}", target=2, missing=str(error)))
        rates = alternate({each: lambda room=room: room.run(plan.seconds) for each, room in rooms.items()}, plan.rounds)
        for room in rooms.values():
            room.close()
    figures = [
        Figure(f"{name} against {peer}", ratios(rates["Sluice"], rates[peer]), 2) for peer in rates if peer != "Sluice"
    ]
    for peer, found in rates.items():
        figures.append(Figure(f"{name}: {peer}", [rate.per_second for rate in found], unit="/s"))
        figures.append(Figure(f"CPU a delivery: {peer}", [rate.cpu_ms * 1000 for rate in found], unit="us"))
    return Measured(figures + missing)
