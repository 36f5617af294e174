"""What a runtime WILL assume for one checkpoint: defaults, what it infers, what the config says, merged its way."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.checkpoint.contracts.model import Contract, SwitchRule
from harness.definitions.case import Loader
from harness.records.base import Json
from harness.records.inspection import ContractAssumption

if TYPE_CHECKING:
    from harness.checkpoint.index import Component
    from harness.checkpoint.modules import Module


@dataclass(frozen=True)
class Resolved:
    """The assumptions, ready to be held against proven bytes."""

    name: str
    nibble_order: str
    nibble_rule: str
    scale_layout: str
    layout_rule: str
    assumptions: tuple[ContractAssumption, ...]
    source: str = ""
    remedy: str = ""


def signals(modules: Mapping[str, Module]) -> set[str]:
    """What tensor names give away: ``packed_qkv`` and ``comfy_quant``."""
    from harness.checkpoint.modules import PACKED_QKV

    found = {"packed_qkv" for name in modules if PACKED_QKV.match(f"{name}.")}
    return found | {"comfy_quant" for module in modules.values() if module.marked}


def resolve(
    contract: Contract, component: Component, modules: Mapping[str, Module], env: Mapping[str, str]
) -> Resolved:
    """Resolve one contract for one expert."""
    rules, seen = contract.rules, signals(modules)
    swap, nibble_rule = _switch(rules.swap_weight_nibbles, component, seen, "true")
    tiled, layout_rule = _switch(rules.swizzled_scales, component, seen, "swizzled")
    rows: list[ContractAssumption] = []

    def add(field: str, value: Json, rule: str, source: str) -> None:
        rows.append(ContractAssumption(field=field, value=value, rule=rule, source=source))

    order, layout = "high_first" if swap else "low_first", "swizzled" if tiled else "linear"
    add("nibble_order", order, nibble_rule, rules.swap_weight_nibbles.source)
    add("scale_layout", layout, layout_rule, rules.swizzled_scales.source)
    add("missing_nvfp4_scales", rules.missing_nvfp4_scales.policy, "default", rules.missing_nvfp4_scales.source)
    add("missing_fp8_scales", rules.missing_fp8_scales.policy, "default", rules.missing_fp8_scales.source)
    boundary = rules.boundary_ratio
    add("boundary_ratio", boundary, "hard-coded" if isinstance(boundary, float) else f"from {boundary}", "")
    if rules.backend is not None:
        asked = env.get(rules.backend.env)
        rule = f"environment: {rules.backend.env}" if asked else "default"
        add("fp4_backend", asked or rules.backend.default, rule, rules.backend.source)
    if not contract.read:
        add("rules_read_at", list(rules.read_at), f"{contract.version} lies in the same range {rules.versions}", "")
    return Resolved(
        contract.name,
        order,
        nibble_rule,
        layout,
        layout_rule,
        tuple(rows),
        rules.swap_weight_nibbles.source,
        _remedy(contract),
    )


def resolve_loader(loader: Loader) -> Resolved:
    """The harness's own loader, whose options the case states: nothing is inferred and nothing is a silent default."""
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


def _switch(rule: SwitchRule, component: Component, seen: set[str], true_word: str) -> tuple[bool, str]:
    said, why = rule.default, "default, because the config is silent"
    explicit = component.declaration.flag(rule.config_key) if rule.config_key else None
    if explicit is not None:
        said = explicit is True or explicit == true_word
        why = f"config: {rule.config_key}: {str(explicit).lower()}"
    else:
        for key in rule.implied_by:
            implied = component.declaration.flag(key)
            if implied is not None:
                said, why = bool(implied), f"config: {key}: {str(implied).lower()} implies it"
                break
    inferred = sorted(seen & set(rule.inferred_from))
    if rule.merge == "inferred_or_config" and inferred and not said:
        overruled = f", which overrules the config's {rule.config_key}: false" if explicit is not None else ""
        return True, f"inferred from {', '.join(inferred)}{overruled}"
    return said, why


def _remedy(contract: Contract) -> str:
    """Other versions of the same runtime whose default differs, for the sentence's last part."""
    from harness.checkpoint.contracts.model import _file

    mine = contract.rules.swap_weight_nibbles.default
    others = [rules.versions for rules in _file(contract.runtime).rules if rules.swap_weight_nibbles.default != mine]
    return f"{contract.runtime} {others[0]}" if others else ""
