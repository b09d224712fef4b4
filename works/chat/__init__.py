"""Chat: `places.py` names rooms and conversations, `messages.py` stores and reads what is said in them, `unread.py` is
one connection's view of what its user has not read."""
