"""A file whose metrics tell no control from a healthy run is not written: under it any frames would pass."""

from __future__ import annotations

from pathlib import Path

import pytest
from builders import make_limits

from harness.calibrate.apply import apply_again
from harness.calibrate.regenerate import RegenerateError
from harness.frames.compare import describe
from harness.goldens.workspace import Workspace
from harness.limits.edited import placed_again
from harness.limits.file import place_limits
from harness.outcomes import Outcome
from harness.records.limits import LimitFile, Sample


def measured(faulty: float) -> LimitFile:
    """SSIM of runs that stray from .90 to .99, and of the strongest of one fault."""
    samples = [Sample(value=0.9 + 0.01 * index, run=f"r{index}", side="benign", clip=str(index)) for index in range(10)]
    samples.append(Sample(value=faulty, run="noise@1", side="faulty", fault="noise", strength=1.0))
    return make_limits(limits=place_limits([describe("ssim")], {"ssim": samples}), repeats=10)


def test_it_is_refused_with_what_to_do(tmp_path: Path) -> None:
    blind = measured(faulty=0.95)
    assert [limit.gates for limit in blind.limits] == [False]
    with pytest.raises(
        RegenerateError, match=r"(?s)any frames would pass.*ssim cannot see noise.*--controls none"
    ) as it:
        apply_again(Workspace(tmp_path), blind, placed_again(blind, "ann", "why not"), reason="why not")
    assert it.value.outcome is Outcome.INCONCLUSIVE
    assert not (tmp_path / "thresholds").exists()


def test_one_gating_metric_is_enough(tmp_path: Path) -> None:
    seeing = measured(faulty=0.1)
    apply_again(Workspace(tmp_path), seeing, placed_again(seeing, "ann", "again"), reason="again")
    assert (tmp_path / "thresholds" / "cpu" / "one.json").exists()
