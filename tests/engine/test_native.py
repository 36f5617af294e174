"""The native products' plumbing, proven on a CPU: an emulated product reads operands as the hardware documents them."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch

from harness.engine.quantized import emulated as ours
from harness.engine.quantized import fp8, native, nvfp4
from harness.engine.quantized.fp8 import Fp8Linear
from harness.engine.quantized.nvfp4 import Nvfp4Linear

torch.set_num_threads(1)
CPU = torch.device("cpu")
BLACKWELL, HOPPER, AMPERE = (10, 0), (9, 0), (8, 0)


def _codes(packed: torch.Tensor) -> np.ndarray[Any, Any]:
    raw = packed.contiguous().view(torch.uint8).numpy()
    both = np.stack([raw & 15, raw >> 4], axis=-1).reshape(raw.shape[0], -1)
    return both.view(ml_dtypes.float4_e2m1fn).astype(np.float32)


def _linear_scales(flat: torch.Tensor, rows: int, columns: int) -> np.ndarray[Any, Any]:
    raw = flat.contiguous().view(torch.uint8).numpy().view(ml_dtypes.float8_e4m3fn).astype(np.float32)
    wide = -(-columns // 4)
    out = np.empty((rows, columns), np.float32)
    for r in range(rows):
        for c in range(columns):
            out[r, c] = raw[((r // 128) * wide + c // 4) * 512 + (r % 32) * 16 + ((r % 128) // 32) * 4 + c % 4]
    return out


def emulated(
    a: torch.Tensor, b: torch.Tensor, *, scale_a: torch.Tensor, scale_b: torch.Tensor, out_dtype: Any
) -> torch.Tensor:
    """What the documentation of the product says, in numpy: b comes transposed, scales swizzled and flat."""
    if a.dtype == torch.float8_e4m3fn:
        left, right = a.float() * scale_a, b.float() * scale_b
        return (left @ right).to(out_dtype)
    assert a.dtype == b.dtype == torch.float4_e2m1fn_x2
    left, right = _codes(a), _codes(b.t())
    for values, scales in ((left, scale_a), (right, scale_b)):
        values *= np.repeat(_linear_scales(scales, values.shape[0], values.shape[1] // 16), 16, axis=1)
    return torch.from_numpy(left @ right.T).to(out_dtype)


def test_the_plumbing_agrees_with_dequantizing() -> None:
    assert native.self_check("fp8", CPU, emulated) < native.CHECK_TOLERANCE
    assert native.self_check("nvfp4", CPU, emulated) < native.CHECK_TOLERANCE


@pytest.mark.parametrize(("rows", "columns"), [(96, 64), (320, 256), (16, 32)])
@pytest.mark.parametrize("form", ["fp8", "nvfp4"])
def test_the_harness_emulates_the_documented_product(form: str, rows: int, columns: int) -> None:
    """Against the oracle above, which reads every nibble and scale by its documented place; fp8 also against torch."""
    x = torch.randn(7, columns, generator=torch.Generator().manual_seed(6)).clamp(-4, 4).to(torch.bfloat16)
    outputs = [_module(form, native.Choice(product), rows, columns)(x) for product in (ours.scaled_mm, emulated)]
    np.testing.assert_array_equal(outputs[0].float().numpy(), outputs[1].float().numpy())
    if form == "fp8":
        torchs = _module(form, native.Choice(native.scaled_mm), rows, columns)(x).float()
        assert (torchs - outputs[0].float()).norm() < 2**-8 * torchs.norm()


def test_emulation_says_so_on_every_device_and_refuses_other_operands() -> None:
    assert native.choose("nvfp4", CPU, "emulate").kernel == "emulated _scaled_mm"
    assert native.self_check("nvfp4", CPU, ours.scaled_mm) < native.CHECK_TOLERANCE
    seen: list[tuple[str, str, str, str]] = []
    module = _module("nvfp4", native.choose("nvfp4", CPU, "emulate"))
    module.register_receipts(lambda *call: seen.append(call))
    module(torch.randn(3, 64))
    assert seen == [("nvfp4", "emulated _scaled_mm", "", "")]
    one = torch.ones(16, 16)
    with pytest.raises(TypeError, match="no product of"):
        ours.scaled_mm(one, one, scale_a=one, scale_b=one, out_dtype=torch.bfloat16)


def test_torchs_own_fp8_product_agrees() -> None:
    assert native.self_check("fp8", CPU, native.scaled_mm) < native.CHECK_TOLERANCE


def _broken(fault: str) -> native.ScaledMM:
    def product(a: torch.Tensor, b: torch.Tensor, **options: Any) -> torch.Tensor:
        if fault == "raises":
            raise RuntimeError("CUBLAS_STATUS_NOT_SUPPORTED\nmore")
        if fault == "nan":
            return emulated(a, b, **options) * float("nan")
        if fault == "nibbles":
            raw = b.t().contiguous().view(torch.uint8)
            b = nvfp4.swap_nibbles(raw).view(torch.float4_e2m1fn_x2).t()
        if fault == "linear scales":
            high, wide = nvfp4.padded_shape(b.shape[1], b.shape[0] * 2 // nvfp4.BLOCK)
            options["scale_b"] = nvfp4.unswizzle(options["scale_b"].view(high, wide), high, wide).flatten()
        if fault == "wordless":
            raise ValueError
        result = emulated(a, b, **options)
        if fault == "small columns":
            result[:, : result.shape[1] // 3] = 0
        if fault == "one token":
            result[-1] = 0
        if fault == "single token" and len(result) == 1:
            result *= 2
        return result * 1.02 if fault == "gain" else result

    return product


FAULTS = ("raises", "wordless", "nan", "nibbles", "linear scales", "gain", "small columns", "one token", "single token")


@pytest.mark.parametrize("fault", FAULTS)
def test_a_wrong_product_is_refused(fault: str) -> None:
    choice = native.decide("nvfp4", BLACKWELL, CPU, _broken(fault))
    assert choice.product is None
    assert "native nvfp4 refused" in choice.note
    assert native.decide("nvfp4", BLACKWELL, CPU, _broken("none")).product is not None


@pytest.mark.parametrize(
    ("form", "capability", "is_native"),
    [
        ("fp8", AMPERE, False),
        ("fp8", (8, 9), True),
        ("fp8", HOPPER, True),
        ("fp8", BLACKWELL, True),
        ("nvfp4", HOPPER, False),
        ("nvfp4", BLACKWELL, True),
        ("nvfp4", (12, 0), True),
    ],
)
def test_which_device_has_what(form: str, capability: tuple[int, int], is_native: bool) -> None:
    choice = native.decide(form, capability, CPU, emulated)
    assert (choice.product is not None) == is_native
    assert bool(choice.note) != is_native


def test_a_cpu_dequantizes_without_a_note() -> None:
    assert native.choose("fp8", CPU, "auto") == native.Choice(None)
    assert native.choose("nvfp4", CPU, "dequantize") == native.Choice(None)


def _weights(form: str, rows: int, columns: int) -> tuple[torch.Tensor, ...]:
    weight = torch.randn(rows, columns, generator=torch.Generator().manual_seed(5)) / columns**0.5
    if form == "fp8":
        scale = fp8.dynamic_scale(weight)
        return fp8.quantize(weight, scale), scale
    ws2 = weight.abs().amax() / (6 * 448)
    return (*nvfp4.quantize(weight, ws2), ws2)


def _module(form: str, choice: native.Choice, rows: int = 96, columns: int = 64) -> Fp8Linear | Nvfp4Linear:
    bias = torch.linspace(-1, 1, rows).to(torch.bfloat16)
    input_scale = torch.tensor(4.0 / (448 if form == "fp8" else 6 * 448))
    kind: Any = Fp8Linear if form == "fp8" else Nvfp4Linear
    module: Fp8Linear | Nvfp4Linear = kind(*_weights(form, rows, columns), input_scale, bias, choice)
    return module


@pytest.mark.parametrize(("form", "tolerance"), [("fp8", 0.05), ("nvfp4", 0.15)])
def test_a_native_linear_is_close_to_the_dequantized_one(form: str, tolerance: float) -> None:
    x = torch.randn(2, 7, 64, generator=torch.Generator().manual_seed(6)).clamp(-4, 4).to(torch.bfloat16)
    seen: list[tuple[str, str, str, str]] = []
    results = []
    for choice in (native.Choice(None), native.Choice(emulated)):
        module = _module(form, choice)
        module.register_receipts(lambda *call: seen.append(call))
        results.append(module(x))
    assert seen == [(form, "dequantize+linear", "", ""), (form, "torch._scaled_mm", "", "")]
    exact, quantized = results
    assert quantized.shape == (2, 7, 96)
    assert quantized.dtype == torch.bfloat16
    error = (quantized.float() - exact.float()).norm() / exact.float().norm()
    assert 0 < error < tolerance


@pytest.mark.parametrize(
    ("form", "rows", "columns"), [("fp8", 90, 64), ("fp8", 96, 72), ("nvfp4", 90, 64), ("nvfp4", 96, 48)]
)
def test_an_odd_shape_is_dequantized_and_said(form: str, rows: int, columns: int) -> None:
    module = _module(form, native.Choice(emulated), rows, columns)
    seen: list[tuple[str, str, str, str]] = []
    module.register_receipts(lambda *call: seen.append(call))
    module(torch.randn(3, columns))
    ((got, kernel, note, fallback),) = seen
    assert (got, kernel, fallback) == (form, "dequantize+linear", "module")
    assert str(rows) in note


@pytest.mark.parametrize(("rows", "fallback"), [(96, "device"), (90, "module")])
def test_a_refused_product_is_the_devices_doing_and_an_odd_shape_is_not(rows: int, fallback: str) -> None:
    module = _module("nvfp4", native.decide("nvfp4", BLACKWELL, CPU, _broken("gain")), rows)
    seen: list[tuple[str, str, str, str]] = []
    module.register_receipts(lambda *call: seen.append(call))
    module(torch.randn(3, 64))
    ((_, kernel, note, whose),) = seen
    assert (kernel, whose) == ("dequantize+linear", fallback)
    assert ("refused: relative error" in note) == (fallback == "device")


def test_fp8_dequantizes_and_clips_as_ml_dtypes_does() -> None:
    x = torch.cat([torch.linspace(-600, 600, 2001), torch.tensor([float("nan")])]).view(1, -1)
    stored = fp8.quantize(x, torch.tensor(0.5))
    clipped = np.clip(x.numpy() / 0.5, -448, 448).astype(ml_dtypes.float8_e4m3fn)
    np.testing.assert_array_equal(stored.float().numpy(), clipped.astype(np.float32))
    rows = torch.rand(1, 1) + 0.5
    np.testing.assert_array_equal(fp8.dequantize(stored, rows).numpy(), clipped.astype(np.float32) * rows.numpy())
