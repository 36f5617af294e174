"""Codecs against the libraries that write them, names against the embedded model, and the generated page."""

from __future__ import annotations

from pathlib import Path

import gguf
import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.corpus.written import wan_name
from benchmarks.pages.formats import PAGE, page
from harness.formats.decode import decode_e8m0, decode_gguf, decode_mx4, decode_mx8, decode_nf4
from harness.formats.errors import HeaderError
from harness.formats.file_types import sniff
from harness.formats.gguf_header import read_gguf_header
from harness.formats.names import mixed_prefixes, translate
from harness.formats.registry import built_in_formats

TINY = Path(__file__).parents[2] / "tiny" / "weights"


def embedded() -> list[str]:
    from safetensors import safe_open

    with safe_open(next((TINY / "transformer").glob("*.safetensors")), framework="np") as file:
        return list(file.keys())


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model.", "_orig_mod.", "some.wrapper."])
@pytest.mark.parametrize("wan", [True, False])
def test_every_name_of_the_embedded_model_comes_back(prefix: str, wan: bool) -> None:
    names = embedded()
    naming = translate([prefix + (wan_name(name) if wan else name) for name in names])
    assert sorted(naming.names.values()) == sorted(names)
    assert naming.dialect == ("wan" if wan else "diffusers")
    assert naming.prefix == prefix
    assert not naming.clashes


def test_names_of_two_dialects_are_seen_as_mixed() -> None:
    assert translate(["blocks.0.attn1.to_q.weight", "blocks.1.self_attn.q.weight"]).dialect == "mixed"


def test_exponents_are_those_of_ml_dtypes() -> None:
    data = np.arange(256, dtype=np.uint8)
    assert np.array_equal(decode_e8m0(data), data.view(ml_dtypes.float8_e8m0fnu).astype(np.float32), equal_nan=True)


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=10, deadline=None)
def test_microscaling_is_torchaos(seed: int) -> None:
    from torchao.prototype.mx_formats.mx_tensor import MXTensor

    weight = torch.randn(4, 64, generator=torch.Generator().manual_seed(seed))
    eight = MXTensor.to_mx(weight, torch.float8_e4m3fn, 32)
    scale = eight.scale.view(torch.uint8).numpy().reshape(4, 2)
    own = decode_mx8(eight.qdata.view(torch.uint8).numpy(), scale, "e4m3")
    assert np.array_equal(own, eight.dequantize(torch.float32).numpy())
    four = MXTensor.to_mx(weight, torch.float4_e2m1fn_x2, 32)
    scale = four.scale.view(torch.uint8).numpy().reshape(4, 2)
    own = decode_mx4(four.qdata.view(torch.uint8).numpy().reshape(4, 32), scale, "low_first")
    assert np.array_equal(own, four.dequantize(torch.float32).numpy())


def test_nf4_is_bitsandbytes() -> None:
    bnb = pytest.importorskip("bitsandbytes").functional
    weight = torch.randn(8, 128, generator=torch.Generator().manual_seed(0))
    packed, state = bnb.quantize_4bit(weight, blocksize=64, quant_type="nf4")
    own = decode_nf4(packed.numpy().reshape(-1), state.absmax.numpy(), state.code.tolist(), 64, 128)
    assert np.allclose(own, bnb.dequantize_4bit(packed, state).numpy(), atol=1e-6)


@pytest.mark.parametrize("kind", ["Q8_0", "Q5_0", "Q4_0", "BF16"])
def test_gguf_rows_are_the_librarys(kind: str, tmp_path: Path) -> None:
    values = np.random.default_rng(0).standard_normal((6, 64)).astype(np.float32)
    type_ = gguf.GGMLQuantizationType[kind]
    data = gguf.quants.quantize(values, type_)
    file = tmp_path / "a.gguf"
    writer = gguf.GGUFWriter(file, "wan")
    writer.add_tensor("blocks.0.self_attn.q.weight", data, raw_dtype=type_)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    raw = file.read_bytes()
    header = read_gguf_header("a.gguf", len(raw), lambda start, size: raw[start : start + size])
    entry = header.tensors["blocks.0.self_attn.q.weight"]
    assert entry.shape == (6, 64)
    stored = raw[entry.start : entry.start + entry.nbytes]
    assert stored == data.tobytes()
    if kind != "BF16":
        assert np.array_equal(decode_gguf(stored, kind, 64), gguf.quants.dequantize(data, type_))
    with pytest.raises(HeaderError):
        read_gguf_header("a.gguf", len(raw) - 200, lambda start, size: raw[start : start + size])


@given(st.binary(max_size=400))
def test_any_bytes_are_a_gguf_header_or_a_named_error(data: bytes) -> None:
    raw = b"GGUF\x03\0\0\0" + data
    try:
        read_gguf_header("a.gguf", len(raw), lambda start, size: raw[start : start + size])
    except HeaderError:
        return


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"version https://git-lfs.github.com/spec/v1\n", "lfs_pointer"),
        (b"\n<!DOCTYPE html>", "html_page"),
        (b"Entry not found", "html_page"),
        (b"PK\x03\x04....", "pickle_file"),
        (b"\x80\x02}q", "pickle_file"),
        (bytes(64), "other_file"),
    ],
)
def test_files_that_are_no_weights_are_named(data: bytes, code: str) -> None:
    found = sniff(data)
    assert found is not None
    assert found.code == code


def test_a_safetensors_header_is_nothing_else() -> None:
    assert sniff((64).to_bytes(8, "little") + b'{"a":{}}') is None


def test_the_page_is_current_and_names_every_format() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert text == page(), "python -m benchmarks.pages.formats"
    assert all(item.title in text for item in built_in_formats().values())


PREFIXED = "model.diffusion_model."


def test_names_with_and_without_a_prefix_are_seen_and_translated() -> None:
    stored = [f"{PREFIXED * (number % 2)}{wan_name(name)}" for number, name in enumerate(sorted(embedded()))]
    naming = translate(stored)
    assert set(naming.prefixes) == {"", PREFIXED}
    assert set(naming.names.values()) == set(embedded())


@pytest.mark.parametrize(
    "names",
    [
        [f"{PREFIXED}blocks.0.self_attn.q.weight", f"{PREFIXED}blocks.1.self_attn.q.weight"],
        # torch.compile wraps some modules only
        ["blocks.0._orig_mod.self_attn.q.weight", "blocks.1.self_attn.q.weight"],
        ["_orig_mod.blocks.0.attn1.to_q.weight", "blocks.1.attn1.to_q.weight"],
        # a whole pipeline in one file
        [f"{PREFIXED}blocks.0.self_attn.q.weight", "text_encoders.umt5xxl.blocks.0.attn1.q.weight"],
        [f"{PREFIXED}blocks.0.self_attn.q.weight", "casual_audio_encoder.blocks.0.self_attn.q.weight"],
    ],
)
def test_one_prefix_is_not_mixed(names: list[str]) -> None:
    assert mixed_prefixes(names) == {}
