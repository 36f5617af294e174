"""What a peer's rule is."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from harness.frames.clip import Clip


@dataclass(frozen=True)
class PeerResult:
    """What a rule said of a candidate."""

    passed: bool
    measured: dict[str, float] = field(default_factory=dict)
    """Worst value of each quantity that the rule looks at."""


class PeerRule(Protocol):
    """A pass rule of another project."""

    @property
    def name(self) -> str:
        """Project, and which of its rules."""

    @property
    def left_out(self) -> str:
        """What of the rule is not applied here, and why; empty where nothing is."""

    def judge(self, golden: Clip, candidate: Clip) -> PeerResult:
        """Apply the rule to two clips of one shape."""


def frame_quality(golden: Clip, candidate: Clip) -> dict[str, tuple[float, ...]]:
    """SSIM (uniform 7x7), PSNR in dB and mean absolute difference (0..255) of each frame.

    The harness' own pass, which equals scikit-image to 1e-6 (tests/frames/test_kernels.py), saves the hours that
    scikit-image would take over all faults.
    """
    from harness.frames.compare import compare

    evidence = compare(golden, candidate, ["ssim", "psnr", "mad"])
    missing = evidence.not_computed()
    if missing:
        raise ValueError(missing[0].why)
    return {result.name: result.per_frame for result in evidence.metrics}


def key_frames(count: int) -> list[int]:
    """First, middle and last frame, each once."""
    return sorted({0, count // 2, count - 1})
