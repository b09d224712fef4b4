"""Stored files: results (`results.py`) and uploads of users (`uploads_store.py`).

Each interface is in one file. Its implementations are next to it: one for a folder of this machine, one for a bucket.
"""
