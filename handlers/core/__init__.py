"""What endpoints stand on: the base classes of sockets (`websocket.py`, `receive.py`) and of HTTP (`http.py`), tokens,
frames, connections and their bounds. Endpoints import from here and never from each other."""
