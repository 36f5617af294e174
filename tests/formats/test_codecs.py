"""Decoders agree bit for bit with torch, nvidia-modelopt and torchao, on random and on adversarial tensors."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from harness.formats import codecs
from harness.inspector.measure import exact_fp8, exact_nvfp4

modelopt_tensor = pytest.importorskip("modelopt.torch.quantization.qtensor.nvfp4_tensor")
BYTES = hnp.arrays(np.uint8, st.tuples(st.integers(1, 6), st.sampled_from([8, 16, 64])))
NASTY = st.sampled_from(
    [0.0, -0.0, 1e-30, 2.0**-9, 0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0, 6.0, 448.0, 464.0, 1e4, -5.0]
)
WEIGHTS = hnp.arrays(
    np.float32,
    st.tuples(st.integers(1, 4), st.sampled_from([16, 48, 128])),
    elements=NASTY | st.floats(-10, 10, width=32),
)


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("e4m3", torch.float8_e4m3fn),
        ("e5m2", torch.float8_e5m2),
        ("e4m3_fnuz", torch.float8_e4m3fnuz),
        ("int8", torch.int8),
    ],
)
def test_all_256_codes_are_torchs(name: str, dtype: torch.dtype) -> None:
    reference = torch.arange(256, dtype=torch.uint8).view(dtype).float().numpy()
    np.testing.assert_array_equal(codecs.FP8_TABLES[name], reference)


@given(BYTES)
@settings(deadline=None)
def test_unpack_is_torchaos(packed: np.ndarray) -> None:
    kernels = pytest.importorskip("torchao.prototype.mx_formats.kernels")
    reference = kernels.unpack_uint4(torch.from_numpy(packed)).reshape(packed.shape[0], -1)
    np.testing.assert_array_equal(codecs.unpack_nibbles(packed, "low_first"), reference.numpy())
    values = kernels.f4_unpacked_to_f32(reference).numpy()
    np.testing.assert_array_equal(codecs.E2M1_VALUES[codecs.unpack_nibbles(packed, "low_first")], values)


@given(BYTES, st.sampled_from(["low_first", "high_first"]))
@settings(deadline=None)
def test_pack_inverts_unpack_and_orders_are_each_others_swap(packed: np.ndarray, order: str) -> None:
    codes = codecs.unpack_nibbles(packed, order)  # type: ignore[arg-type]
    np.testing.assert_array_equal(codecs.pack_nibbles(codes, order), packed)  # type: ignore[arg-type]
    swapped = (packed >> 4) | (packed << 4)
    other = "high_first" if order == "low_first" else "low_first"
    np.testing.assert_array_equal(codecs.unpack_nibbles(swapped, other), codes)  # type: ignore[arg-type]


@given(WEIGHTS)
@settings(deadline=None)
def test_encode_e2m1_is_modelopts(values: np.ndarray) -> None:
    reference = modelopt_tensor.NVFP4QTensor._cast_fp4(torch.from_numpy(values.copy())).numpy()
    np.testing.assert_array_equal(codecs.encode_e2m1(values), reference)


def test_ties_go_to_the_even_code_and_what_is_no_number_to_the_largest() -> None:
    values = [0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5, -0.25, -0.75, -0.0, np.inf, -np.inf, np.nan]
    codes = [0, 2, 2, 4, 4, 6, 6, 8, 10, 0, 7, 15, 7]
    assert codecs.encode_e2m1(np.array(values, np.float32)).tolist() == codes
    above = np.nextafter(np.array(values[:7], np.float32), np.float32(9))
    below = np.nextafter(np.array(values[:7], np.float32), np.float32(0))
    assert codecs.encode_e2m1(above).tolist() == [1, 2, 3, 4, 5, 6, 7]
    assert codecs.encode_e2m1(below).tolist() == [0, 1, 2, 3, 4, 5, 6]


def test_the_largest_value_of_each_block() -> None:
    blocks = np.array([[[1, -5, 2], [0, 7, 7]], [[-1, -2, -3], [4, np.nan, 0]]], np.float32)
    np.testing.assert_array_equal(codecs.block_max(blocks), np.array([[2, 7], [-1, np.nan]], np.float32))
    assert codecs.block_max(np.array([[[3, 255, 0]]], np.uint8)).tolist() == [[255]]
    assert codecs.block_max(np.zeros((0, 2, 16), np.float32)).shape == (0, 2)


@given(WEIGHTS)
@settings(deadline=None)
def test_encode_e4m3_is_torchs_after_a_clamp(values: np.ndarray) -> None:
    scaled = values * 50
    reference = torch.from_numpy(scaled).clamp(-448, 448).to(torch.float8_e4m3fn).view(torch.uint8).numpy()
    np.testing.assert_array_equal(codecs.encode_e4m3(scaled), reference)


@given(WEIGHTS)
@settings(deadline=None, max_examples=60)
def test_requantizing_finds_modelopts_own_codes_exact(values: np.ndarray) -> None:
    weight = torch.from_numpy(values).to(torch.bfloat16)
    if not weight.abs().amax() > 1e-3:
        return
    tensor, scale, outer = modelopt_tensor.NVFP4QTensor.quantize(weight, 16)
    codes = codecs.unpack_nibbles(tensor._quantized_data.view(torch.uint8).numpy(), "low_first")
    scales = scale.view(torch.uint8).numpy().reshape(len(values), -1)
    exact = exact_nvfp4(weight.float().numpy(), codes, scales, float(outer))
    assert exact.codes == exact.scales == 1.0
    decoded = codecs.dequantize_nvfp4(codes, codecs.decode_e4m3(scales), float(outer))
    reference = tensor.dequantize(
        dtype=torch.float32, fast=False, scale=scale, double_scale=outer, block_sizes={-1: 16}
    ).numpy()
    np.testing.assert_allclose(decoded, reference, rtol=1e-6, atol=0)


def test_requantizing_sees_a_code_that_moved() -> None:
    random = np.random.default_rng(0)
    weight = random.standard_normal((4, 128)).astype(np.float32)
    outer = float(np.abs(weight).max() / 2688)
    scales = codecs.encode_e4m3((np.abs(weight.reshape(4, -1, 16)).max(2) / (6 * outer)).astype(np.float32))
    stored = np.repeat(codecs.decode_e4m3(scales) * np.float32(outer), 16, axis=1)
    codes = codecs.encode_e2m1(weight / stored)
    assert exact_nvfp4(weight, codes, scales, outer).codes == 1.0
    codes[0, 0] ^= 1
    assert exact_nvfp4(weight, codes, scales, outer).codes < 1.0


def test_both_divisions_of_fp8_are_exact_and_another_base_is_not() -> None:
    random = np.random.default_rng(1)
    weight = torch.from_numpy(random.standard_normal((8, 64)).astype(np.float32)).to(torch.bfloat16)
    scale = weight.abs().amax().float() / 448
    in_f32 = (weight.float() / scale).to(torch.float8_e4m3fn)
    in_bf16 = (weight / scale.to(torch.bfloat16)).to(torch.float8_e4m3fn)
    base, one = weight.float().numpy(), np.asarray(scale).reshape(1, 1)
    for stored in (in_f32, in_bf16):
        assert exact_fp8(base, stored.view(torch.uint8).numpy(), one).codes == 1.0
    assert exact_fp8(base * 1.01, in_f32.view(torch.uint8).numpy(), one).codes < 0.97


@given(st.integers(1, 300), st.integers(1, 40), st.integers(0, 2**31))
@settings(deadline=None, max_examples=30)
def test_swizzle_is_modelopts_and_inverts(rows: int, columns: int, seed: int) -> None:
    from benchmarks.corpus.edit import swizzle

    scales = np.random.default_rng(seed).integers(0, 127, (rows, columns), dtype=np.uint8)
    reference = swizzle(torch.from_numpy(scales).view(torch.float8_e4m3fn)).view(torch.uint8).numpy()
    mine = codecs.swizzle(scales)
    np.testing.assert_array_equal(mine, reference)
    np.testing.assert_array_equal(codecs.unswizzle(mine, rows, columns), scales)
