"""Input of all checks: headers, configurations, measured rows. Filled once, then only read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from harness.definitions.case import Loader
from harness.formats.modules import PACKED_QKV, Module
from harness.formats.registry import known_formats
from harness.inspector.contracts import Contract
from harness.inspector.gather import Compared, Sane
from harness.inspector.index import Component
from harness.inspector.measure import Measured
from harness.records.inspection import InspectionFinding


@dataclass(frozen=True)
class Options:
    """Options of the inspection."""

    contracts: tuple[Contract, ...] = ()
    loader: Loader | None = None
    """The harness's own loader options, checked like a contract. ``None``: the harness will not load the checkpoint."""
    env: Mapping[str, str] = field(default_factory=dict)
    full: bool = False
    expected: Mapping[str, str] = field(default_factory=dict)
    """Format each expert must have, from the case."""
    base_given: bool = False


@dataclass(frozen=True)
class Context:
    """One checkpoint, its base, and the data read of both."""

    options: Options
    experts: Mapping[str, Component]
    base: Mapping[str, Component]
    modules: Mapping[str, Mapping[str, Module]]
    base_modules: Mapping[str, Mapping[str, Module]]
    model_index: Mapping[str, Any] | None
    """``None`` if the checkpoint is a single transformer."""
    base_index: Mapping[str, Any] | None
    scheduler: Mapping[str, Any] = field(default_factory=dict)
    """``scheduler_config.json``; empty if absent."""
    scalars: Mapping[str, Mapping[str, tuple[float, ...]]] = field(default_factory=dict)
    """Expert to tensor to the values of every scale scalar (or per-channel vector)."""
    measured: Mapping[str, Mapping[str, Measured]] = field(default_factory=dict)
    compared: Mapping[str, tuple[Compared, ...]] = field(default_factory=dict)
    sanity: Mapping[str, Mapping[str, Sane]] = field(default_factory=dict)
    """Expert to unquantized tensor to its sanity; only for experts without a base."""
    scanned: Mapping[str, Mapping[str, tuple[int, int]]] = field(default_factory=dict)
    """Expert to block-scale tensor to (NaN, zero) counts of a full read."""
    same_experts: bool | None = None
    """Whether both experts hold the same bytes, without a base; ``None``: not compared."""
    reading_findings: tuple[InspectionFinding, ...] = ()

    def quantized(self, expert: str) -> dict[str, Module]:
        """Return the quantized Linears of one expert."""
        return {name: module for name, module in self.modules[expert].items() if module.quantized}

    def dtype_error(self, expert: str) -> bool:
        """Return whether no quantized Linear has the declared format of ModelOpt: then scales cannot be judged."""
        declared = self.experts[expert].declaration.format
        stored = {module.format for module in self.quantized(expert).values()}
        form = known_formats().get(declared or "")
        return form is not None and form.modelopt and bool(stored) and declared not in stored


def declared_reading(component: Component, module: Module) -> tuple[str, str]:
    """Return the reading of a weight with several readings that the checkpoint itself declares.

    Returns:
        ``order/layout`` (such as ``low_first/linear``; ``any`` if a dialect leaves the layout open) and the reason:
        a flag in the configuration, a marker, packed-QKV key names, or the format's rule
        (ModelOpt and compressed-tensors: even column in the low nibble, row-major scales).
    """
    swap = component.declaration.flag("swap_weight_nibbles")
    layout = component.declaration.flag("checkpoint_weight_scale_layout")
    packed = bool(component.declaration.flag("checkpoint_uses_packed_qkv")) or PACKED_QKV.match(f"{module.name}.")
    reasons: list[str] = []
    if isinstance(swap, bool):
        order = "high_first" if swap else "low_first"
        reasons.append(f"swap_weight_nibbles: {str(swap).lower()}")
    elif module.marked or packed:
        order = "high_first"
        reasons.append("comfy_quant marker" if module.marked else "packed QKV")
    else:
        order = "low_first"
        reasons.append(f"{module.dialect} format")
    if isinstance(layout, str):
        reasons.append(f"checkpoint_weight_scale_layout: {layout}")
    else:
        free = module.dialect in ("lightx2v", "torchao")  # their kernels' layouts, which no file states
        layout = "any" if free else "swizzled" if module.marked or packed else "linear"
    return f"{order}/{layout}", ", ".join(reasons)
