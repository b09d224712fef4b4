"""The common part of all endpoints.

Base classes of sockets (`websocket.py`, `receive.py`) and of HTTP handlers (`http.py`), tokens, frames, connections and
their limits. Endpoints import from this package and never from each other.
"""
