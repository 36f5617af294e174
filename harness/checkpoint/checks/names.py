"""Which tensors there are, against the base."""

from __future__ import annotations

from collections.abc import Iterator

from harness.checkpoint.context import Context
from harness.checkpoint.findings import finding, some
from harness.checkpoint.modules import is_scale
from harness.records.inspection import InspectionFinding


def keys_against_base(context: Context) -> Iterator[InspectionFinding]:
    """Every tensor of the base is there, and nothing else but scales."""
    for expert, component in context.experts.items():
        base = context.base.get(expert)
        if base is None or not base.tensors or not component.tensors:
            continue
        renamed = {module.weight.name: f"{name}.weight" for name, module in context.modules[expert].items()}
        mine = {renamed.get(name, name) for name in component.tensors if not is_scale(name)}
        missing = sorted(set(base.tensors) - mine)
        extra = sorted(mine - set(base.tensors))
        if missing:
            yield finding(
                "fault",
                "tensor_missing",
                f"{expert}: {len(missing)} of the base's tensors are absent ({some(missing)}): a runtime fills them.",
                expert=expert,
                tensor=missing[0],
                evidence={"tensors": missing[:20], "count": len(missing)},
            )
        if extra:
            yield finding(
                "fault" if missing else "warning",
                "tensor_unexpected",
                f"{expert}: {len(extra)} tensors have no counterpart in the base ({some(extra)}).",
                expert=expert,
                tensor=extra[0],
                evidence={"tensors": extra[:20], "count": len(extra)},
            )
