"""Operators that stand in for GPU kernels, against independent tables and torch's own layers."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.engine.inside import emulate

FP4 = np.arange(16, dtype=np.uint8).view(ml_dtypes.float4_e2m1fn).astype(np.float32)
"""ml_dtypes' own table of E2M1."""
E4M3 = torch.float8_e4m3fn


def test_the_table_of_codes_is_that_of_ml_dtypes() -> None:
    assert emulate.FP4_VALUES.tolist() == FP4.tolist()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(-6, 6, width=32), min_size=16, max_size=16))
def test_codes_are_rounded_as_ml_dtypes_rounds_them(values: list[float]) -> None:
    row = np.array([*values, 6.0, *[0.0] * 15], dtype=np.float32)
    row[0] = 6.0  # so that the block's scale is 1
    packed, scales = emulate.quantize_fp4(torch.from_numpy(row)[None], torch.ones(()))
    assert scales.view(torch.float8_e4m3fn).float()[0, 0] == 1.0
    codes = torch.stack([packed & 15, packed >> 4], -1).reshape(-1)[:16].numpy().astype(np.uint8)
    wanted = row[:16].astype(ml_dtypes.float4_e2m1fn).view(np.uint8)
    assert FP4[codes].tolist() == FP4[wanted & 15].tolist()


def test_a_product_is_that_of_the_decoded_operands() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(5, 64, generator=generator)
    codes = torch.randint(0, 256, (24, 32), generator=generator, dtype=torch.uint8)
    scales = (torch.rand(24, 4, generator=generator) + 0.5).to(torch.float8_e4m3fn)
    weight = FP4[np.stack([codes.numpy() & 15, codes.numpy() >> 4], -1)].reshape(24, 64)
    weight = weight * np.repeat(scales.float().numpy(), 16, axis=1)
    packed, x_scales = emulate.quantize_fp4(x, torch.tensor(2.0))
    given_x = emulate.unpack_fp4(packed, x_scales.view(E4M3)).numpy()
    assert (given_x * x.numpy()).sum() / np.linalg.norm(given_x) / np.linalg.norm(x.numpy()) > 0.98
    out = emulate.multiply_fp4(
        packed,
        codes.T,
        x_scales.view(E4M3),
        scales.T,
        torch.tensor(0.25),
        torch.float32,
        backend="trtllm",
    )
    assert out.numpy() == pytest.approx(given_x @ weight.T * 0.25, rel=1e-5, abs=1e-4)
    assert emulate.last == [emulate.FP4_PRODUCT]


def test_rows_that_the_runtime_pads_change_nothing() -> None:
    """SGLang pads weights to 128 rows and scales to a multiple of four columns."""
    x = torch.randn(3, 32)
    codes = torch.randint(0, 256, (8, 16), dtype=torch.uint8)
    scales = torch.ones(8, 2).to(torch.float8_e4m3fn)
    packed, x_scales = emulate.quantize_fp4(x, torch.ones(()))
    plain = emulate.multiply_fp4(packed, codes.T, x_scales.view(E4M3), scales.T, torch.ones(()), torch.float32)
    padded = torch.zeros(16, 4).to(torch.float8_e4m3fn)
    padded[:8, :2] = scales
    rows = torch.nn.functional.pad(codes, (0, 0, 0, 8))
    wide = emulate.multiply_fp4(packed, rows.T, x_scales.view(E4M3), padded.T, torch.ones(()), torch.float32)
    assert torch.equal(wide[:, :8], plain)


@pytest.mark.parametrize("static", [True, False])
def test_an_fp8_product_is_near_the_product_of_its_values(static: bool) -> None:
    generator = torch.Generator().manual_seed(1)
    x, weight = torch.randn(2, 3, 32, generator=generator), torch.randn(16, 32, generator=generator)
    scale = weight.abs().max() / 448
    codes = (weight / scale).to(torch.float8_e4m3fn)
    bias = torch.randn(16, generator=generator)
    out = emulate.multiply_fp8(x, codes.T, scale.reshape(1), torch.tensor(0.01) if static else None, bias)
    assert torch.nn.functional.cosine_similarity(out.flatten(), (x @ weight.T + bias).flatten(), 0) > 0.998
    channels = emulate.multiply_fp8(x, codes.T, scale.repeat(16, 1), torch.tensor(0.01) if static else None, bias)
    assert torch.equal(out, channels)


def test_norms_are_torchs() -> None:
    x, scale, shift = (torch.randn(2, 5, 16) for _ in range(3))
    layer = torch.nn.functional.layer_norm(x, (16,), eps=1e-5) * (1 + scale) + shift
    assert torch.allclose(emulate.norm_scale_shift(x, None, None, scale, shift, "layer", 1e-5), layer, atol=1e-5)
    weight = torch.randn(16)
    rms = torch.nn.functional.rms_norm(x, (16,), weight, eps=1e-5) * (1 + scale) + shift
    assert torch.allclose(emulate.norm_scale_shift(x, weight, None, scale, shift, "rms", 1e-5), rms, atol=1e-5)
    gate, residual = torch.randn(2, 5, 16), torch.randn(2, 5, 16)
    modulated, total = emulate.residual_norm_scale_shift(residual, x, gate, None, None, scale, shift, "layer", 1e-5)
    assert torch.allclose(total, residual + x * gate, atol=1e-6)
    wanted = torch.nn.functional.layer_norm(total, (16,), eps=1e-5) * (1 + scale) + shift
    assert torch.allclose(modulated, wanted, atol=1e-5)
    _, plain = emulate.residual_norm_scale_shift(residual, x, None, None, None, scale, shift, "layer", 1e-5)
    assert torch.allclose(plain, residual + x, atol=1e-6)
    assert torch.allclose(emulate.scale_shift(x, scale, shift, 1.0), x * (1 + scale) + shift, atol=1e-6)
