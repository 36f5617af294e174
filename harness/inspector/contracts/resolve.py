"""Resolve a contract for one checkpoint: a runtime's assumptions as rows of a report, and remedies that work."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from packaging.version import Version

from harness.definitions.case import Loader
from harness.inspector.contracts.model import Contract, Rules, rules_of
from harness.inspector.contracts.predict import Declared, Prediction, predict
from harness.records.base import Json
from harness.records.inspection import ContractAssumption

if TYPE_CHECKING:
    from harness.inspector.index import Component

ORDERS = {True: "high_first", False: "low_first"}
LAYOUTS = {True: "swizzled", False: "linear"}


@dataclass(frozen=True)
class Resolved:
    """The assumptions of one runtime, ready to compare with the proven reading."""

    name: str
    nibble_order: str
    nibble_rule: str
    scale_layout: str
    layout_rule: str
    assumptions: tuple[ContractAssumption, ...]
    source: str = ""
    prediction: Prediction = field(default_factory=Prediction)
    contract: Contract | None = None
    """``None``: the harness's own loader."""
    declared: Declared | None = None


def declared_by(component: Component) -> Declared:
    """Return the declarations of one transformer's files, as a runtime reads them."""
    return Declared(
        role="override" if component.role == "override" else "model",
        config=component.config.get("quantization_config"),
        tensors=component.stored or component.tensors,
        metadata=component.metadata,
        class_name=str(component.config.get("_class_name") or "WanTransformer3DModel"),
    )


def resolve(contract: Contract, component: Component, env: Mapping[str, str]) -> Resolved:
    """Return the assumptions of one contract for one expert. ``env`` is the runtime's environment."""
    rules, declared = contract.rules, declared_by(component)
    prediction = predict(rules, declared)
    order, layout = ORDERS[prediction.swap.on], LAYOUTS[prediction.tiled.on]
    return Resolved(
        contract.name,
        order,
        prediction.swap.why,
        layout,
        prediction.tiled.why,
        tuple(_rows(contract, prediction, declared, env)),
        rules.nvfp4.swap_weight_nibbles.source,
        prediction,
        contract,
        declared,
    )


def _rows(
    contract: Contract, prediction: Prediction, declared: Declared, env: Mapping[str, str]
) -> Iterator[ContractAssumption]:
    rules = contract.rules

    def row(name: str, value: Json, rule: str, source: str = "") -> ContractAssumption:
        return ContractAssumption(field=name, value=value, rule=rule, source=source)

    if prediction.refused:
        yield row("loads", False, prediction.refused, rules.dispatch.source)
    yield row("nibble_order", ORDERS[prediction.swap.on], prediction.swap.why, rules.nvfp4.swap_weight_nibbles.source)
    yield row("scale_layout", LAYOUTS[prediction.tiled.on], prediction.tiled.why, rules.nvfp4.swizzled_scales.source)
    if not prediction.refused and not prediction.unmodelled:
        method = prediction.method or "plain"
        yield row("quantized_linears", len(prediction.quantized), f"method {method}", rules.dispatch.source)
    read = list(rules.override.reads) if declared.role == "override" else ["config", "tensors"]
    yield row("declarations_read", list[Json](read), f"of a {declared.role}", rules.override.source)
    boundary = rules.boundary_ratio
    yield row("boundary_ratio", boundary, "fixed" if isinstance(boundary, float) else f"from {boundary}")
    if rules.registry is not None and rules.registry.flow_shift:
        shifts: dict[str, Json] = dict(rules.registry.flow_shift)
        yield row("flow_shift", shifts, "by repository; the scheduler's own is not read", rules.registry.source)
    if rules.backend is not None:
        backend_name = env.get(rules.backend.env)
        rule = f"environment: {rules.backend.env}" if backend_name else "default"
        yield row("fp4_backend", backend_name or rules.backend.default, rule, rules.backend.source)
    how = "learned by running its loader" if rules.learned is not None else "read from its code"
    if contract.read:
        yield row("rules", how, f"at {contract.version}")
    else:
        yield row("rules_read_at", list[Json](rules.read_at), f"nobody read {contract.version}")


def resolve_loader(loader: Loader) -> Resolved:
    """Return the assumptions of the harness's own loader. The case states its options, so nothing is inferred."""
    rows = tuple(
        ContractAssumption(field=field, value=value, rule=f"case: loader.{field}", source="harness/definitions/case.py")
        for field, value in loader.model_dump().items()
    )
    return Resolved(
        "harness",
        loader.nibble_order,
        f"loader.nibble_order: {loader.nibble_order}",
        loader.scale_layout,
        f"loader.scale_layout: {loader.scale_layout}",
        rows,
        "harness/definitions/case.py",
    )


def remedies(resolved: Resolved, order: str, layout: str) -> list[str]:
    """Return remedies that make this runtime read the bytes correctly: keys to set, or versions to use.

    Each remedy was tried on the contract: its prediction is right.

    Args:
        resolved: a runtime that misreads the bytes.
        order: nibble order that the bytes prove.
        layout: scale layout that the bytes prove.
    """
    contract, declared = resolved.contract, resolved.declared
    if contract is None or declared is None:
        return []

    def reads_right(rules: Rules, files: Declared) -> bool:
        prediction = predict(rules, files)
        good = not prediction.refused and not prediction.unmodelled and prediction.method == "nvfp4"
        return good and (ORDERS[prediction.swap.on], LAYOUTS[prediction.tiled.on]) == (order, layout)

    sentences = []
    keys = _keys(contract.rules, order, layout)
    # single keys are tried before both, so that the smallest edit that works is suggested
    for chosen in (keys[:1], keys[1:], keys):
        if (
            chosen
            and isinstance(declared.config, Mapping)
            and reads_right(contract.rules, _with(declared, dict(chosen)))
        ):
            sentences.append(", ".join(f"set {key}: {_word(value)}" for key, value in chosen))
            break
    versions = sorted(
        {
            Version(at): reads_right(rules, declared)
            for rules in reversed(rules_of(contract.runtime))
            for at in rules.read_at
        }.items()
    )
    if any(agrees for _, agrees in versions):
        sentences.append(f"use {contract.runtime} {_range(versions)}")
    return sentences


def _keys(rules: Rules, order: str, layout: str) -> list[tuple[str, Any]]:
    swap, tiled = rules.nvfp4.swap_weight_nibbles, rules.nvfp4.swizzled_scales
    keys: list[tuple[str, Any]] = [(swap.config_key, order == "high_first")] if swap.config_key else []
    return keys + ([(tiled.config_key, layout)] if tiled.config_key else [])


def _with(declared: Declared, keys: Mapping[str, Any]) -> Declared:
    """Return the same files with keys set at the top level, and in the section too if only that names the algorithm."""
    body = dict(declared.config)
    section = body.get("quantization")
    if isinstance(section, Mapping) and body.get("quant_algo") is None:
        body["quantization"] = {**section, **keys}
    return replace(declared, config={**body, **keys})


def _word(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _range(versions: list[tuple[Version, bool]]) -> str:
    """Return the versions that read correctly: as a range if they are all at one end, else as a list."""
    good = [version for version, agrees in versions if agrees]
    first = versions.index((good[0], True))
    if all(agrees for _, agrees in versions[first:]):
        return f">={good[0]}"
    last = max(index for index, (_, agrees) in enumerate(versions) if agrees)
    if all(agrees for _, agrees in versions[: last + 1]):
        return f"<={good[-1]}"
    return "==" + " or ==".join(str(version) for version in good)
