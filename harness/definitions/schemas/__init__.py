"""JSON Schemas of the files that people write, generated from the models and committed beside this module.

Editors check ``cases/*.yaml`` against them (the first line of each file names its schema); quantgate itself reads the
models. ``python -m harness.definitions.schemas --write`` makes them current.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel

from harness.definitions.case import Case
from harness.definitions.runner import RunnerProfile
from harness.definitions.validation import model_of
from harness.records.limits import LimitFile
from harness.records.perf_file import PerfFile

Schema = dict[str, Any]
FOLDER: Final = Path(__file__).parent
DRAFT: Final = "https://json-schema.org/draft/2020-12/schema"
_WHOLE: Final = ("CheckpointRef", "ImageRef", "Waiver")
"""Mappings that are never completed from ``defaults``, so that their required keys stay required."""


def case_file() -> Schema:
    """Schema of a case file: ``defaults`` and ``cases``, whose fields are complete only together."""
    entry = Case.model_json_schema(mode="validation")
    definitions = entry.pop("$defs")
    del entry["properties"]["id"]
    for name, schema in definitions.items():
        if name not in _WHOLE:
            schema.pop("required", None)
    entry.pop("required")
    fields = dict(entry["properties"])
    matrix = {
        "description": "dotted field -> values, or label -> value; the case is made once for every combination",
        "type": "object",
        "minProperties": 1,
        "propertyNames": {"anyOf": [{"enum": sorted(_dotted(Case))}, {"pattern": r"^env\.[A-Za-z_][A-Za-z0-9_]*$"}]},
        "additionalProperties": {
            "oneOf": [
                {"type": "array", "minItems": 1, "items": {"type": ["string", "number", "boolean", "null"]}},
                {"type": "object", "minProperties": 1},
            ]
        },
    }
    return {
        "$schema": DRAFT,
        "title": "quantgate case file",
        "type": "object",
        "additionalProperties": False,
        "required": ["cases"],
        "properties": {
            "defaults": {"anyOf": [{"$ref": "#/$defs/Fields"}, {"type": "null"}]},
            "cases": {
                "type": "object",
                "minProperties": 1,
                "propertyNames": {"pattern": r"^[a-z0-9][a-z0-9_.-]{0,79}$", "not": {"pattern": r"\.perf$"}},
                "additionalProperties": {"anyOf": [{"$ref": "#/$defs/Entry"}, {"type": "null"}]},
            },
        },
        "$defs": {
            **definitions,
            "Fields": {**entry, "title": "Fields", "properties": fields},
            "Entry": {**entry, "title": "Entry", "properties": {**fields, "matrix": matrix}},
        },
    }


def schema_of(model: type[BaseModel]) -> Schema:
    """Schema of a file that holds one record."""
    return {"$schema": DRAFT, **model.model_json_schema(mode="validation")}


SCHEMAS: Final[dict[str, Callable[[], Schema]]] = {
    "case-file.schema.json": case_file,
    "runner.schema.json": partial(schema_of, RunnerProfile),
    "limit-file.schema.json": partial(schema_of, LimitFile),
    "perf-file.schema.json": partial(schema_of, PerfFile),
}


def text_of(name: str) -> str:
    """The schema ``name`` as it is written to disk; the same models always give the same bytes."""
    return json.dumps(SCHEMAS[name](), indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def stale(folder: Path = FOLDER) -> list[str]:
    """Return the names of the committed schemas that differ from the models' present schemas."""
    return [
        name
        for name in SCHEMAS
        if not (folder / name).is_file() or (folder / name).read_text(encoding="utf-8") != text_of(name)
    ]


def _dotted(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name, field in model.model_fields.items():
        if prefix or name != "id":
            yield prefix + name
            inner = model_of(field.annotation)
            if inner is not None:
                yield from _dotted(inner, f"{prefix}{name}.")
