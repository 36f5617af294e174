"""List the changes between checkpoint B and checkpoint A, for the review of a case that switches from B to A."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from harness.formats.header import TensorEntry
from harness.formats.modules import Module, group, summary_format
from harness.inspector.assemble import Assembly, Ref, assemble
from harness.inspector.context import declared_reading
from harness.inspector.identity import DigestCache, component_digests
from harness.inspector.index import Component
from harness.inspector.sources import Meter
from harness.inspector.summarize import collapse
from harness.records.base import Json
from harness.records.inspection import CheckpointChange, CheckpointComparison, InspectionReport
from harness.text import listed

FLAGS = (
    "swap_weight_nibbles",
    "checkpoint_uses_packed_qkv",
    "checkpoint_weight_scale_layout",
    "dynamic_input_scale",
    "quant_type",
)


def compare_checkpoints(
    first: Ref,
    second: Ref,
    *,
    transformer: Ref | None = None,
    transformer_2: Ref | None = None,
    against_transformer: Ref | None = None,
    root: Path | None = None,
    digests: bool = True,
) -> CheckpointComparison:
    """Compare two checkpoints by headers, configurations and digests; a few MB are read.

    Args:
        first: the new checkpoint (A).
        second: the checkpoint that it replaces (B).
        transformer, transformer_2: overrides of A.
        against_transformer: override of the primary expert of B.

    Raises:
        BadReferenceError, SourceError: a checkpoint cannot be read.
    """
    meter = Meter()
    with ThreadPoolExecutor(16) as pool:
        new = assemble(first, meter, pool, {"transformer": transformer, "transformer_2": transformer_2}, root)
        old = assemble(second, meter, pool, {"transformer": against_transformer}, root)
    changes = [*_repository(new, old)]
    for expert in sorted({*new.experts, *old.experts}):
        changes += _expert(expert, new.experts.get(expert), old.experts.get(expert))
    same: tuple[str, ...] = ()
    if digests:
        cache = DigestCache()
        new_digests, old_digests = (component_digests(item.experts.values(), cache) for item in (new, old))
        same = tuple(sorted(path for path, digest in new_digests.items() if old_digests.get(path) == digest))
    return CheckpointComparison(
        reference=_label(new),
        against=_label(old),
        changes=tuple(changes),
        identical_files=same,
        bytes_read=meter.bytes,
        requests=meter.requests,
    )


def with_proof(comparison: CheckpointComparison, new: InspectionReport, old: InspectionReport) -> CheckpointComparison:
    """Add changes of the proven reading, recipe and faults: headers alone cannot show a nibble order.

    Args:
        comparison: comparison of the same two checkpoints.
        new: inspection of A.
        old: inspection of B.
    """
    new_experts, old_experts = ({item.expert: item for item in report.experts} for report in (new, old))
    changes: list[CheckpointChange] = []
    for expert in sorted(new_experts.keys() & old_experts.keys()):
        changes += _difference(expert, "proven reading", new_experts[expert].encoding, old_experts[expert].encoding)
        changes += _difference(expert, "proven recipe", new_experts[expert].recipe, old_experts[expert].recipe)
    changes += _difference("", "faults", [item.code for item in new.faults], [item.code for item in old.faults])
    return comparison.model_copy(
        update={
            "changes": (*comparison.changes, *changes),
            "bytes_read": comparison.bytes_read + new.bytes_read + old.bytes_read,
            "requests": comparison.requests + new.requests + old.requests,
        }
    )


def _label(item: Assembly) -> str:
    extra = [f"{expert}={source.label}" for expert, source in item.sources.items() if expert != "model"]
    return " ".join([item.reference, *extra])


def _repository(new: Assembly, old: Assembly) -> list[CheckpointChange]:
    changes = _difference("", "source", new.reference, old.reference)
    # the version of diffusers and the exporter's path do not describe the model
    keys = sorted({*(new.model_index or {}), *(old.model_index or {})} - {"_diffusers_version", "_name_or_path"})
    for key in keys:
        new_value, old_value = ((item.model_index or {}).get(key) for item in (new, old))
        changes += _difference("", f"model_index.{key}", new_value, old_value)
    return changes


def _expert(expert: str, new: Component | None, old: Component | None) -> list[CheckpointChange]:
    if new is None or old is None:
        return _difference(expert, "present", new is not None, old is not None)
    new_facts, old_facts = _facts(new), _facts(old)
    changes: list[CheckpointChange] = []
    for key in new_facts:
        changes += _difference(expert, key, new_facts[key], old_facts[key])
    changes += _tensor_sets(expert, new.tensors, old.tensors)
    return changes


def _facts(component: Component) -> dict[str, Json]:
    modules = group(component.tensors, component.hints)
    quantized = {name: module for name, module in modules.items() if module.quantized}
    four = next((module for module in quantized.values() if module.spec.loader_options), None)
    facts: dict[str, Json] = {
        "source": component.place,
        "format": summary_format(modules),
        "quantized Linears": len(quantized),
        "unquantized Linears": list(collapse([name for name in modules if name not in quantized])),
        "declared reading": declared_reading(component, four)[0] if four else None,
        "declared by": component.declaration.origin or None,
        "algorithm": component.declaration.algo or None,
        "dialect": ", ".join(sorted({module.dialect for module in quantized.values()})) or None,
        "recipe tensors": ", ".join(sorted({module.recipe for module in quantized.values()} - {""})) or None,
        "scale shapes": _scale_shapes(quantized),
        "shards": len(component.shards),
        "bytes on disk": sum(component.source.files[path].size for path in component.shards),
    }
    producer = component.declaration.raw.get("producer")
    facts["producer"] = dict(producer) if isinstance(producer, Mapping) else None
    for flag in FLAGS:
        facts[flag] = component.declaration.flag(flag)
    return facts


def _scale_shapes(quantized: Mapping[str, Module]) -> Json:
    kinds = {
        f"{suffix} {entry.dtype} rank {len(entry.shape)}"
        for module in quantized.values()
        for suffix, entry in (("scale", module.scale), ("global", module.global_scale), ("input", module.input_scale))
        if entry is not None
    }
    return ", ".join(sorted(kinds))


def _tensor_sets(expert: str, new: Mapping[str, TensorEntry], old: Mapping[str, TensorEntry]) -> list[CheckpointChange]:
    changes: list[CheckpointChange] = []
    if added := sorted(set(new) - set(old)):
        changes.append(_change(expert, "tensors only in A", _names(added), None))
    if gone := sorted(set(old) - set(new)):
        changes.append(_change(expert, "tensors only in B", None, _names(gone)))
    dtypes: dict[str, list[str]] = {}
    for name in sorted(set(new) & set(old)):
        if (new[name].dtype, new[name].shape) != (old[name].dtype, old[name].shape):
            dtypes.setdefault(f"{old[name].dtype} as {new[name].dtype}", []).append(name)
    for kind, names in dtypes.items():
        changes.append(_change(expert, f"stored {kind}", _names(names), None))
    return changes


def _names(names: Sequence[str]) -> Json:
    return f"{len(names)}: {listed(list(names))}"


def _difference(expert: str, field: str, new: Json, old: Json) -> list[CheckpointChange]:
    return [] if new == old else [_change(expert, field, new, old)]


def _change(expert: str, field: str, new: Json, old: Json) -> CheckpointChange:
    return CheckpointChange(expert=expert, field=field, new=new, old=old)
