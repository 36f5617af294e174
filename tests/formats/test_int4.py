"""Packed integers decode to the values that their own libraries give, or that are computed by hand."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.corpus import published
from harness.formats.config import Declaration
from harness.formats.header import TensorEntry
from harness.formats.int4 import PACKINGS, unpack_words
from harness.formats.modules import Hints, Module, group, without_single_axes
from harness.formats.spec import StoredLinear

DTYPES = {torch.int32: "I32", torch.uint8: "U8", torch.int8: "I8", torch.float32: "F32", torch.float16: "F16",
          torch.bfloat16: "BF16", torch.int64: "I64"}  # fmt: skip
WEIGHT = torch.randn(32, 192, generator=torch.Generator().manual_seed(1)) * 0.02


def entries(tensors: Mapping[str, torch.Tensor]) -> tuple[dict[str, TensorEntry], dict[str, bytes]]:
    """Tensors as a reader sees them, and their bytes by name."""
    raw = {name: value.contiguous().view(torch.uint8).numpy().tobytes() if value.ndim else value.numpy().tobytes()
           for name, value in tensors.items()}  # fmt: skip
    made = {
        name: TensorEntry(name, DTYPES[value.dtype], tuple(value.shape), "f", 0, len(raw[name]))
        for name, value in tensors.items()
    }
    return made, raw


def decoded(tensors: Mapping[str, torch.Tensor], rows: slice = slice(0, 32), hints: Hints | None = None) -> np.ndarray:
    """Rows of the only Linear, decoded by the packing that its tensors show."""
    made, raw = entries(tensors)
    module = only(made, hints)
    stored = StoredLinear(
        weight=module.weight,
        parts=module.parts,
        shape=module.shape,
        rows=np.arange(rows.start, rows.stop),
        read=lambda entry, start, length: raw[entry.name][start : start + length],
        scale=module.scale,
        kind=module.kind,
        block=module.block,
        code=module.code,
        state=module.state,
        packing=module.packing,
    )
    assert module.shape == (32, 192)
    return PACKINGS[module.packing](stored)


def only(made: Mapping[str, TensorEntry], hints: Hints | None = None) -> Module:
    """The only Linear of a file set."""
    (module,) = group(made, hints or Hints()).values()
    return module


def made_by(linear: Any) -> dict[str, torch.Tensor]:
    """The tensors of one Linear ``m`` in a format."""
    tensors = {"m.weight": WEIGHT.clone()}
    linear(tensors, "m", WEIGHT)
    return tensors


@given(st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=8), st.sampled_from([2, 4, 8]))
def test_words_hold_their_codes_lowest_bits_first(values: list[int], bits: int) -> None:
    codes = unpack_words(np.array([values], dtype=np.uint32), bits)[0]
    assert codes.tolist() == [value >> shift & (1 << bits) - 1 for value in values for shift in range(0, 32, bits)]


@pytest.mark.parametrize("rows", [slice(0, 32), slice(5, 11)])
@pytest.mark.parametrize(("bits", "symmetric"), [(4, True), (4, False), (8, True)])
def test_compressed_tensors(bits: int, symmetric: bool, rows: slice) -> None:
    from compressed_tensors.compressors import PackedQuantizationCompressor
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme

    from harness.formats.config import declaration

    args = {"num_bits": bits, "type": "int", "symmetric": symmetric, "strategy": "group", "group_size": 64}
    scheme = QuantizationScheme(targets=["Linear"], weights=QuantizationArgs(**args))
    scale = WEIGHT.reshape(32, -1, 64).abs().amax(2) / (2 ** (bits - 1) - 1)
    state = {"weight": WEIGHT, "weight_scale": scale}
    if not symmetric:
        state["weight_zero_point"] = torch.randint(-3, 4, scale.shape, generator=torch.Generator().manual_seed(2)).to(
            torch.int8
        )
    packed = PackedQuantizationCompressor.compress(dict(state), scheme)
    right = PackedQuantizationCompressor.decompress(dict(packed), scheme)["weight"]
    hints = Hints(declaration({"quant_method": "compressed-tensors", "config_groups": {"a": {"weights": args}}}, "x"))
    own = decoded({f"m.{name}": value for name, value in packed.items()}, rows, hints)
    np.testing.assert_allclose(own, right.float().numpy()[rows], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("rows", [slice(0, 32), slice(14, 19)])
def test_quanto(rows: slice) -> None:
    from optimum.quanto import MaxOptimizer, qint4, quantize_weight

    scale, shift = MaxOptimizer()(WEIGHT, qtype=qint4, axis=0, group_size=64)
    made = quantize_weight(WEIGHT, qtype=qint4, axis=0, scale=scale, shift=shift, group_size=64)
    stored: dict[str, torch.Tensor] = {}
    made.save_to_state_dict(stored, "m.weight.", False)
    names = {"m.weight._data._data": "m.weight", "m.weight._scale": "m.weight_scale"}
    tensors = {names.get(name, "m.weight_zero_point"): value for name, value in stored.items()}
    own = decoded({**tensors, "m.bias": torch.zeros(32)}, rows, Hints(library="quanto"))
    # the library's own unpacking compiles C++ at its first call: its codes from before they were packed are as good
    codes = torch.ops.quanto.quantize_affine(WEIGHT, bits=4, axis=0, group_size=64, scale=scale, shift=shift)
    right = (codes.float() * scale - shift).reshape(WEIGHT.shape).numpy()
    np.testing.assert_allclose(own, right[rows], rtol=1e-5, atol=1e-6)


def test_quantos_linear_without_a_bias_states_no_shape() -> None:
    tensors = {
        "m.weight": torch.zeros(48, 64, dtype=torch.uint8),
        "m.weight_scale": torch.ones(96, 1),
        "m.weight_zero_point": torch.zeros(96, 1),
    }
    assert "states no shape" in only(entries(tensors)[0], Hints(library="quanto")).opaque


@pytest.mark.parametrize("rows", [slice(0, 32), slice(3, 6)])
def test_modelopts_pairs_of_rows(rows: slice) -> None:
    from modelopt.torch.export.quant_utils import pack_int4_in_uint8

    scale = WEIGHT.reshape(32, -1, 64).abs().amax(2) / 7
    codes = (WEIGHT.reshape(32, -1, 64) / scale[..., None]).round().clamp(-8, 7)
    right = (codes * scale[..., None]).reshape(WEIGHT.shape).numpy()
    own = decoded({"m.weight": pack_int4_in_uint8(WEIGHT, scale, 64), "m.weight_scale": scale}, rows)
    np.testing.assert_allclose(own, right[rows], rtol=1e-5, atol=1e-7)


def marked(**fields: Any) -> Hints:
    """Hints of a file set whose Linear has this ``comfy_quant`` marker."""
    return Hints(markers={"m": fields})


def test_comfys_rotated_codes() -> None:
    from comfy_kitchen.backends.eager.convrot_w4a4 import (
        dequantize_convrot_w4a4_weight,
        quantize_convrot_w4a4_weight,
    )

    codes, scale = quantize_convrot_w4a4_weight(WEIGHT, convrot_groupsize=64)
    right = dequantize_convrot_w4a4_weight(codes, scale, convrot_groupsize=64).numpy()
    tensors = {"m.weight": codes, "m.weight_scale": scale.float()}
    own = decoded(tensors, hints=marked(format="convrot_w4a4", convrot_groupsize=64))
    np.testing.assert_allclose(own, right, atol=1e-5)
    assert "fits no such row" in only(entries(tensors)[0], marked(format="convrot_w4a4", convrot_groupsize=100)).opaque


def test_comfys_awq() -> None:
    from comfy_kitchen.tensor import TensorCoreAWQW4A16Layout as Layout

    tensors = made_by(published.comfy_awq)
    tensors.pop("m.comfy_quant")
    params = Layout.Params(
        scale=tensors["m.weight_scale"], zeros=tensors["m.weight_zeros"], group_size=64,
        orig_dtype=torch.float32, orig_shape=(32, 192),
    )  # fmt: skip
    right = Layout.dequantize(tensors["m.weight"], params).numpy()
    np.testing.assert_allclose(decoded(tensors, hints=marked(format="awq_w4a16")), right, atol=1e-6)


def test_comfys_svdquant_is_codes_over_the_smoothing_plus_the_low_rank_part() -> None:
    tensors = made_by(published.comfy_svdquant)
    tensors.pop("m.comfy_quant")
    own = decoded(tensors, hints=marked(format="svdquant_w4a4"))
    assert np.linalg.norm(own - WEIGHT.numpy()) < 0.12 * np.linalg.norm(WEIGHT.numpy())
    low = tensors["m.weight_proj_up"] @ tensors["m.weight_proj_down"].T
    nothing = {**tensors, "m.weight": torch.zeros_like(tensors["m.weight"])}
    np.testing.assert_allclose(decoded(nothing, hints=marked(format="svdquant_w4a4")), low.numpy(), atol=1e-6)


def test_gptq_by_hand() -> None:
    """Row 3 of [N, K] = [32, 192]: its code at column 9 is the second nibble of word 1."""
    words = torch.zeros(24, 32, dtype=torch.int32)
    words[1, 3] = 0xB << 4
    zeros = torch.zeros(3, 4, dtype=torch.int32)
    zeros[0, 0] = 7 << 12  # row 3 is the fourth nibble: stored 7 means 8
    scales = torch.full((3, 32), 0.5, dtype=torch.float16)
    tensors = {"m.qweight": words, "m.qzeros": zeros, "m.scales": scales}
    own = decoded(tensors, slice(2, 5))
    assert own[1, 9] == (11 - 8) * 0.5
    assert own[1, 8] == (0 - 8) * 0.5
    assert own[0, 9] == (0 - 1) * 0.5
    assert own[1, 64] == (0 - 1) * 0.5
    backwards = torch.arange(2, -1, -1, dtype=torch.int32).repeat_interleave(64)
    assert decoded({**tensors, "m.g_idx": backwards}, slice(3, 4))[0, 191] == (0 - 8) * 0.5


def test_gptq_v2_stores_zero_points_as_they_are() -> None:
    from harness.formats.config import declaration

    tensors = made_by(published.gptq())
    hints = Hints(declaration({"quant_method": "gptq", "checkpoint_format": "gptq_v2"}, "config.json"))
    first, second = decoded(tensors), decoded(tensors, hints=hints)
    scale = tensors["m.scales"].float().T.repeat_interleave(64, 1).numpy()
    np.testing.assert_allclose(second - first, scale, rtol=1e-5)


def test_awq_by_hand() -> None:
    """Row 10 is column 2 of the second eight: AWQ puts columns 0, 2, 4, 6, 1, 3, 5, 7 into the nibbles."""
    words = torch.zeros(192, 4, dtype=torch.int32)
    words[100, 1] = 0xD << 4
    zeros = torch.zeros(3, 4, dtype=torch.int32)
    zeros[1, 1] = 0x8 << 4
    scales = torch.full((3, 32), 2.0, dtype=torch.float16)
    own = decoded({"m.qweight": words, "m.qzeros": zeros, "m.scales": scales}, slice(9, 12))
    assert own[1, 100] == (13 - 8) * 2.0
    assert own[1, 101] == -8 * 2.0
    assert own[0, 100] == own[2, 100] == 0


@pytest.mark.parametrize("bits", [2, 3])
def test_other_bits_are_named_and_not_decoded(bits: int) -> None:
    tensors = {
        "m.qweight": torch.zeros(192 * bits // 32, 32, dtype=torch.int32),
        "m.qzeros": torch.zeros(3, bits, dtype=torch.int32),
        "m.scales": torch.ones(3, 32),
    }
    module = only(entries(tensors)[0])
    assert module.format == "int4"
    assert "not known here" in module.opaque


@pytest.mark.parametrize(
    "hints", [marked(format="svdquant_w4a4"), Hints(types={"m": "Int4TilePackedTo4dTensor"}, library="torchao")]
)
def test_tiles_of_a_kernel_are_named_and_not_decoded(hints: Hints) -> None:
    tensors = {"m.weight": torch.zeros(1, 3, 32, 128, dtype=torch.int8), "m.weight_scale": torch.ones(1, 3, 128)}
    module = only(entries(tensors)[0], hints)
    assert module.format == "int4"
    assert "tiles of 4 axes" in module.opaque
    assert module.shape == (1, 12288)


def test_axes_of_length_one_are_no_axes_of_a_scale() -> None:
    def shape(*size: int) -> tuple[int, ...]:
        scale = without_single_axes(TensorEntry("s", "F32", size, "f", 0, 4))
        assert scale is not None
        return scale.shape

    assert shape(192, 3, 1) == (192, 3)
    assert shape(2, 1, 2, 1) == (2, 2)
    assert shape(192, 1, 1) == (192, 1)
    assert shape(192, 1) == (192, 1)
    assert shape() == ()


def test_six_bits_are_told_from_four_by_their_exponents() -> None:
    def form(columns: int, exponents: int) -> str:
        tensors = {
            "m.weight": torch.zeros(128, columns, dtype=torch.uint8),
            "m.weight_scale": torch.zeros(128, exponents, dtype=torch.uint8),
        }
        return only(entries(tensors)[0]).format

    assert form(192 * 6 // 8, 192 // 32) == "mxfp6"
    assert form(192 // 2, 192 // 32) == "mxfp4"
    assert form(5120 * 6 // 8, 160) == "mxfp6"
    assert form(5120 // 2, 160) == "mxfp4"


def of_bytes(names: Mapping[str, tuple[str, tuple[int, ...]]]) -> dict[str, TensorEntry]:
    """Tensors by name from dtype and shape."""
    return {name: TensorEntry(name, dtype, shape, "f", 0, 64) for name, (dtype, shape) in names.items()}


Q = "blocks.1.attn1.to_q"


@pytest.mark.parametrize(
    ("parts", "library"),
    [
        ({"W_q": ("U8", (96, 64)), "scale": ("F16", (288, 1)), "zero": ("F16", (288, 1))}, "HQQ"),
        ({"codes": ("I16", (192, 24, 1)), "codebooks": ("F16", (1, 256, 1, 8)), "scales": ("F16", (192, 1))}, "AQLM"),
        ({"trellis": ("I16", (12, 12, 64)), "suh": ("F16", (192,)), "svh": ("F16", (192,))}, "EXL3"),
        ({"lattice": ("I16", (192, 24))}, "no layout that is known"),
    ],
)
def test_a_linear_in_tensors_of_another_library_is_named(
    parts: dict[str, tuple[str, tuple[int, ...]]], library: str
) -> None:
    tensors = of_bytes({f"{Q}.{name}": item for name, item in parts.items()} | {f"{Q}.bias": ("BF16", (192,))})
    module = group(tensors)[Q]
    assert (module.format, module.quantized) == ("unknown", True)
    assert library in module.opaque


@pytest.mark.parametrize(
    "parts",
    [
        {"bias": ("BF16", (192,))},
        # the weight was lost: its scales alone are no layout
        {"weight_scale": ("F32", ()), "input_scale": ("F32", ()), "bias": ("BF16", (192,))},
        {"comfy_quant": ("U8", (30,))},
    ],
)
def test_a_linear_whose_weight_is_absent_is_none(parts: dict[str, tuple[str, tuple[int, ...]]]) -> None:
    assert group(of_bytes({f"{Q}.{name}": item for name, item in parts.items()})) == {}


@pytest.mark.parametrize(
    ("parts", "type_", "why"),
    [
        ({"weight": ("U8", (192, 96)), "weight_scale": ("BF16", (6, 192))}, "Int4Tensor", "torchao packs it"),
        (
            {"qweight": ("I8", (192, 96)), "wscales": ("BF16", (3, 192)), "proj_down": ("BF16", (192, 32))},
            "",
            "nunchaku",
        ),
        ({"weight": ("U8", (192, 144)), "weight_scale": ("U8", (192, 6))}, "", "6-bit"),
    ],
)
def test_layouts_of_one_kernel_are_named(parts: dict[str, tuple[str, tuple[int, ...]]], type_: str, why: str) -> None:
    tensors = of_bytes({f"{Q}.{name}": item for name, item in parts.items()})
    assert why in group(tensors, Hints(types={Q: type_} if type_ else {}))[Q].opaque


@pytest.mark.parametrize(
    ("state", "why"),
    [
        ({"quant_type": "nf4", "blocksize": 64}, "no usable shape"),
        ({"quant_type": "nf4", "shape": [8, 8]}, "no usable block size"),
        ({"quant_type": "nf4", "blocksize": True, "shape": [8]}, "no usable shape and no usable block size"),
        ({"quant_type": "nf5", "blocksize": 64, "shape": [8, 8]}, "no usable type"),
        ({"quant_type": "fp4", "blocksize": 64, "shape": [8, 8]}, ""),
    ],
)
def test_the_parts_that_a_quant_state_lacks_are_named(state: dict[str, Any], why: str) -> None:
    tensors = of_bytes({f"{Q}.weight": ("U8", (32, 1)), f"{Q}.weight.absmax": ("F32", (1,))})
    module = group(tensors, Hints(states={Q: state}))[Q]
    assert (why in module.opaque) if why else not module.opaque


def test_factors_of_an_adapter_are_no_linears() -> None:
    tensors = of_bytes({f"{Q}.weight": ("BF16", (8, 8)), f"{Q}.lora_A.default.weight": ("BF16", (4, 8))})
    assert list(group(tensors)) == [Q]


@pytest.mark.parametrize(
    ("body", "size"),
    [
        ({"weight_block_size": [128, 128]}, (128, 128)),
        ({"config_groups": {"g": {"weights": {"strategy": "block", "block_structure": [64, 128]}}}}, (64, 128)),
        ({"config_groups": {"g": {"weights": {"strategy": "group", "block_structure": [64, 128]}}}}, None),
        ({"weight_block_size": [128, True]}, None),
        ({"weight_block_size": [0, 128]}, None),
        ({"weight_block_size": "128"}, None),
        ({}, None),
    ],
)
def test_stated_block_sizes(body: dict[str, Any], size: tuple[int, int] | None) -> None:
    assert Declaration("config.json", raw=body).block_size == size


@pytest.mark.parametrize(
    ("dtype", "shape", "declared", "form"),
    [
        ("F8_E8M0", (2, 2), None, "fp8"),
        ("U8", (2, 2), [128, 128], "fp8"),
        ("U8", (2, 2), None, "mxfp8"),  # nothing says that these bytes are a block's exponents: its shape is a fault
        ("U8", (192, 6), [128, 128], "mxfp8"),
        ("F8_E8M0", (192, 6), None, "mxfp8"),
    ],
)
def test_exponents_of_blocks_are_told_from_those_of_32_values(
    dtype: str, shape: tuple[int, int], declared: list[int] | None, form: str
) -> None:
    tensors = of_bytes({f"{Q}.weight": ("F8_E4M3", (192, 192)), f"{Q}.weight_scale_inv": (dtype, shape)})
    hints = Hints(Declaration("config.json", raw={"weight_block_size": declared} if declared else {}))
    assert group(tensors, hints)[Q].format == form


@pytest.mark.parametrize(
    ("method", "dialect"),
    [
        ("compressed-tensors", "compressed-tensors"),
        ("fbgemm_fp8", "fbgemm"),
        ("quark", "quark"),
        ("modelopt", "modelopt"),
    ],
)
def test_a_declared_method_is_the_dialect(method: str, dialect: str) -> None:
    tensors = of_bytes({f"{Q}.weight": ("F8_E4M3", (192, 192)), f"{Q}.weight_scale": ("F32", (192, 1))})
    assert group(tensors, Hints(Declaration("config.json", method)))[Q].dialect == dialect
