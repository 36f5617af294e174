"""An inspector check: the bias of a Linear has one value per output row."""

from __future__ import annotations

from collections.abc import Iterator

from harness.inspector.checks.registration import check
from harness.inspector.context import Context
from harness.inspector.findings import about
from harness.records.inspection import InspectionFinding
from harness.text import listed


@check("bias_shape", cost="header", codes=("bias_shape_differs",))
def bias_shape(context: Context) -> Iterator[InspectionFinding]:
    """Report biases of another length than the rows of their weight: the load fails, or one value is broadcast."""
    for expert, component in context.experts.items():
        wrong = []
        for name, module in context.modules[expert].items():  # every Linear: its weight, scales and format
            bias = component.tensors.get(f"{name}.bias")
            if bias is not None and bias.shape != (module.shape[0],):
                wrong.append(name)
        if wrong:
            yield about(
                "bias_shape_differs",
                expert,
                f"the bias of {len(wrong)} Linears has not one value per output row ({listed(wrong)}).",
                linears=wrong,
                severity="fault",  # fault and inconclusive decide the outcome; warning and info never do
                next_command="export these Linears again",
            )
