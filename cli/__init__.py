"""The commands of `server.py`: token, job, worker and scheduler."""
