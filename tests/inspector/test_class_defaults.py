"""Values that a configuration leaves out, compared with the libraries that define them."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from typing import Any

import diffusers
import pytest
from transformers import CONFIG_MAPPING

from harness.inspector.class_defaults import _table, defaults_of, unread_keys, with_defaults


def _of_library(name: str) -> Mapping[str, Any]:
    if name in CONFIG_MAPPING:
        made: Mapping[str, Any] = CONFIG_MAPPING[name]().to_dict()
        return made
    parameters = inspect.signature(getattr(diffusers, name).__init__).parameters.values()
    return {
        item.name: list(item.default) if isinstance(item.default, tuple) else item.default
        for item in parameters
        if item.default is not item.empty
    }


@pytest.mark.parametrize("name", sorted(_table()))
def test_the_table_holds_what_the_libraries_take(name: str) -> None:
    # JSON has no infinity
    theirs = {key: None if value == -math.inf else value for key, value in _of_library(name).items()}
    assert {key: theirs.get(key, "absent") for key in _table()[name]} == _table()[name]


def test_only_keys_that_others_state_are_filled_in() -> None:
    short, long = {"model_type": "umt5"}, {"model_type": "umt5", "initializer_factor": 1.0, "unheard_of": 3}
    assert with_defaults(short, long) == {"model_type": "umt5", "initializer_factor": 1.0}
    assert with_defaults(long, short) == long
    assert defaults_of({"_class_name": "SomethingElse"}) == {}


def test_a_key_that_the_class_has_not_is_unread() -> None:
    vae = {"_class_name": "AutoencoderKLWan", "z_dim": 16, "clip_output": False}
    assert unread_keys(vae) == {"clip_output"}
    assert unread_keys({"_class_name": "SomethingElse", "clip_output": False}) == set()
