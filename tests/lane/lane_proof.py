"""What a record must carry so that its pass is one."""

from __future__ import annotations

from typing import Any

from harness.records.frames import ComparisonEvidence
from harness.records.generation import FloatStats, Generation, Receipts, Trace
from harness.records.limits import LimitCheck

METRIC = {"name": "ssim", "direction": "higher_is_better", "unit": "", "ideal": 1.0, "worst": 1.0, "mean": 1.0}
COMPARISON = ComparisonEvidence.model_validate(
    {
        "bit_exact": True,
        "golden_sha256": "0",
        "candidate_sha256": "0",
        "shape": (1, 16, 16, 3),
        "device": "cpu",
        "metrics": [METRIC],
    }
)
CHECK = LimitCheck(metric="ssim", value=1.0, limit=0.9, direction="higher_is_better", gates=True, passed=True)
GENERATION = Generation(
    clip="c",
    clip_sha256="0",
    shape=(1, 1, 1, 3),
    float_stats=FloatStats(nan=0, inf=0, minimum=0, maximum=1),
    trace=Trace(steps=()),
    receipts=Receipts(modules=()),
)


def evidence_of_a_pass() -> dict[str, Any]:
    """The fields of a record, but for its generation, without which a pass is no pass."""
    return {"golden": "d" * 64, "comparison": COMPARISON, "limits": (CHECK,)}
