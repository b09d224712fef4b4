"""The parts that all endpoints share: the base classes of sockets (`websocket.py`, `receive.py`) and of HTTP handlers
(`http.py`), tokens, frames, and connections with their limits. Endpoints import from this package and never from each
other.
"""
