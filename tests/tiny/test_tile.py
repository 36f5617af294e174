"""The tiled model is the embedded model at another size: the same function, the same codes, any bytes of its files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from tiny import tile as tiling
from tiny.tile import EXPERTS, FORMATS, WEIGHTS, Shard, expert_shards, main, tile

WIDE, DEEP = 384, 8


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("tiled")
    for form in FORMATS:
        tile(out, form, WIDE, DEEP, shard_bytes=4 << 20)
    return out


def said_by(folder: Path, expert: str) -> torch.Tensor:
    from diffusers import WanTransformer3DModel

    kind: Any = WanTransformer3DModel
    model = kind.from_pretrained(str(folder), subfolder=expert, torch_dtype=torch.float32, local_files_only=True).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        answer: torch.Tensor = model(
            hidden_states=torch.randn(1, 16, 2, 8, 12, generator=generator),
            timestep=torch.tensor([700]),
            encoder_hidden_states=torch.randn(1, 16, 128, generator=generator),
        ).sample
    return answer


def tensors_of(folder: Path) -> dict[str, torch.Tensor]:
    return {name: value for path in folder.glob("*.safetensors") for name, value in load_file(path).items()}


@pytest.mark.parametrize("expert", EXPERTS)
def test_a_wider_and_deeper_expert_computes_what_the_embedded_one_computes(large: Path, expert: str) -> None:
    answer, wanted = said_by(large / "base", expert), said_by(WEIGHTS, expert)
    # the silent layers add 2^-14 of what a layer adds; without them only the order of float32 sums differs
    assert float((answer - wanted).norm() / wanted.norm()) < 2e-3


def test_it_draws_the_embedded_models_clip(large: Path) -> None:
    from tiny.evaluate import generate, load, prompts

    asked = prompts(1)[0]
    clips = [generate(load(folder), asked.prompt, asked.seed) for folder in (large / "base", WEIGHTS)]
    assert 10 * np.log10(1 / np.mean((clips[0] - clips[1]) ** 2)) > 40


@pytest.mark.parametrize("form", ["fp8", "nvfp4"])
def test_codes_and_scales_stay_what_the_exporter_writes(large: Path, form: str) -> None:
    """Quantizing the large base with the exporter's own rule gives the bytes that tiling wrote."""
    from tiny.quantize import quantize
    from tiny.tensorfile import read

    amax = json.loads(tiling.CALIBRATION.read_text())["activation_amax"]["transformer"]
    every = {f"blocks.{layer}.{rest}": value for layer in range(DEEP) for rest, value in _of_block_one(amax).items()}
    base = {
        name: value for path in (large / "base/transformer").glob("*.safetensors") for name, value in read(path).items()
    }
    wanted = quantize(base, {**every, **amax}, form)  # type: ignore[arg-type]
    written = {
        name: value
        for path in (large / form / "transformer").glob("*.safetensors")
        for name, value in read(path).items()
    }
    assert written.keys() == wanted.keys()
    wrong = [
        name
        for name, tensor in written.items()
        if not name.endswith("input_scale") and tensor.array.tobytes() != wanted[name].array.tobytes()
    ]
    assert not wrong


def _of_block_one(amax: dict[str, float]) -> dict[str, float]:
    return {name.removeprefix("blocks.1."): value for name, value in amax.items() if name.startswith("blocks.1.")}


def test_the_index_names_every_tensor_and_every_file_is_read_by_safetensors(large: Path) -> None:
    for form in FORMATS:
        for expert in EXPERTS:
            folder = large / form / expert
            index = json.loads((folder / "diffusion_pytorch_model.safetensors.index.json").read_text())
            tensors = tensors_of(folder)
            assert index["weight_map"].keys() == tensors.keys()
            assert len(set(index["weight_map"].values())) > 1
            assert index["metadata"]["total_size"] == sum(one.numel() * one.element_size() for one in tensors.values())


def test_a_made_folder_stays_and_one_of_another_size_is_replaced(tmp_path: Path) -> None:
    folder = tile(tmp_path, "nvfp4", 192, 6)
    shard = next((folder / "transformer").glob("*.safetensors"))
    before = shard.stat().st_mtime_ns
    tile(tmp_path, "nvfp4", 192, 6)
    assert shard.stat().st_mtime_ns == before
    tile(tmp_path, "nvfp4", 192, 7)
    assert json.loads((folder / "transformer/config.json").read_text())["num_layers"] == 7
    assert [path.name for path in tmp_path.iterdir()] == ["nvfp4"]


@pytest.mark.parametrize(
    ("width", "layers", "message"), [(200, 6, "nearest is 192"), (576, 6, "nearest"), (192, 5, "6 layers")]
)
def test_sizes_that_cannot_be_made_are_told_in_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], width: int, layers: int, message: str
) -> None:
    assert main(["--out", str(tmp_path), "--width", str(width), "--layers", str(layers), "base"]) == 2
    assert message in capsys.readouterr().err


def test_no_room_on_the_disk_is_told_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="GB free, and the base model needs"):
        tile(tmp_path, "base", 192 << 10, 40)
    assert not list(tmp_path.iterdir())


def test_the_default_size_has_14_8_billion_parameters() -> None:
    pieces = [piece for shard in expert_shards("transformer", "base") for piece in shard.pieces]
    count = sum(piece.nbytes // 2 for piece in pieces)
    assert count == pytest.approx(14.8e9, rel=0.001)


_SHARDS: dict[str, Shard] = {form: expert_shards("transformer", form, WIDE, DEEP)[0] for form in FORMATS}


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(FORMATS), st.data())
def test_any_bytes_of_a_tensor_can_be_computed_alone(form: str, data: st.DataObject) -> None:
    piece = data.draw(st.sampled_from(_SHARDS[form].pieces))
    start = data.draw(st.integers(0, piece.nbytes - 1))
    length = data.draw(st.integers(1, min(piece.nbytes - start, 5000)))
    whole = b"".join(piece.chunks())
    assert len(whole) == piece.nbytes
    assert piece.read(start, length) == whole[start : start + length]
