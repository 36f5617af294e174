"""Which cases may share a process: everything that is fixed once an engine stands."""

from __future__ import annotations

import hashlib
import json

from harness.definitions.case import Case
from harness.records.base import Json

KEY_FIELDS = (
    "backend",
    "command",
    "runtime",
    "runtime_args",
    "model",
    "transformer",
    "transformer_2",
    "env",
    "pass_env",
    "loader",
    "execution",
    "precision",
    "quantization",
)
"""Fields of a case that decide how a model is loaded and in which environment. Sampling and scheduler are not among
them: they are set anew for every generation."""


def engine_request(case: Case) -> dict[str, Json]:
    """The part of ``case`` that its engine is made of, as data. ``made_by`` is a hint for people and is left out."""
    data: dict[str, Json] = case.model_dump(mode="json", include=set(KEY_FIELDS))
    for role in ("model", "transformer", "transformer_2"):
        reference = data[role]
        if isinstance(reference, dict):
            reference.pop("made_by", None)
    data["pass_env"] = [*sorted(case.pass_env)]
    return data


def engine_key(case: Case) -> str:
    """sha256 (hex) over :func:`engine_request`: two cases with the same key are served by one process."""
    text = json.dumps(engine_request(case), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
