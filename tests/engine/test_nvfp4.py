"""The NVFP4 code against independent ones: ml_dtypes' tables, ModelOpt's quantizer, torchao's swizzle."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.engine.quantized import nvfp4

torch.set_num_threads(1)
sides = st.tuples(st.integers(1, 40), st.integers(1, 6))


def _bytes(rows: int, columns: int, seed: int) -> torch.Tensor:
    return torch.randint(0, 256, (rows, columns), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def test_every_code_means_what_ml_dtypes_says() -> None:
    packed = torch.arange(256, dtype=torch.uint8).reshape(16, 16)
    codes = np.stack([packed.numpy() & 15, packed.numpy() >> 4], axis=-1).reshape(16, 32)
    wanted = codes.astype(np.uint8).view(ml_dtypes.float4_e2m1fn).astype(np.float32)
    np.testing.assert_array_equal(nvfp4.unpack(packed).numpy(), wanted)


@given(sides, st.integers(0, 1000))
def test_swapping_nibbles_twice_changes_nothing(shape: tuple[int, int], seed: int) -> None:
    packed = _bytes(*shape, seed)
    swapped = nvfp4.swap_nibbles(packed)
    assert torch.equal(nvfp4.swap_nibbles(swapped), packed)
    values = nvfp4.unpack(packed)
    assert torch.equal(nvfp4.unpack(swapped)[:, 0::2], values[:, 1::2])


def test_dequantized_weights_are_ml_dtypes_products() -> None:
    packed, raw = _bytes(24, 32, 1), torch.rand(24, 4) * 400 + 0.01
    scale, ws2 = raw.to(torch.float8_e4m3fn), torch.tensor(0.0123)
    low, high = packed.numpy() & 15, packed.numpy() >> 4
    codes = np.stack([low, high], axis=-1).reshape(24, 64).view(ml_dtypes.float4_e2m1fn).astype(np.float64)
    scales = scale.view(torch.uint8).numpy().view(ml_dtypes.float8_e4m3fn).astype(np.float64)
    wanted = codes * np.repeat(scales, 16, axis=1) * float(ws2)
    np.testing.assert_allclose(nvfp4.dequantize(packed, scale, ws2).numpy(), wanted, rtol=3e-7, atol=0)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 300), st.integers(1, 20), st.integers(0, 1000))
def test_the_swizzle_is_torchaos(rows: int, columns: int, seed: int) -> None:
    from torchao.prototype.mx_formats.utils import to_blocked

    scale = _bytes(rows, columns, seed)
    swizzled = nvfp4.swizzle(scale)
    assert swizzled.shape == nvfp4.padded_shape(rows, columns)
    assert torch.equal(swizzled.flatten(), to_blocked(scale).flatten())
    assert torch.equal(nvfp4.unswizzle(swizzled, rows, columns), scale)


def test_a_swizzled_offset_is_the_documented_one() -> None:
    rows, columns = 256, 8
    scale = torch.arange(rows * columns).remainder(251).to(torch.uint8).view(rows, columns)
    flat = nvfp4.swizzle(scale).flatten()
    for r in range(0, rows, 13):
        for c in range(columns):
            tile = (r // 128) * (columns // 4) + c // 4
            assert flat[tile * 512 + (r % 32) * 16 + ((r % 128) // 32) * 4 + c % 4] == scale[r, c]


@pytest.mark.parametrize("scale_of_values", [1e-3, 1.0, 300.0])
def test_quantizing_is_modelopts(scale_of_values: float) -> None:
    from modelopt.torch.quantization.qtensor.nvfp4_tensor import NVFP4QTensor

    x = torch.randn(48, 128, generator=torch.Generator().manual_seed(3)) * scale_of_values
    x[5, 16:32] = 0.0
    global_scale = x.abs().amax() / (6.0 * 448.0)
    packed, scale = nvfp4.quantize(x, global_scale)
    theirs, their_scale, _ = NVFP4QTensor.quantize(x, 16, None, global_scale)
    assert torch.equal(scale.view(torch.uint8), their_scale.view(torch.uint8))
    assert torch.equal(packed, theirs._quantized_data)


def test_quantizing_in_parts_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(50, 64, generator=torch.Generator().manual_seed(4))
    whole = nvfp4.quantize(x, torch.tensor(0.01))
    monkeypatch.setattr(nvfp4, "CHUNK", 7 * 64)
    for one, other in zip(nvfp4.quantize(x, torch.tensor(0.01)), whole, strict=True):
        assert torch.equal(one.view(torch.uint8), other.view(torch.uint8))


@pytest.mark.parametrize(
    ("value", "kept"), [(0.25, 0.0), (0.75, 1.0), (1.25, 1.0), (1.75, 2.0), (2.5, 2.0), (3.5, 4.0), (5, 4)]
)
def test_midpoints_go_to_even(value: float, kept: float) -> None:
    x = torch.full((1, 16), 6.0)  # the 6 fixes the block's scale at 1
    x[0, 1], x[0, 2] = value, -value
    got = nvfp4.dequantize(*nvfp4.quantize(x, torch.tensor(1.0)), torch.tensor(1.0))
    assert got[0, 1] == kept
    assert got[0, 2] == -kept
    assert kept == np.float32(value).astype(ml_dtypes.float4_e2m1fn).astype(np.float32)
