"""The exporter against nvidia-modelopt itself: same weights, same calibration, same bytes. ModelOpt is loaded once."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from tiny.export import CALIBRATION, EXPERTS, MODELOPT, WEIGHTS, export, quantization_config
from tiny.quantize import ignored
from tiny.tensorfile import read

pytestmark = pytest.mark.filterwarnings("ignore")

_FILE = "diffusion_pytorch_model.safetensors"
_FP4 = {"num_bits": (2, 1), "block_sizes": {-1: 16, "type": "dynamic", "scale_bits": (4, 3)}}
_FP8 = {"num_bits": (4, 3), "axis": None}
_WANTED = re.compile(r"blocks\.[1-4]\.(attn[12]\.to_|ffn\.net)")


@pytest.fixture(scope="module", params=["fp8", "nvfp4"])
def oracle(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Path, dict[str, Any]]:
    """Format, the folder that ModelOpt wrote for the whole pipeline, and ModelOpt's own old-style config."""
    import modelopt.torch.quantization as mtq
    from modelopt.torch.export import export_hf_checkpoint
    from modelopt.torch.export.quant_utils import get_quant_config

    from tiny.evaluate import load

    torch.set_num_threads(1)
    fmt: str = request.param
    pipeline = load(WEIGHTS)
    amax = json.loads(CALIBRATION.read_text())["activation_amax"]
    attributes = _FP4 if fmt == "nvfp4" else _FP8
    config = {
        "quant_cfg": [
            {"quantizer_name": "*", "enable": False},
            {"quantizer_name": "blocks.[1-4].*weight_quantizer", "cfg": attributes, "enable": True},
            {"quantizer_name": "blocks.[1-4].*input_quantizer", "cfg": attributes, "enable": True},
        ],
        "algorithm": "max",
    }
    old: dict[str, Any] = {}
    for expert in EXPERTS:
        model = mtq.quantize(getattr(pipeline, expert), config, forward_loop=_once)
        for name, module in model.named_modules():
            if name in amax[expert]:
                module.input_quantizer.amax = torch.tensor(amax[expert][name])
        assert {n for n, m in model.named_modules() if _WANTED.match(n) and hasattr(m, "weight_quantizer")} == set(
            amax[expert]
        )
        old = get_quant_config(model)
    out = tmp_path_factory.mktemp(fmt)
    export_hf_checkpoint(pipeline, export_dir=out)
    return fmt, out, old


def _once(model: torch.nn.Module) -> None:
    with torch.no_grad():
        model(torch.zeros(1, 16, 1, 8, 12).bfloat16(), torch.tensor([900]), torch.ones(1, 8, 128).bfloat16())


@pytest.mark.parametrize("expert", EXPERTS)
def test_repository_bytes_equal_modelopts(
    oracle: tuple[str, Path, dict[str, Any]], expert: str, tmp_path: Path
) -> None:
    fmt, theirs, _ = oracle
    ours = export(fmt, tmp_path)
    assert (ours / expert / _FILE).read_bytes() == (theirs / expert / _FILE).read_bytes()
    expected = json.loads((theirs / expert / "config.json").read_text())
    expected.pop("_name_or_path")
    assert json.loads((ours / expert / "config.json").read_text()) == expected


def test_override_is_the_primary_experts_bytes(oracle: tuple[str, Path, dict[str, Any]], tmp_path: Path) -> None:
    fmt, theirs, _ = oracle
    ours = export(f"{fmt}-override", tmp_path)
    assert (ours / _FILE).read_bytes() == (theirs / "transformer" / _FILE).read_bytes()
    assert sorted(path.name for path in ours.iterdir()) == ["config.json", _FILE]


def test_old_style_config_is_modelopts(oracle: tuple[str, Path, dict[str, Any]]) -> None:
    fmt, _, old = oracle
    tensors = read(WEIGHTS / "transformer" / _FILE)
    assert fmt in ("fp8", "nvfp4")
    ours = quantization_config("fp8" if fmt == "fp8" else "nvfp4", ignored(tensors), "hf_quant_config.json")
    assert ours == old
    assert ours["producer"]["version"] == MODELOPT


def test_another_calibration_changes_the_bytes(oracle: tuple[str, Path, dict[str, Any]], tmp_path: Path) -> None:
    """The comparison above can fail: one activation amax a little larger is seen."""
    fmt, theirs, _ = oracle
    document = json.loads(CALIBRATION.read_text())
    document["activation_amax"]["transformer"]["blocks.2.ffn.net.2"] *= 1.01
    changed = tmp_path / "calibration.json"
    changed.write_text(json.dumps(document))
    ours = export(fmt, tmp_path, calibration=changed)
    assert (ours / "transformer" / _FILE).read_bytes() != (theirs / "transformer" / _FILE).read_bytes()
    assert (ours / "transformer_2" / _FILE).read_bytes() == (theirs / "transformer_2" / _FILE).read_bytes()
