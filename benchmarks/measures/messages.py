"""Messages that are stored before they are acknowledged, from 100 senders in parallel.

It also delivers 10,000 stored messages to a user who was disconnected, and measures whether that delays the event loop.
"""

import re
import selectors
import time
import urllib.request

from benchmarks.client import Client, Rate, Wire
from benchmarks.figures import Figure, Measured
from benchmarks.frames import message
from benchmarks.measures import Plan
from benchmarks.processes import OPEN_LIMITS, Server, sluice, token

SENDERS = 100
MISSED = 10_000
_LATE = "0.05"
_ACK, _MESSAGE = b'"type":"ack"', b'"type":"message"'
_CHAT = Wire("/ws/chat", _ACK, b'"type":"error"')


def messages(plan: Plan) -> Measured:
    limits = {**OPEN_LIMITS, "chat_rate": 1_000_000, "ping_interval": 900}
    with sluice(plan.workers, **limits) as server:
        rates, syncs = zip(*(_stored(server, plan.seconds, number) for number in range(plan.rounds)), strict=True)
        delivered, late = zip(*(_missed(server, f"away{number}") for number in range(plan.rounds)), strict=True)
    return Measured(
        [
            Figure(f"{MISSED:,} missed messages: share of loop wake-ups over 50 ms late", late, 0.01, "least"),
            Figure(f"messages stored and acknowledged/s, {SENDERS} senders", [r.per_second for r in rates], unit="/s"),
            Figure("messages stored by one fsync", syncs),
            Figure("CPU a stored message", [rate.cpu_ms * 1000 for rate in rates], unit="us"),
            Figure(f"{MISSED:,} missed messages delivered", delivered, unit="/s"),
        ]
    )


def _stored(server: Server, seconds: float, number: int) -> tuple[Rate, float]:
    """Measures the rate of stored messages while each sender has one message in transit.

    Returns the rate, and the number of messages that one fsync makes durable.
    """
    senders = [Client(server.port, token(f"sender{index}"), _CHAT) for index in range(SENDERS)]
    selector = selectors.DefaultSelector()
    for sender in senders:
        selector.register(sender.fileno(), selectors.EVENT_READ, sender)
    synced = _syncs(server)
    before, started, done, sent = server.cpu_seconds(), time.perf_counter(), 0, 0
    for index, sender in enumerate(senders):
        sender.send(_said(f"peer{index}", f"{number}-{index}-first"))
        sent += 1
    while done < sent:
        for key, _ in selector.select(5):
            acknowledged = key.data.results(wait=False)
            done += acknowledged
            if acknowledged and time.perf_counter() - started < seconds:
                key.data.send(_said(f"peer{key.fd}", f"{number}-{sent}"))
                sent += 1
    rate = Rate(done, time.perf_counter() - started, server.cpu_seconds() - before)
    together = done / max(_syncs(server) - synced, 1)
    selector.close()
    for sender in senders:
        sender.close()
    return rate, together


def _said(to: str, id: str) -> tuple[bytes, bytes]:
    return message(type="send", to=to, client_id=id, text=f"This is what {id} says, and it is of the usual length.")


def _missed(server: Server, name: str) -> tuple[float, float]:
    """Returns the deliveries a second from the connect on, and the share of wake-ups of the loop that were over 50 ms
    late.
    """
    sender = Client(server.port, token("sender"), _CHAT)
    sender.pump((_said(name, f"{name}-{number}") for number in range(MISSED)), 600, 50)
    sender.close()
    late, all_ = _lag(server)
    started = time.perf_counter()
    reader = Client(server.port, token(name), Wire("/ws/chat", _MESSAGE, b'"type":"error"'))
    come = 0
    while come < MISSED:
        come += reader.results()
    seconds = time.perf_counter() - started
    reader.close()
    server.rest()
    later, more = _lag(server)
    return MISSED / seconds, (later - late) / max(more - all_, 1)


def _lag(server: Server) -> tuple[float, float]:
    """Returns how often the event loop woke up more than 50 ms late, and how often it woke up in total."""
    text = _metrics(server)
    count = {
        bound: float(re.search(rf'sluice_loop_lag_seconds_bucket{{le="{re.escape(bound)}"}} (\S+)', text)[1])
        for bound in (_LATE, "+Inf")
    }
    return count["+Inf"] - count[_LATE], count["+Inf"]


def _syncs(server: Server) -> float:
    return float(re.search(r"^sluice_event_syncs (\S+)", _metrics(server), re.MULTILINE)[1])


def _metrics(server: Server) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/metrics") as page:
        return page.read().decode()
