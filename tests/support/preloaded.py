"""Loads all that a server or a worker loads: forking.py imports it once, before they are forked."""

import importlib

from handlers import routes
from works.jobs import load

for module in ("server", "works.queue.dask"):
    importlib.import_module(module)
routes()
load()
