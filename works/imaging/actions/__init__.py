"""The registry of actions: what may be done to a picture once it is decoded and resized.

An action is one pure function in one file of this folder, under ``@action``: an Image in, an Image (or Found) out.
Its name is the wire name, its keyword-only annotated parameters are the option schema, its docstring the help.
"""

import importlib
import importlib.util
import inspect
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from pydantic import ValidationError, create_model

from works.errors import WorkError
from works.imaging.pixels import Image
from works.validation import StrictModel, describe_faults


@dataclass(frozen=True, slots=True)
class Findings:
    """A picture, and what was found on it.

    Each item has what the action says of it and ``box``: x, y, width, height in pixels of ``image``.
    """

    image: Image
    name: str
    items: list[dict[str, Any]]


Function = Callable[..., Image | Findings]
F = TypeVar("F", bound=Function)


@dataclass(frozen=True, slots=True)
class Action:
    name: str
    function: Function
    options: type[StrictModel]
    help: str
    gives_data: bool
    missing: str = ""
    """What must be installed before this action can be used; empty when nothing is missing."""

    schema: dict[str, Any] = field(init=False, compare=False)
    """Of the options, by name. Made once: of all actions it takes 2 ms."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "schema", self.options.model_json_schema().get("properties", {}))

    def describe(self) -> dict[str, Any]:
        """Help and JSON Schema of the options, as ``hello`` carries them."""
        return {"help": self.help, "gives_data": self.gives_data, "options": self.schema}


@dataclass(slots=True)
class _Registry:
    actions: dict[str, Action] = field(default_factory=dict)
    aliases: dict[str, str] = field(default_factory=dict)


_registry = _Registry()


def action(*, alias: str = "", needs: str = "") -> Callable[[F], F]:
    """Registers a function. ``needs`` names a package of the extras without which the action is not offered."""

    def register(function: F) -> F:
        signature = inspect.signature(function, eval_str=True)
        name = function.__name__
        fields: dict[str, Any] = {
            option.name: (option.annotation, option.default)
            for option in signature.parameters.values()
            if option.kind is option.KEYWORD_ONLY
        }
        options = create_model(name, __base__=StrictModel, **fields)
        if name in _registry.actions:
            raise ValueError(f"two actions are called {name!r}")
        _registry.actions[name] = Action(
            name=name,
            function=function,
            options=options,
            help=inspect.cleandoc(function.__doc__ or "").replace("\n", " "),
            gives_data=signature.return_annotation is Findings,
            missing=needs if needs and importlib.util.find_spec(needs) is None else "",
        )
        if alias:
            _registry.aliases[alias] = name
        return function

    return register


def offered() -> dict[str, dict[str, Any]]:
    """Name -> description of every action that can be used here."""
    return {name: known.describe() for name, known in sorted(_registry.actions.items()) if not known.missing}


def find(name: str) -> Action:
    """The action of that wire name or alias. Raises WorkError unknown_action."""
    known = _registry.actions.get(_registry.aliases.get(name, name))
    if known is None:
        raise WorkError("unknown_action", f"no action {name[:40]!r}; there are {', '.join(offered())}")
    if known.missing:
        raise WorkError("unknown_action", f"{name} is not installed here: it needs {known.missing}")
    return known


def check(name: str, options: dict[str, Any]) -> dict[str, Any]:
    """The options complete and typed. Raises WorkError unknown_action or bad_options, which names each bad option."""
    known = find(name)
    try:
        return known.options.model_validate(options).model_dump()
    except ValidationError as error:
        raise WorkError("bad_options", f"{known.name}: {describe_faults(error, 'options')}") from None


def apply(name: str, image: Image, options: dict[str, Any]) -> Image | Findings:
    """Does the action with options that ``check`` gave back."""
    return find(name).function(image, **options)


for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
