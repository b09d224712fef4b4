"""Imports all that servers and workers load: forking.py has it loaded once, before they are forked."""

import server
import works.queue.dask
from handlers import routes
from works.jobs import load

__all__ = ["server", "works"]

routes()
load()
