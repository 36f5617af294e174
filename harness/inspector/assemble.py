"""Assemble the transformers of a checkpoint: a full repository, overrides, or one transformer alone."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.definitions.case import CheckpointRef
from harness.formats.errors import BadReferenceError, ConfigError
from harness.inspector.findings import finding
from harness.inspector.index import Component, Role, load_component, read_json
from harness.inspector.layout import Place, places_of
from harness.inspector.parts import EXPERTS, Parts, look_at_parts
from harness.inspector.pipeline_parts import mismatched, unscaled
from harness.inspector.sources import Meter, Source, open_source
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
    """Components that a pipeline loads beside its transformers."""


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
        ref: the checkpoint.
        meter: counts bytes and requests.
        pool: runs the header reads.
        overrides: expert to the repository or folder whose transformer replaces it.
        root: folder that ``./`` is relative to; default the current folder.
        role: ``base``: the parts of the pipeline are not judged, they are the reference.

    Raises:
        BadReferenceError: the checkpoint or an override contains no transformer.
        SourceError: the source failed.
    """
    source = open_source(ref, meter, root)
    sources: dict[str, Source] = {"model": source}
    index, problems = _model_index(source)
    places: dict[str, tuple[Source, Place, Role]] = {
        expert: (source, place, role) for expert, place in places_of(source).items()
    }
    for expert, other in (overrides or {}).items():
        if other is None:
            continue
        replacement = open_source(other, meter, root)
        sources[expert] = replacement
        options = places_of(replacement)
        # an override folder often holds one transformer under the plain name, whichever expert it replaces
        place = options.get(expert, options.get("transformer"))
        if place is None and len(options) == 1:
            place = next(iter(options.values()))
        if place is None:
            raise BadReferenceError("there is no transformer in it", place=replacement.label)
        places[expert] = (replacement, place, "override")
    if not places:
        raise BadReferenceError(
            "there is no transformer in it",
            place=source.label,
            remedy="a checkpoint has transformer/*.safetensors, or *.safetensors or *.gguf files; name one by its path",
        )
    experts = {
        expert: load_component(source_, place.folder, expert, kind, pool, place.files)
        for expert, (source_, place, kind) in sorted(places.items())
    }
    for expert in EXPERTS:
        named = isinstance(index, Mapping) and index.get(expert) not in (None, [None, None])
        if (named and expert not in experts) or (
            expert in experts
            and not experts[expert].tensors
            and not experts[expert].findings
            and not experts[expert].shards
        ):
            text = f"there are no weights of {expert}" + (", and model_index.json names it." if named else ".")
            problems.append(finding("fault", "weights_missing", text, expert=expert))
    parts = look_at_parts(source, index, pool)
    if role == "base":
        return Assembly(source.label, experts, index, tuple(problems), sources, parts)
    whole = [*unscaled(parts), *mismatched(index, experts, parts)]
    return Assembly(source.label, experts, index, (*problems, *parts.findings, *whole), sources, parts)


def _model_index(source: Source) -> tuple[dict[str, Any] | None, list[InspectionFinding]]:
    if "model_index.json" not in source.files:
        return None, []
    try:
        return read_json(source, "model_index.json"), []
    except ConfigError as error:
        return None, [
            finding(
                "fault", "config_invalid", f"model_index.json: {error.message}.", evidence={"file": "model_index.json"}
            )
        ]
