"""Streams of events, and what belongs to them. There are four interfaces: broker, marks, presence and leases.

``open.py`` opens a URL as an EventStore, with an implementation of each interface in SQLite or in Redis.
"""
