"""Proven bytes against what each runtime will assume: one sentence with both sides, the rule and the remedy."""

from __future__ import annotations

import re
from collections.abc import Iterator

from harness.checkpoint.checks.encoding import WORDS, own_related
from harness.checkpoint.checks.scales import channel_kind
from harness.checkpoint.context import Context
from harness.checkpoint.contracts import Resolved, resolve
from harness.checkpoint.contracts.resolve import resolve_loader
from harness.checkpoint.findings import finding, some
from harness.checkpoint.gates import gate_of
from harness.checkpoint.measure import Measured
from harness.checkpoint.modules import is_scale
from harness.records.inspection import InspectionFinding


def resolved(context: Context, expert: str) -> list[Resolved]:
    """What every asked runtime, and our own loader, will assume for one expert."""
    component, modules, options = context.experts[expert], context.modules[expert], context.options
    found = [resolve(contract, component, modules, options.env) for contract in options.contracts]
    return ([resolve_loader(options.loader)] if options.loader is not None else []) + found


def proven_readings(context: Context, expert: str) -> dict[str, Measured]:
    """Modules whose NVFP4 reading the bytes prove."""
    return {
        name: item
        for name, item in own_related(context, expert).items()
        if item.module.format == "nvfp4" and item.fit and item.fit.scores[item.fit.best].cosine >= gate_of(item).cosine
    }


def contracts(context: Context) -> Iterator[InspectionFinding]:
    """Nibble order and scale layout: who assumes what, because of which rule."""
    for expert in context.experts:
        proven = proven_readings(context, expert)
        for runtime in resolved(context, expert):
            for code, part, assumed, rule in (
                ("nibble_order", 0, runtime.nibble_order, runtime.nibble_rule),
                ("scale_layout", 1, runtime.scale_layout, runtime.layout_rule),
            ):
                wrong = sorted(
                    name for name, item in proven.items() if item.fit and item.fit.best.split("/")[part] != assumed
                )
                if wrong:
                    yield _mismatch(expert, runtime, code, part, assumed, rule, wrong, proven[wrong[0]])
            if not proven and any(module.format == "nvfp4" for module in context.quantized(expert).values()):
                yield finding(
                    "inconclusive",
                    "contract_unproven",
                    f"{expert}: {runtime.name} will read {WORDS[runtime.nibble_order]} ({runtime.nibble_rule}); "
                    "the bytes alone do not prove that this is right.",
                    expert=expert,
                    contract=runtime.name,
                    next_command="quantgate inspect … --base owner/name@commit",
                )


def _mismatch(
    expert: str, runtime: Resolved, code: str, part: int, assumed: str, rule: str, wrong: list[str], item: Measured
) -> InspectionFinding:
    found = item.fit
    assert found is not None  # noqa: S101 - only proven modules come here
    proven = found.best.split("/")[part]
    other = "/".join(assumed if index == part else word for index, word in enumerate(found.best.split("/")))
    as_assumed = found.scores[other].cosine if other in found.scores else None
    against = f" against {as_assumed:.3f}" if as_assumed is not None else ""
    if runtime.name == "harness":
        remedy = f"set loader.{code}: {proven} in the case"
    else:
        key = "swap_weight_nibbles" if code == "nibble_order" else "checkpoint_weight_scale_layout"
        value = str(proven == "high_first").lower() if code == "nibble_order" else proven
        remedy = f"set {key}: {value}" + (
            f", or use {runtime.remedy}" if runtime.remedy and code == "nibble_order" else ""
        )
    return finding(
        "fault",
        code,
        f"{expert}: bytes say {WORDS[proven]} (cos {found.scores[found.best].cosine:.3f}{against}); "
        f"{runtime.name} will read {WORDS[assumed]} ({rule}); {remedy}.",
        expert=expert,
        module=wrong[0],
        contract=runtime.name,
        evidence={
            "proven": found.best,
            "assumed": assumed,
            "rule": rule,
            "source": runtime.source,
            "cosine": {name: score.cosine for name, score in found.scores.items()},
            "modules": wrong[:20],
            "count": len(wrong),
        },
        next_command=remedy,
    )


def contract_settings(context: Context) -> Iterator[InspectionFinding]:
    """Settings that a runtime takes from elsewhere than from the checkpoint."""
    index = context.model_index or {}
    two = index.get("transformer_2") not in (None, [None, None])
    for contract in context.options.contracts:
        fixed, said = contract.rules.boundary_ratio, index.get("boundary_ratio")
        if two and isinstance(fixed, float) and isinstance(said, float) and said != fixed:
            yield finding(
                "fault",
                "boundary_ratio_fixed",
                f"model_index.json switches experts at {said}, and {contract.name} always does so at {fixed}.",
                contract=contract.name,
                evidence={"checkpoint": said, "runtime": fixed},
                next_command="name a runtime that reads model_index.json, or quantize for the boundary that it has",
            )
        backend = contract.rules.backend
        asked = context.options.env.get(backend.env) if backend is not None else None
        if backend is not None and asked and backend.choices and asked not in backend.choices:
            yield finding(
                "fault",
                "backend_unknown",
                f"{backend.env}={asked}: {contract.name} has {', '.join(backend.choices)}.",
                contract=contract.name,
                evidence={"asked": asked, "choices": list(backend.choices), "source": backend.source},
                next_command=f"set {backend.env} in the case's env to one of them, or take it out",
            )


def contract_names(context: Context) -> Iterator[InspectionFinding]:
    """Tensor names that a runtime's map does not cover, and repositories that it does not know."""
    for contract in context.options.contracts:
        for expert, component in context.experts.items():
            patterns = contract.rules.names.get(str(component.config.get("_class_name", "")))
            if patterns:
                rule = re.compile("|".join(f"(?:{pattern})" for pattern in patterns))
                stored = component.naming.names
                if component.naming.library or component.naming.dialect == "wan":
                    stored = {name: name for name in component.tensors}  # names_of_dialect says what the names are
                plain = {old.replace(".weight_packed", ".weight") for old, new in stored.items() if not is_scale(new)}
                lost = sorted(name for name in plain if not rule.fullmatch(name))
                if lost:
                    yield finding(
                        "fault",
                        "name_unmapped",
                        f"{expert}: {contract.name} has no name for {some(lost)}: it aborts the load or drops them.",
                        expert=expert,
                        tensor=lost[0],
                        contract=contract.name,
                        evidence={"tensors": lost[:20], "count": len(lost)},
                    )
        registry = contract.rules.registry
        model = next((item for item in context.experts.values() if item.role == "model"), None)
        if registry is None or model is None or model.source.is_local:
            continue
        name = model.source.label.split("@")[0]
        if name not in registry.known and not any(_short(item) in _short(name) for item in registry.known):
            yield finding(
                "warning",
                "repository_unregistered",
                f"{contract.name} does not know {name}: {registry.otherwise}.",
                contract=contract.name,
                evidence={"source": registry.source},
            )


def _short(name: str) -> str:
    return name.rsplit("/", 1)[-1].lower()


def contract_scales(context: Context) -> Iterator[InspectionFinding]:
    """Declarations and scale shapes that a runtime does not take."""
    for contract in context.options.contracts:
        for expert, component in context.experts.items():
            fp8 = [
                module
                for module in context.quantized(expert).values()
                if module.format == "fp8" and module.scale is not None
            ]
            odd = sorted(module.name for module in fp8 if channel_kind(module) not in contract.rules.fp8_scale_shapes)
            if odd:
                shape = list(context.modules[expert][odd[0]].scale.shape)  # type: ignore[union-attr]
                yield finding(
                    "fault",
                    "scale_shape",
                    f"{expert}: {contract.name} takes FP8 scales of shape "
                    f"{', '.join(contract.rules.fp8_scale_shapes)} and {some(odd)} have {shape}.",
                    expert=expert,
                    module=odd[0],
                    contract=contract.name,
                    evidence={"modules": odd[:20], "count": len(odd)},
                )
            origin, looks = component.declaration.origin, contract.rules.declarations
            four = any(module.format == "nvfp4" for module in context.quantized(expert).values())
            if origin and origin not in looks and not (four and "tensors" in looks) and context.quantized(expert):
                yield finding(
                    "fault",
                    "declaration_unseen",
                    f"{expert}: the quantization is declared in {origin}, and {contract.name} looks only into "
                    f"{', '.join(looks)}: it loads the checkpoint as unquantized.",
                    expert=expert,
                    contract=contract.name,
                    evidence={"origin": origin, "looks": list(looks)},
                    next_command="write quantization_config into the transformer's config.json",
                )
