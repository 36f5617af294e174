"""Limits in an artifact: nobody here measured them, so that they are looked at before they gate."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from harness.errors import GoldenError
from harness.goldens.accept import Acceptance, accept
from harness.goldens.workspace import Workspace
from harness.records.limits import Limit, LimitFile, Sample


def limit(value: float | None, metric: str = "ssim", **more: object) -> Limit:
    return Limit.model_validate(
        {
            "metric": metric,
            "direction": "higher_is_better",
            "gates": value is not None,
            "limit": value,
            "samples": [Sample(value=0.99, run="repeat-1", side="benign")],
            "method": "repeats",
            "why": "" if value is not None else "it tells no control from a healthy run",
            **more,
        }
    )


@pytest.fixture
def arrives(workspace: Workspace, left: Callable, limit_file: Callable, tmp_path: Path) -> Callable[..., Acceptance]:
    """Accept an artifact that brings these limits, in place of the present golden."""

    def build(*limits: Limit, fill: int = 2, loosen: bool = False, golden: str | None = None) -> Acceptance:
        folder = left(fill, limits=limit_file(limits=limits), golden=golden)
        source = folder.rename(tmp_path / f"artifact-{fill}-{loosen}-{len(list(tmp_path.iterdir()))}")
        return accept(workspace, "nvfp4", reason="looked", author="Bob", source=source, loosen_limits=loosen)

    return build


def committed(workspace: Workspace) -> LimitFile:
    return LimitFile.read(workspace.limits("b200", "nvfp4"))


@pytest.mark.parametrize(
    ("new", "message"),
    [
        ((limit(0.5),), "ssim: 0.98 -> 0.5"),
        ((limit(None),), "ssim: 0.98 -> does not gate"),
        ((limit(30.0, "psnr"),), "ssim: no longer measured"),
        ((limit(0.98), limit(None, "psnr")), r"psnr: does not gate \(it tells no control"),
        ((limit(0.99, direction="lower_is_better"),), "ssim: 0.98 -> 0.99"),
    ],
)
def test_limits_that_gate_less_are_refused_and_shown(
    workspace: Workspace, arrives: Callable, new: tuple[Limit, ...], message: str
) -> None:
    first = arrives(limit(0.98), fill=1)
    before = committed(workspace)
    with pytest.raises(GoldenError, match=f"(?s){message}.*--loosen-limits"):
        arrives(*new, golden=first.digest)
    assert committed(workspace) == before
    done = arrives(*new, golden=first.digest, loosen=True)
    taken = committed(workspace)
    assert (taken.golden_digest, taken.author) == (done.digest, "Bob")
    assert taken.reason == "looked (measured elsewhere by Ada: measured)"


def test_a_first_file_that_gates_nothing_is_refused(workspace: Workspace, arrives: Callable) -> None:
    with pytest.raises(GoldenError, match="ssim: does not gate"):
        arrives(limit(None))
    with pytest.raises(GoldenError, match="no metric of the frames has a limit"):
        arrives(limit(None, "trace_velocity_error"))
    assert not workspace.limits("b200", "nvfp4").exists()


def test_limits_that_are_as_strict_come_along_and_are_shown(workspace: Workspace, arrives: Callable) -> None:
    first = arrives(limit(0.98), fill=1)
    assert first.changes == ("ssim: none -> 0.98",)
    done = arrives(limit(0.985), limit(None, "trace_velocity_error"), golden=first.digest)
    assert done.changes == ("ssim: 0.98 -> 0.985", "trace_velocity_error: none -> does not gate")
    assert committed(workspace).reason == "measured"


def test_damaged_committed_limits_are_named(workspace: Workspace, arrives: Callable) -> None:
    first = arrives(limit(0.98), fill=1)
    workspace.limits("b200", "nvfp4").write_text("{")
    with pytest.raises(GoldenError, match="limits cannot be read"):
        arrives(limit(0.98), golden=first.digest)
