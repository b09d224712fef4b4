"""Imports everything that a server or a worker imports. forking.py imports this module once, before
it forks servers.
"""

import importlib

from handlers import routes
from works.jobs import load

for module in ("server", "works.queue.dask"):
    importlib.import_module(module)
routes()
load()
