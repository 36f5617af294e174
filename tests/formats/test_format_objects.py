"""Every number format is one object: its parts agree with each other and with independent libraries."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from harness.engine.quantized.linear import StoredTensors
from harness.engine.quantized.native import Choice, linear_class
from harness.formats.codecs import F32
from harness.formats.header import TensorEntry
from harness.formats.nvfp4 import BLOCK
from harness.formats.registry import BUILT_IN, built_in_formats, known_formats
from harness.formats.spec import Format, StoredLinear

DTYPES = {"float8_e4m3fn": "F8_E4M3", "uint8": "U8", "int8": "I8", "float32": "F32"}
ENCODED = [name for name, form in built_in_formats().items() if form.encode is not None]
CODES = {"fp8": "e4m3", "mxfp8": "e4m3", "int8": "int8"}
KINDS = {"fp8": "scalar", "int8": "channel_column"}


def values_of(rows: int = 64, columns: int = 128) -> F32:
    """Random weights whose rows differ in size."""
    random = np.random.default_rng(5)
    sizes = np.exp(random.normal(0, 0.5, (rows, 1)))
    return (random.normal(0, 0.03, (rows, columns)) * sizes).astype(np.float32)


def stored(tensors: Mapping[str, NDArray[Any]], shape: tuple[int, int], form: Format) -> StoredLinear:
    """The tensors of an encoder, as the inspector hands them to a format."""
    data = {name: np.ascontiguousarray(value).tobytes() for name, value in tensors.items()}
    entries = {
        name: TensorEntry(name, DTYPES[value.dtype.name], value.shape, "x", 0, len(data[name]))
        for name, value in tensors.items()
    }
    parts = {name: entry for name, entry in entries.items() if name != "weight"}
    return StoredLinear(
        entries["weight"], parts, shape, np.arange(shape[0]),
        lambda entry, start, length: data[entry.name][start : start + length],
        scale=parts.get("weight_scale"), code=CODES.get(form.name, ""), kind=KINDS.get(form.name, ""),
    )  # fmt: skip


def cosine(left: F32, right: F32) -> float:
    return float((left * right).sum() / np.linalg.norm(left) / np.linalg.norm(right))


@pytest.mark.parametrize("name", ENCODED)
def test_what_a_format_encodes_it_reads_back_and_its_gate_accepts(name: str) -> None:
    form, values = built_in_formats()[name], values_of()
    assert form.encode is not None
    tensors = form.encode(values)
    rows = stored(tensors, values.shape, form)
    decoded = dict(list(form.misread(rows, {}))[:1]) if form.misreadings is not None else form.values(rows)
    right = {reading: cosine(result, values) for reading, result in decoded.items()}
    best = max(right, key=lambda reading: right[reading])
    assert right[best] >= form.gate.cosine
    assert best.startswith(("declared", "low_first", "e4m3", "int8"))


def test_the_nvfp4_encoder_writes_what_modelopt_writes() -> None:
    tensor = pytest.importorskip("modelopt.torch.quantization.qtensor").NVFP4QTensor
    values = values_of()
    encode = built_in_formats()["nvfp4"].encode
    assert encode is not None
    tensors = encode(values)
    packed, scale, outer = tensor.quantize(torch.from_numpy(values), BLOCK)
    assert (packed._quantized_data.numpy() == tensors["weight"]).all()
    assert (scale.view(torch.uint8).numpy() == tensors["weight_scale"].view(np.uint8)).all()
    assert float(outer) == float(tensors["weight_scale_2"])


@pytest.mark.parametrize("name", [name for name in ENCODED if built_in_formats()[name].linear])
def test_a_linear_multiplies_what_the_format_decodes(name: str) -> None:
    form, values = built_in_formats()[name], values_of()
    assert form.encode is not None
    assert form.misreadings is not None
    tensors = form.encode(values)
    declared = next(iter(form.misread(stored(tensors, values.shape, form), {})))
    parts = {
        suffix: torch.from_numpy(array.view(np.uint8)).view(torch.float8_e4m3fn)
        if array.dtype.name == "float8_e4m3fn"
        else torch.from_numpy(array)
        for suffix, array in tensors.items()
    }
    linear = linear_class(name).from_stored(StoredTensors(parts, *values.shape, "x", {}, {}), Choice(None))
    assert declared[0] == "declared"
    assert np.array_equal(linear.dequantized(torch.float32).numpy(), declared[1])
    assert linear.stored_format() == name


def test_every_built_in_format_is_as_the_registry_lists_it() -> None:
    assert list(built_in_formats()) == list(BUILT_IN)
    for name, form in known_formats().items():
        assert not form.runs or form.linear or form.decode, name
        # an 8-bit scale cannot be multiplied by a gain, so such formats bring their own damages or do not run
        assert not form.runs or form.faults, name
