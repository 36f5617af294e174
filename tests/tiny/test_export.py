"""Exports without ModelOpt: what is where, what a swap means, and how wrong input is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from tiny import manifest
from tiny.blend import blend
from tiny.dequantize import dequantize
from tiny.export import EXPERTS, EXPORTS, WEIGHTS, export
from tiny.quantize import quantize, quantized_linears
from tiny.tensorfile import Tensor, of, read, write

_FILE = "diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def base() -> dict[str, Tensor]:
    return read(WEIGHTS / EXPERTS[0] / _FILE)


def test_committed_weights_are_as_the_manifest_says() -> None:
    assert manifest.check() == []


def test_manifest_sees_a_changed_a_missing_and_an_unlisted_file(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_text(name)
    manifest.write(tmp_path)
    assert manifest.check(tmp_path) == []
    (tmp_path / "a").write_text("x")
    (tmp_path / "b").rename(tmp_path / "c")
    assert [sentence.partition(": ")[2][:10] for sentence in manifest.check(tmp_path)] == [
        "differs fr",
        "listed in ",
        "not listed",
    ]
    assert "missing" in manifest.check(tmp_path / "nowhere")[0]


def test_an_export_of_older_diffusers_has_no_newer_scheduler_keys(tmp_path: Path) -> None:
    older, newer = (
        json.loads((export(name, tmp_path) / "scheduler" / "scheduler_config.json").read_text())
        for name in ("nvfp4-older-diffusers", "nvfp4")
    )
    assert newer.keys() - older.keys() == {"shift_terminal", "sigma_min", "sigma_max"}
    assert older == {key: newer[key] for key in older}


def test_every_export_has_its_files(tmp_path: Path) -> None:
    for name, spec in EXPORTS.items():
        folder = export(name, tmp_path)
        experts = [folder] if spec.override else [folder / expert for expert in EXPERTS]
        for expert in experts:
            config = json.loads((expert / "config.json").read_text())
            if spec.fmt == "bf16":
                assert "quantization_config" not in config
                continue
            assert ("quantization_config" in config) == (spec.style == "config.json")
            assert (expert / "hf_quant_config.json").exists() == (spec.style != "config.json")
            linears = quantized_linears(read(WEIGHTS / EXPERTS[0] / _FILE))
            tensors = read(expert / _FILE)
            assert {tensors[f"{linear}.weight"].dtype for linear in linears} == {
                "U8" if spec.fmt == "nvfp4" else "F8_E4M3"
            }
        assert (folder / "model_index.json").exists() != spec.override
        assert not list(tmp_path.glob(".*"))


def test_preswapped_differs_from_the_override_in_nibbles_only(tmp_path: Path) -> None:
    plain, swapped = (read(export(name, tmp_path) / _FILE) for name in ("nvfp4-override", "nvfp4-preswapped-override"))
    for name, tensor in plain.items():
        other = swapped[name].array
        if tensor.dtype == "U8":
            codes = tensor.array.view(np.uint8)
            assert np.array_equal(other, codes << 4 | codes >> 4)
        else:
            assert tensor.array.tobytes() == other.tobytes()
    configs = [
        (tmp_path / name / "config.json").read_text() for name in ("nvfp4-override", "nvfp4-preswapped-override")
    ]
    assert configs[0] == configs[1]


def test_dequantized_nvfp4_is_near_and_swapped_is_not(base: dict[str, Tensor]) -> None:
    ones = dict.fromkeys(quantized_linears(base), 1.0)
    packed = quantize(base, ones, "nvfp4")
    for order, near in (("low_first", True), ("high_first", False)):
        restored = dequantize(packed, "low_first" if order == "low_first" else "high_first")
        assert restored.keys() == base.keys()
        for linear in ones:
            weight, other = (t[f"{linear}.weight"].float32() for t in (base, restored))
            error = float(np.linalg.norm(other - weight) / np.linalg.norm(weight))
            assert 0.08 < error < 0.11 if near else error > 1.0


def test_uncalibrated_and_unaligned_linears_are_refused(base: dict[str, Tensor]) -> None:
    ones = dict.fromkeys(quantized_linears(base), 1.0)
    with pytest.raises(KeyError, match=r"blocks\.1\.attn1\.to_k"):
        quantize(base, {name: 1.0 for name in ones if name != "blocks.1.attn1.to_k"}, "fp8")
    narrow = {**base, "blocks.1.ffn.net.2.weight": of("BF16", np.ones((192, 40), np.float32))}
    with pytest.raises(ValueError, match=r"blocks\.1\.ffn\.net\.2: 40 inputs are no multiple of 16"):
        quantize(narrow, ones, "nvfp4")
    with pytest.raises(ValueError, match="no export is called 'int4'; known: fp8, nvfp4"):
        export("int4", Path("never-written"))


def test_tensor_files_round_trip_and_refuse_other_dtypes(tmp_path: Path) -> None:
    tensors = {
        "a": of("BF16", np.arange(6, dtype=np.float32).reshape(2, 3)),
        "b": Tensor("F32", np.asarray(np.float32(0.5))),
        "c": of("F8_E4M3", np.arange(4, dtype=np.uint8)),
    }
    write(tmp_path / "x.safetensors", tensors)
    back = read(tmp_path / "x.safetensors")
    assert {n: (t.dtype, t.array.shape, t.array.tobytes()) for n, t in back.items()} == {
        n: (t.dtype, t.array.shape, t.array.tobytes()) for n, t in tensors.items()
    }
    with pytest.raises(TypeError, match="cannot hold float32"):
        Tensor("BF16", np.zeros(2, np.float32))
    from safetensors.numpy import save_file

    save_file({"i": np.zeros(2, np.int64)}, tmp_path / "y.safetensors")
    with pytest.raises(ValueError, match="tensor i is I64"):
        read(tmp_path / "y.safetensors")


def test_blend_is_linear_and_refuses_strangers() -> None:
    low, high = ({"w": of("BF16", np.full(3, value, np.float32))} for value in (1.0, 2.0))
    mixed = blend(low, high, 0.25)["w"].array
    assert mixed.dtype == np.dtype(ml_dtypes.bfloat16)
    assert mixed.astype(np.float32).tolist() == [1.25] * 3
    with pytest.raises(ValueError, match="only one of the two experts has v"):
        blend(low, {**high, "v": high["w"]}, 0.5)


def test_exporting_imports_no_torch(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib, tiny.export; tiny.export.export('fp8-override', pathlib.Path(sys.argv[1]));"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
