"""All that knows Tornado: one file per endpoint, each ending in its own ``routes`` list, joined here."""

import importlib
import pkgutil

from tornado.routing import URLSpec


def routes() -> list[URLSpec]:
    """Every module's routes. Raises ValueError when two claim the same pattern."""
    joined: dict[str, URLSpec] = {}
    for module in pkgutil.iter_modules(__path__):
        for route in getattr(importlib.import_module(f"{__name__}.{module.name}"), "routes", []):
            spec = URLSpec(*route)
            known = joined.setdefault(spec.regex.pattern, spec)
            if known is not spec:
                raise ValueError(f"{route[0]} has two handlers: {known.handler_class} and {spec.handler_class}")
    return list(joined.values())
