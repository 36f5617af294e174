"""Formats as their libraries write them: ConvRot's rotation, ggml's blocks, msModelSlim's description, FP8."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.corpus import libraries, written
from benchmarks.corpus.edit import Edit
from harness.formats.codecs import encode_e4m3
from harness.formats.config import described
from harness.formats.decode import decode_gguf, hadamard, is_rotation, rotated_name, rotation_of, undo_rotation
from harness.formats.errors import ConfigError
from harness.formats.evidence import Sums
from harness.inspector import inspect_checkpoint
from harness.inspector.layout import SHARD
from harness.inspector.measure import exact_fp8
from harness.records.inspection import InspectionReport

DRAW = np.random.default_rng(3)


@pytest.mark.parametrize("size", [4, 16, 64, 256])
def test_rotation_is_comfy_kitchens(size: int) -> None:
    from comfy_kitchen.tensor.int8_utils import _build_hadamard, _rotate_weight

    weight = torch.randn(5, size * 3, generator=torch.Generator().manual_seed(1))
    turned = _rotate_weight(weight, _build_hadamard(size), size).numpy()
    assert not np.allclose(turned, weight.numpy(), atol=0.1)
    np.testing.assert_allclose(undo_rotation(turned, size), weight.numpy(), atol=1e-5)


@given(st.integers(-4, 1 << 17))
def test_only_powers_of_four_are_rotations(size: int) -> None:
    powers = {4**power for power in range(1, 9)}
    assert is_rotation(size) == (size in powers)
    if size not in powers:
        with pytest.raises(ValueError, match="power of 4"):
            hadamard(size)


def test_the_name_of_a_reading_gives_its_rotation() -> None:
    assert [rotation_of(name) for name in (rotated_name(64), "int8", "e4m3", "low_first/linear", "")] == [
        64,
        0,
        0,
        0,
        0,
    ]


@pytest.mark.parametrize("kind", ["Q4_0", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_XS"])
def test_ggmls_blocks_decode_to_the_weights(kind: str) -> None:
    weight = (DRAW.standard_normal((3, 512)) * 0.02).astype(np.float32)
    score = Sums.of(decode_gguf(libraries.ggml_quantize(weight, kind).tobytes(), kind, 512), weight).score()
    floor = {"Q2_K": 0.93, "Q3_K": 0.98}.get(kind, 0.99)
    assert score.cosine > floor
    assert abs(score.gain - 1) < 0.05


def test_description_of_msmodelslim() -> None:
    body = {
        "model_quant_type": "W8A8",
        "version": "1",
        "a.weight": "W8A8",
        "a.weight_scale": "W8A8",
        "n.weight": "FLOAT",
    }
    assert described(body) == {
        "quant_method": "modelslim",
        "quant_algo": "W8A8",
        "quantized_layers": {"a": {"quant_algo": "W8A8"}},
    }
    mixed = described({"a.weight": "W8A8", "b.weight": "W8A8_MXFP8"})
    assert mixed["quant_algo"] == "MIXED_PRECISION"
    with pytest.raises(ConfigError, match="no entry names a weight"):
        described({"version": "1"})


def fp8(weight: np.ndarray, scale: float) -> tuple[np.ndarray, np.ndarray]:
    return encode_e4m3((weight / np.float32(scale)).astype(np.float32)), np.array([[scale]], np.float32)


def test_a_scale_that_was_rounded_after_its_codes_explains_them() -> None:
    weight = DRAW.standard_normal((8, 192)).astype(np.float32)
    true = float(np.abs(weight).max() / 448)
    stored = float(torch.tensor(true * 1.003).to(torch.bfloat16))
    codes, _ = fp8(weight, stored * 0.998)
    exact = exact_fp8(weight, codes, np.array([[stored]], np.float32))
    assert exact.codes < 0.99
    assert exact.unrounded > 0.998
    # a scale with more digits than BF16 was not rounded to it, and nothing is searched
    codes, scale = fp8(weight, true)
    assert exact_fp8(weight, codes, scale * np.float32(1.0021)).unrounded < 0.99


@given(st.integers(0, 2**31), st.sampled_from([0.01, 0.05]))
@settings(max_examples=10, deadline=None)
def test_no_rounding_looks_like_other_weights_and_other_weights_do(seed: int, share: float) -> None:
    draw = np.random.default_rng(seed)
    weight = (draw.standard_normal((16, 192)) * 0.02).astype(np.float32)
    scale = np.array([[np.abs(weight).max() / 448]], np.float32)
    table = np.sort(np.unique(torch.arange(256).to(torch.uint8).view(torch.float8_e4m3fn).float().numpy()))
    table = table[np.isfinite(table)]
    value = np.clip(weight / scale, -448, 448)
    above = np.clip(np.searchsorted(table, value), 1, len(table) - 1)
    low, high = table[above - 1], table[above]
    # stochastic rounding: up with a probability that rises with the distance to the lower neighbour
    up = draw.random(value.shape) < (value - low) / (high - low)
    codes = encode_e4m3(np.where(up, high, low).astype(np.float32))
    by_chance = exact_fp8(weight, codes, scale)
    assert by_chance.codes < 0.95
    assert by_chance.near > 0.999
    other = weight + draw.standard_normal(weight.shape).astype(np.float32) * np.float32(weight.std() * share)
    assert 1 - exact_fp8(weight, encode_e4m3(other / scale), scale).near > 0.002


def test_files_per_block_are_parts_of_one_transformer() -> None:
    assert all(SHARD.search(name) for name in ("block_0.safetensors", "x/non_block.safetensors", "a-1-of-2.gguf"))
    assert not any(SHARD.search(name) for name in ("wan_block.gguf", "high.safetensors", "roadblock_1.safetensors"))


@pytest.fixture
def edit(exports: Path, tmp_path: Path) -> Edit:
    """An FP8 export that may be changed."""
    return Edit(exports / "fp8", tmp_path / "made")


def inspected(edit: Edit, based: bool = True) -> InspectionReport:
    return inspect_checkpoint(edit.folder, base=edit.base if based else None, digests=False)


def test_rotated_int8_is_proven_and_without_its_marker_it_is_a_fault(edit: Edit, tmp_path: Path) -> None:
    libraries.comfy(edit, "convrot", 64, single=False)
    right = inspected(edit)
    assert right.outcome == "clean"
    assert {item.encoding for item in right.experts} == {"int8_rotated_64"}
    tensors = edit.tensors("transformer")
    tensors["blocks.2.attn1.to_q.comfy_quant"] = libraries.marker(format="int8_tensorwise")
    edit.write("transformer", tensors)
    (fault,) = [item for item in inspected(edit).findings if item.severity == "fault"]
    assert (fault.code, fault.module) == ("rotation_differs", "blocks.2.attn1.to_q")
    assert '"convrot_groupsize": 64' in fault.next_command
    assert "rotated in groups of 64 columns" in fault.message


def test_a_description_is_read_and_what_contradicts_it_is_a_fault(edit: Edit) -> None:
    libraries.modelslim(edit)
    assert inspected(edit).outcome == "clean"
    (file,) = (edit.folder / "high_noise_model").glob("quant_model_description*.json")
    body = json.loads(file.read_text(encoding="utf-8"))
    body["blocks.2.self_attn.q.weight"] = "FLOAT"
    file.write_text(json.dumps(body), encoding="utf-8")
    report = inspected(edit)
    (fault,) = [item for item in report.findings if item.severity == "fault"]
    assert (fault.code, fault.module) == ("ignore_contradicted", "blocks.2.attn1.to_q")


def test_one_reason_per_linear(edit: Edit) -> None:
    def linear(tensors: dict[str, torch.Tensor], module: str, weight: torch.Tensor) -> None:
        written.int8(True)(tensors, module, weight)
        tensors[f"{module}.weight_scale"][3:5] *= 2

    written.remake(edit, linear)
    findings = [item for item in inspected(edit).findings if item.severity in ("fault", "inconclusive")]
    assert [(item.code, item.expert) for item in findings] == [
        ("row_gain", "transformer"),
        ("row_gain", "transformer_2"),
    ]
    assert findings[0].evidence["rows"] == [3, 4]
    assert findings[0].evidence["count"] == 40


def test_ggufs_of_several_types_are_one_convention(edit: Edit) -> None:
    libraries.gguf(edit, "Q4_K")
    report = inspected(edit)
    assert report.outcome == "clean"
    assert {layer.hypothesis for layer in report.layers if layer.format == "gguf"} == {"Q4_K", "Q5_0"}


def test_nibble_order_is_open_only_where_codes_have_four_bits(exports: Path, edit: Edit) -> None:
    eight = inspected(edit, based=False)
    four = inspect_checkpoint(exports / "nvfp4", digests=False)
    assert not any("nibble order" in line for line in eight.not_done)
    assert any("nibble order" in line for line in four.not_done)


def test_a_packed_weight_counts_its_values_and_not_its_bytes(edit: Edit) -> None:
    eight = inspected(edit, based=False).experts[0].parameters
    written.remake(edit, written.mxfp4)
    assert inspected(edit, based=False).experts[0].parameters == eight


def test_an_expert_that_was_not_read_has_no_precision_to_compare(edit: Edit) -> None:
    edit.own("transformer")
    (shard,) = edit.shards("transformer")
    shard.write_bytes(libraries.DENIED)
    report = inspected(edit)
    assert report.cause == "html_page"
    assert not report.with_code("experts_mixed_precision")
