"""The models that take a picture as they are committed and exported; the exporter against nvidia-modelopt itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tiny import manifest
from tiny.export_variants import EXPORTS, export
from tiny.quantize import quantized_linears
from tiny.tensorfile import read
from tiny.variants import VARIANTS

pytestmark = pytest.mark.filterwarnings("ignore")

_FILE = "diffusion_pytorch_model.safetensors"
#: Committed bytes of one model.
LIMIT = 12_000_000
_FP4 = {"num_bits": (2, 1), "block_sizes": {-1: 16, "type": "dynamic", "scale_bits": (4, 3)}}
_FP8 = {"num_bits": (4, 3), "axis": None}


@pytest.mark.parametrize("name", VARIANTS)
def test_committed_weights_are_as_their_manifest_says_and_small(name: str) -> None:
    folder = VARIANTS[name].weights
    assert manifest.check(folder) == []
    assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) <= LIMIT


@pytest.mark.parametrize("name", EXPORTS)
def test_every_export_is_a_whole_repository(name: str, tmp_path: Path) -> None:
    variant, fmt = EXPORTS[name]
    folder = export(name, tmp_path)
    index = json.loads((folder / "model_index.json").read_text())
    assert (index["_class_name"], index["boundary_ratio"]) == (variant.pipeline, variant.boundary_ratio)
    assert index["expand_timesteps"] is variant.expand_timesteps
    for part in ("vae", "text_encoder", "tokenizer", "scheduler", *variant.experts):
        assert (folder / part).is_dir()
    for expert in variant.experts:
        config = json.loads((folder / expert / "config.json").read_text())
        assert config["in_channels"] == variant.in_channels
        assert ("quantization_config" in config) == (fmt is not None)
        tensors = read(folder / expert / _FILE)
        linears = quantized_linears(read(variant.weights / expert / _FILE))
        wanted = {None: "BF16", "fp8": "F8_E4M3", "nvfp4": "U8"}[fmt]
        assert {tensors[f"{linear}.weight"].dtype for linear in linears} == {wanted}
    assert not list(tmp_path.glob(".*"))


def test_an_unknown_export_is_refused_with_the_known_names(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="known: i2v, i2v-fp8, i2v-nvfp4, ti2v"):
        export("i2v-int4", tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["i2v-nvfp4", "i2v-fp8", "ti2v-nvfp4", "ti2v-fp8"])
def test_repository_bytes_equal_modelopts(name: str, tmp_path: Path) -> None:
    import modelopt.torch.quantization as mtq
    from modelopt.torch.export import export_hf_checkpoint

    from tiny.evaluate_variants import load

    torch.set_num_threads(1)
    variant, fmt = EXPORTS[name]
    pipeline = load(variant, image=variant.pipeline == "WanImageToVideoPipeline")
    amax = json.loads((variant.weights / "calibration.json").read_text())["activation_amax"]
    attributes: dict[str, Any] = _FP4 if fmt == "nvfp4" else _FP8
    inner = f"blocks.[1-{len(variant.kept_blocks) - 2}].*"
    config = {
        "quant_cfg": [
            {"quantizer_name": "*", "enable": False},
            {"quantizer_name": f"{inner}weight_quantizer", "cfg": attributes, "enable": True},
            {"quantizer_name": f"{inner}input_quantizer", "cfg": attributes, "enable": True},
        ],
        "algorithm": "max",
    }

    def once(model: torch.nn.Module) -> None:
        with torch.no_grad():
            latents = torch.zeros(1, variant.in_channels, 1, 8, 12).bfloat16()
            model(latents, torch.tensor([900]), torch.ones(1, 8, 128).bfloat16())

    for expert in variant.experts:
        model = mtq.quantize(getattr(pipeline, expert), config, forward_loop=once)
        for module_name, module in model.named_modules():
            if module_name in amax[expert]:
                module.input_quantizer.amax = torch.tensor(amax[expert][module_name])
    export_hf_checkpoint(pipeline, export_dir=tmp_path / "theirs")
    ours = export(name, tmp_path / "ours")
    for expert in variant.experts:
        theirs = tmp_path / "theirs" / expert
        assert (ours / expert / _FILE).read_bytes() == (theirs / _FILE).read_bytes()
        expected = json.loads((theirs / "config.json").read_text())
        expected.pop("_name_or_path", None)
        assert json.loads((ours / expert / "config.json").read_text()) == expected
