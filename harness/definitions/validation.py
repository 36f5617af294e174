"""Plain fields into a frozen model, and pydantic's errors into sentences."""

from __future__ import annotations

import json
import types
import typing
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from harness.definitions.suggest import did_you_mean

M = TypeVar("M", bound=BaseModel)
Path = tuple[str | int, ...]


Written = Callable[[Path], str | None]
"""What a person wrote for a field: 1.10 and not 1.1. ``None`` where that is not known."""


def validate(model: type[M], fields: Any, written: Written = lambda _: None) -> tuple[M | None, list[tuple[Path, str]]]:
    """Validate strictly: text is no number, 1 is not true.

    Returns:
        The value and no errors, or ``None`` and every error as (path of the field, sentence).
    """
    try:
        # Through JSON, because pydantic's strict mode takes a list for a tuple and text for a date only from there.
        return model.model_validate_json(json.dumps(fields), strict=True), []
    except ValidationError as error:
        return None, list(_sentences(model, error, written))


def _sentences(model: type[BaseModel], error: ValidationError, written: Written) -> Iterator[tuple[Path, str]]:
    for detail in error.errors(include_url=False, include_context=True):
        loc: Path = tuple(step for step in detail["loc"] if step != "[key]")
        yield loc, _sentence(model, loc, detail, written)


def _sentence(model: type[BaseModel], loc: Path, detail: ErrorDetails, written: Written) -> str:
    kind, value = detail["type"], detail.get("input")
    message = detail["msg"][:1].lower() + detail["msg"][1:]
    if kind == "extra_forbidden":
        return f"unknown key; {did_you_mean(str(loc[-1]), fields_at(model, loc[:-1]))}"
    if kind == "missing":
        return f"is required, and neither the case nor `defaults` states it{_example(model, loc)}"
    if kind == "string_type" and not isinstance(value, list | dict | None):
        source = written(loc)
        return f"must be text; write it in quotes: {json.dumps(json.dumps(value) if source is None else source)}"
    if isinstance(value, dict | list):
        return message
    if kind == "string_pattern_mismatch" and (meant := _description(model, loc)):
        return f"{json.dumps(value, default=str)} is not what is meant here: {meant}"
    return f"{message}, not {json.dumps(value, default=str)}"


def _description(model: type[BaseModel], loc: Path) -> str | None:
    field = _field(model, loc)
    return field.description if field is not None else None


def _example(model: type[BaseModel], loc: Path) -> str:
    field = _field(model, loc)
    return f"; for example {field.examples[0]}" if field is not None and field.examples else ""


def _field(model: type[BaseModel], loc: Path) -> FieldInfo | None:
    current: type[BaseModel] | None = model
    for step in loc[:-1]:
        current = (
            model_of(current.model_fields[str(step)].annotation) if current and step in current.model_fields else None
        )
    return current.model_fields.get(str(loc[-1])) if current and loc else None


def fields_at(model: type[BaseModel], path: Path) -> list[str]:
    """Names of the fields that the mapping at ``path`` may have; empty where its keys are free."""
    current: type[BaseModel] | None = model
    for step in path:
        if current is None or step not in current.model_fields:
            return []
        current = model_of(current.model_fields[str(step)].annotation)
    return list(current.model_fields) if current is not None else []


def model_of(annotation: Any) -> type[BaseModel] | None:
    """The model that a field holds, ``None`` beside it or not; ``None`` for a field of any other type."""
    parts = typing.get_args(annotation) if typing.get_origin(annotation) in (typing.Union, types.UnionType) else ()
    models = [part for part in parts or (annotation,) if isinstance(part, type) and issubclass(part, BaseModel)]
    return models[0] if len(models) == 1 else None
