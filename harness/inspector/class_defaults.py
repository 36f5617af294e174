"""Values that a class takes for a key that its configuration leaves out.

``class_defaults.json`` holds them per class of a Wan pipeline, because the inspector imports neither Diffusers nor
Transformers. A test compares the file with both libraries.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import Any

from harness.reading import parse_object


@cache
def _table() -> dict[str, dict[str, Any]]:
    text = resources.files("harness.inspector").joinpath("class_defaults.json").read_text(encoding="utf-8")
    return parse_object(text, "class_defaults.json")


def defaults_of(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the defaults of the class that a configuration names (``_class_name`` or ``model_type``), or nothing."""
    names = (config.get("_class_name"), config.get("model_type"))
    return next((_table()[name] for name in names if isinstance(name, str) and name in _table()), {})


NAMES = frozenset({"_class_name", "_diffusers_version", "model_type", "quantization_config"})
"""Keys of a configuration that no constructor takes, and that are read all the same."""


def unread_keys(config: Mapping[str, Any]) -> frozenset[str]:
    """Return the keys that the class of a configuration takes no value from; nothing if the class is not in the table.

    Diffusers ignores a key that the class's constructor has not, such as one of an older version.
    """
    defaults = defaults_of(config)
    return frozenset(config.keys() - defaults.keys() - NAMES) if defaults else frozenset()


def with_defaults(config: Mapping[str, Any], *others: Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration with its class's default for each key that only ``others`` state.

    Example: ``{"model_type": "umt5"}`` beside ``{"model_type": "umt5", "initializer_factor": 1.0}`` gets the 1.0. A
    key that has no known default stays absent.
    """
    defaults = defaults_of(config)
    stated = {key for other in others for key in other}
    return {**{key: defaults[key] for key in stated & defaults.keys()}, **config}
