"""Zeros among block scales: whose fault they are; FP8 scales of a layout that nothing here reads."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.corpus.edit import Edit, quantized
from harness.formats.header import TensorEntry
from harness.inspector import inspect_checkpoint
from harness.inspector.measure import exact_nvfp4
from harness.inspector.sampling import FULL, LOCAL, block_scale_values, scale_windows
from harness.inspector.sources import Meter, open_source
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


@pytest.mark.parametrize(("version", "message"), [("0.42.0", "warning"), ("0.47.0", "fault"), ("nightly", "warning")])
def test_a_zero_that_nothing_disproves_depends_on_the_exporter(
    exports: Path, tmp_path: Path, version: str, message: str
) -> None:
    report = inspect_checkpoint(with_zero(exports, tmp_path / "made", version), digests=False)
    assert severity(report, "block_scale_zero") == [message]


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


def entry(rows: int, columns: int, start: int = 1000) -> TensorEntry:
    return TensorEntry("blocks.0.x.weight_scale", "F8_E4M3", (rows, columns), "a.safetensors", start, rows * columns)


@given(rows=st.integers(1, 40_000), columns=st.integers(1, 2048), limit=st.sampled_from([1 << 8, 1 << 17, 1 << 62]))
def test_windows_of_scales_lie_in_the_tensor_and_keep_the_budget(rows: int, columns: int, limit: int) -> None:
    tensor = entry(rows, columns)
    windows = scale_windows(tensor, limit)
    assert windows == scale_windows(tensor, limit)
    assert windows[0][0] == tensor.start
    assert sum(windows[-1]) == tensor.start + tensor.nbytes
    ends = [start + length for start, length in windows]
    assert all(end <= start for end, (start, _) in zip(ends, windows[1:], strict=False)), "no byte is counted twice"
    total = sum(length for _, length in windows)
    assert total == (tensor.nbytes if tensor.nbytes <= 2 * limit else limit)


def test_other_tensors_have_other_windows() -> None:
    one = entry(6144, 384)
    assert scale_windows(one, LOCAL.scales) != scale_windows(replace(one, name="blocks.1.x.weight_scale"), LOCAL.scales)


@pytest.mark.parametrize("window", [0, 7, 15])
@pytest.mark.parametrize(("byte", "counts"), [(0x7F, (1, 0)), (0xFF, (1, 0)), (0x00, (0, 1)), (0x80, (0, 1))])
def test_a_nan_or_a_zero_is_counted_in_every_window_and_only_there(
    tmp_path: Path, window: int, byte: int, counts: tuple[int, int]
) -> None:
    tensor = entry(6144, 384)
    data = np.full(tensor.start + tensor.nbytes, 0x38, np.uint8)
    windows = scale_windows(tensor, LOCAL.scales)
    data[sum(windows[window]) - 1] = byte
    (tmp_path / tensor.file).write_bytes(data.tobytes())
    source = open_source(tmp_path, Meter())
    assert block_scale_values(source, tensor, windows) == counts
    data[sum(windows[window]) - 1] = 0x38
    outside = sum(windows[3])
    assert outside < windows[4][0]
    data[outside] = byte
    (tmp_path / tensor.file).write_bytes(data.tobytes())
    assert block_scale_values(source, tensor, windows) == (0, 0)
    assert block_scale_values(source, tensor, scale_windows(tensor, FULL.scales)) == counts
