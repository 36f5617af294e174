"""Zeros among block scales: whose fault they are; FP8 scales of a layout that nothing here reads."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.corpus.edit import Edit, quantized
from harness.inspector import inspect_checkpoint
from harness.inspector.measure import exact_nvfp4
from harness.records.inspection import InspectionReport


def severity(report: InspectionReport, code: str) -> list[str]:
    return [item.severity for item in report.findings if item.code == code]


def with_zero(exports: Path, folder: Path, version: str) -> Path:
    """An NVFP4 export with one block scale of zero, by an exporter of this version."""
    edit = Edit(exports / "nvfp4", folder)
    tensors = edit.tensors("transformer")
    tensors[f"{quantized(tensors)[0]}.weight_scale"].view(torch.uint8)[3, 1] = 0
    edit.write("transformer", tensors)
    edit.quantization("transformer", lambda body: body.update(producer={"name": "modelopt", "version": version}))
    return edit.folder


def test_a_zero_where_the_base_has_weights_is_a_fault_of_any_exporter(exports: Path, tmp_path: Path) -> None:
    folder = with_zero(exports, tmp_path / "old", "0.42.0")
    assert severity(inspect_checkpoint(folder, base=exports / "base", digests=False), "block_scale_zero") == ["fault"]


@pytest.mark.parametrize(("version", "said"), [("0.42.0", "warning"), ("0.47.0", "fault"), ("nightly", "warning")])
def test_a_zero_that_nothing_disproves_depends_on_the_exporter(
    exports: Path, tmp_path: Path, version: str, said: str
) -> None:
    report = inspect_checkpoint(with_zero(exports, tmp_path / "made", version), digests=False)
    assert severity(report, "block_scale_zero") == [said]


def test_a_block_that_is_too_small_for_any_scale_is_not_lost() -> None:
    base = np.full((1, 32), 1e-9, np.float32)
    base[0, 16:] = 1.0
    codes, scales = np.zeros((1, 32), np.uint8), np.zeros((1, 2), np.uint8)
    assert exact_nvfp4(base, codes, scales, 1 / 2688).lost == 1


def test_fp8_scales_of_blocks_are_read_and_a_wrong_one_is_a_gain(exports: Path, tmp_path: Path) -> None:
    edit = Edit(exports / "fp8", tmp_path / "made")
    tensors = edit.tensors("transformer")
    name = next(one for one in quantized(tensors) if max(tensors[f"{one}.weight"].shape) > 128)
    rows, columns = tensors[f"{name}.weight"].shape
    right = float(tensors[f"{name}.weight_scale"])
    for factor, codes in ((1.0, []), (2.0, ["fault"])):
        tensors[f"{name}.weight_scale"] = torch.full((-(-rows // 128), -(-columns // 128)), right * factor)
        edit.write("transformer", tensors)
        report = inspect_checkpoint(edit.folder, base=exports / "base", digests=False)
        assert severity(report, "gain") == codes
        assert not severity(report, "scale_shape")
