"""All code that uses Tornado. Each endpoint has one file, which ends with its list ``routes``; this package
joins them.
"""

import importlib
import pkgutil

from tornado.routing import URLSpec


def routes() -> list[URLSpec]:
    """Returns the routes of all modules. Raises ValueError when two modules use the same URL pattern."""
    joined: dict[str, URLSpec] = {}
    for module in pkgutil.iter_modules(__path__):
        for route in getattr(importlib.import_module(f"{__name__}.{module.name}"), "routes", []):
            spec = URLSpec(*route)
            known = joined.setdefault(spec.regex.pattern, spec)
            if known is not spec:
                raise ValueError(f"{route[0]} is claimed by {known.handler_class} and {spec.handler_class}")
    return list(joined.values())
