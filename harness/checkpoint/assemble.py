"""Which transformers a checkpoint consists of: a full repository, overrides, or one transformer alone."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.checkpoint.errors import BadReferenceError, ConfigError
from harness.checkpoint.findings import finding
from harness.checkpoint.index import Component, Role, load_component, read_json
from harness.checkpoint.parts import EXPERTS, Parts, look_at_parts
from harness.checkpoint.sources import Meter, Source, open_source
from harness.definitions.case import CheckpointRef
from harness.records.inspection import InspectionFinding

Ref = CheckpointRef | str | Path


@dataclass(frozen=True)
class Assembly:
    """The experts that a runtime would load together."""

    reference: str
    experts: Mapping[str, Component]
    model_index: Mapping[str, Any] | None
    findings: tuple[InspectionFinding, ...] = ()
    sources: Mapping[str, Source] = field(default_factory=dict)
    parts: Parts = field(default_factory=Parts)
    """What a pipeline loads beside its transformers; empty for a base."""


def folders(source: Source) -> dict[str, str]:
    """Expert to folder. A repository with weights at its root is a single transformer."""
    found = {
        expert: expert
        for expert in EXPERTS
        if any(path.startswith(f"{expert}/") and path.endswith((".safetensors", ".json")) for path in source.files)
    }
    if not found and any("/" not in path and path.endswith(".safetensors") for path in source.files):
        return {"transformer": ""}
    return found


def assemble(
    ref: Ref,
    meter: Meter,
    pool: Executor,
    overrides: Mapping[str, Ref | None] | None = None,
    root: Path | None = None,
    role: Role = "model",
) -> Assembly:
    """Open a checkpoint and read all headers and configurations.

    Args:
        overrides: expert to the repository or folder whose transformer replaces it.

    Raises:
        BadReferenceError: there is no transformer in it.
        SourceError: the source failed.
    """
    source = open_source(ref, meter, root)
    sources: dict[str, Source] = {"model": source}
    index, problems = _model_index(source)
    places: dict[str, tuple[Source, str, Role]] = {
        expert: (source, folder, role) for expert, folder in folders(source).items()
    }
    for expert, other in (overrides or {}).items():
        if other is None:
            continue
        replacement = open_source(other, meter, root)
        sources[expert] = replacement
        options = folders(replacement)
        folder = options.get(expert, options.get("transformer"))
        if folder is None:
            raise BadReferenceError("there is no transformer in it", where=replacement.label)
        places[expert] = (replacement, folder, "override")
    if not places:
        raise BadReferenceError(
            "there is no transformer in it",
            where=source.label,
            remedy="a checkpoint has transformer/*.safetensors, or *.safetensors at its root",
        )
    experts = {
        expert: load_component(where, folder, expert, kind, pool)
        for expert, (where, folder, kind) in sorted(places.items())
    }
    for expert in EXPERTS:
        named = isinstance(index, Mapping) and index.get(expert) not in (None, [None, None])
        if (named and expert not in experts) or (
            expert in experts and not experts[expert].tensors and not experts[expert].findings
        ):
            text = f"there are no weights of {expert}" + (", and model_index.json names it." if named else ".")
            problems.append(finding("fault", "weights_missing", text, expert=expert))
    parts = look_at_parts(source, index, pool) if role == "model" else Parts()
    return Assembly(source.label, experts, index, (*problems, *parts.findings), sources, parts)


def _model_index(source: Source) -> tuple[dict[str, Any] | None, list[InspectionFinding]]:
    if "model_index.json" not in source.files:
        return None, []
    try:
        return read_json(source, "model_index.json"), []
    except ConfigError as error:
        return None, [
            finding(
                "fault", "config_invalid", f"model_index.json: {error.what}.", evidence={"file": "model_index.json"}
            )
        ]
