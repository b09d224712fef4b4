"""Chat. `places.py` names rooms and conversations, `messages.py` stores and reads their messages, and `unread.py`
counts what the user of a connection has not read.
"""
