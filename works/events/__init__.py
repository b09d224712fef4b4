"""Streams of events and what stands beside them: four interfaces (broker, marks, presence, leases) and what opens them.

``open.py`` opens a URL as an EventStore, which has one implementation of each: in SQLite or in Redis.
"""
