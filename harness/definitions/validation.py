"""Validate plain fields as a frozen model, and rewrite pydantic's errors as sentences."""

from __future__ import annotations

import difflib
import json
import types
import typing
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

# Advice for a misspelt word.


def did_you_mean(word: str, candidates: Iterable[str]) -> str:
    """Return ``did you mean X?`` if a known word is close, else the list of known words."""
    names = sorted(candidates)
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.6)
    if close:
        return f"did you mean {close[0]}?"
    return f"known: {', '.join(names)}" if names else "none is known"


def near_folder(path: Path) -> Path | None:
    """Return an existing folder with a name similar to an absent folder, or ``None``.

    Each absent part of the path is replaced by the most similar folder beside it.
    """
    parts = path.parts
    folder = Path(parts[0]) if parts else Path()
    for index, part in enumerate(parts):
        step = folder / part if index else folder
        if step.is_dir():
            folder = step
            continue
        beside = [entry.name for entry in folder.iterdir() if entry.is_dir()] if folder.is_dir() else []
        close = difflib.get_close_matches(part, beside, n=1, cutoff=0.6)
        if not close:
            return None
        folder = folder / close[0]
    return folder


M = TypeVar("M", bound=BaseModel)
Location = tuple[str | int, ...]


Written = Callable[[Location], str | None]
"""Function that returns the text of a field as a person wrote it: 1.10 and not 1.1. ``None`` if unknown."""


def validate(
    model: type[M], fields: Any, written: Written = lambda _: None
) -> tuple[M | None, list[tuple[Location, str]]]:
    """Validate strictly: text is not read as a number, and 1 not as true.

    Returns:
        The value and no errors, or ``None`` and every error as (path of the field, sentence).
    """
    try:
        # Through JSON, because pydantic's strict mode takes a list for a tuple and text for a date only from there.
        return model.model_validate_json(json.dumps(fields), strict=True), []
    except ValidationError as error:
        return None, list(_sentences(model, error, written))


def _sentences(model: type[BaseModel], error: ValidationError, written: Written) -> Iterator[tuple[Location, str]]:
    for detail in error.errors(include_url=False, include_context=True):
        loc: Location = tuple(step for step in detail["loc"] if step != "[key]")
        yield loc, _sentence(model, loc, detail, written)


def _sentence(model: type[BaseModel], loc: Location, detail: ErrorDetails, written: Written) -> str:
    kind, value = detail["type"], detail.get("input")
    message = detail["msg"].removeprefix("Value error, ")  # pydantic's prefix of a validator's own sentence
    message = message[:1].lower() + message[1:]
    if kind == "extra_forbidden":
        return f"unknown key; {did_you_mean(str(loc[-1]), fields_at(model, loc[:-1]))}"
    if kind == "missing":
        # a runner profile has no `defaults`
        place = (
            "neither the case nor `defaults` states it" if model.__name__ == "Case" else "this file does not state it"
        )
        return f"is required, and {place}{_example(model, loc)}"
    if kind == "string_type" and not isinstance(value, list | dict | None):
        source = written(loc)
        return f"must be text; write it in quotes: {json.dumps(json.dumps(value) if source is None else source)}"
    if kind == "too_short":
        return f"must have at least {detail.get('ctx', {}).get('min_length', 1)} entry"
    if kind == "string_type" and isinstance(value, dict) and list(value.values()) == [None]:
        # YAML reads an unquoted {out} as a mapping
        return f"must be text; write it in quotes: {json.dumps('{' + next(iter(value)) + '}')}"
    if (plain := _plain(detail)) is not None:
        return f"{plain}, not {_shown(value)}"
    if isinstance(value, dict | list):
        return message
    if kind == "string_pattern_mismatch":
        pattern = str(detail.get("ctx", {}).get("pattern"))
        words = _description(model, loc) or _PATTERNS.get(pattern) or f"text of the form {pattern}"
        return f"{json.dumps(value, default=str)} cannot stand here; write: {words}"
    return f"{message}, not {json.dumps(value, default=str)}"


_WORDS = {
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "finite_number": "must be a finite number",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "string_type": "must be text",
    "dict_type": "must be a mapping, `name: value`",
    "model_type": "must be a mapping of fields",
    "model_attributes_type": "must be a mapping of fields",
    "list_type": "must be a list",
    "tuple_type": "must be a list",
    "literal_error": "must be {expected}",
    "value_error": "{error}",
    "greater_than": "must be more than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be at most {le}",
    "multiple_of": "must be a multiple of {multiple_of}",
    "date_parsing": "must be a date, such as 2026-12-31",
    "date_from_datetime_parsing": "must be a date, such as 2026-12-31",
}
"""pydantic's errors in the words of somebody who writes YAML. https://docs.pydantic.dev/latest/errors/validation_errors/"""


_PATTERNS = {
    r"^[A-Za-z_][A-Za-z0-9_]*$": "the name of a variable: letters, digits and _, and no digit first",
    r"^[A-Za-z_][A-Za-z0-9_?*]*$": "the name of a variable, or a glob such as MKL_*",
    r"^[a-z][a-z0-9_]{0,31}$": "the name of a runner: small letters, digits and _, a letter first, at most 32",
    r"^[a-z0-9][a-z0-9_-]*==[0-9][0-9A-Za-z.+!-]*$": "a runtime and its version, such as sglang==0.5.23",
}
"""Patterns of the types that several fields share, in words. A field of its own pattern has a description."""


def _plain(detail: ErrorDetails) -> str | None:
    words = _WORDS.get(detail["type"])
    return None if words is None else words.format(**detail.get("ctx", {}))


def _shown(value: object) -> str:
    """Return the written value as JSON, or in words if it is a container or missing."""
    if value is None:
        return "nothing"
    if isinstance(value, dict):
        return "a mapping"
    return "a list" if isinstance(value, list) else json.dumps(value, default=str)


def _description(model: type[BaseModel], loc: Location) -> str | None:
    field = _field(model, loc)
    return field.description if field is not None else None


def _example(model: type[BaseModel], loc: Location) -> str:
    field = _field(model, loc)
    return f"; for example {field.examples[0]}" if field is not None and field.examples else ""


def _field(model: type[BaseModel], loc: Location) -> FieldInfo | None:
    current: type[BaseModel] | None = model
    for step in loc[:-1]:
        current = (
            model_of(current.model_fields[str(step)].annotation) if current and step in current.model_fields else None
        )
    return current.model_fields.get(str(loc[-1])) if current and loc else None


def fields_at(model: type[BaseModel], path: Location) -> list[str]:
    """Return the fields that the mapping at ``path`` may have; empty if its keys are free."""
    current: type[BaseModel] | None = model
    for step in path:
        if current is None or step not in current.model_fields:
            return []
        current = model_of(current.model_fields[str(step)].annotation)
    return list(current.model_fields) if current is not None else []


def model_of(annotation: Any) -> type[BaseModel] | None:
    """Return the model of a field of type ``Model`` or ``Model | None``; ``None`` for any other type."""
    parts = typing.get_args(annotation) if typing.get_origin(annotation) in (typing.Union, types.UnionType) else ()
    models = [part for part in parts or (annotation,) if isinstance(part, type) and issubclass(part, BaseModel)]
    return models[0] if len(models) == 1 else None
