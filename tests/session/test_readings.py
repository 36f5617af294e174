"""What an engine multiplied is told from its answer; the engine here is torch, the readings are numpy."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from harness.definitions.case import Loader
from harness.engine.probes import run
from harness.engine.probes.run import feed_alone
from harness.engine.quantized import fp8, native, nvfp4
from harness.engine.quantized.fp8 import Fp8Linear
from harness.engine.quantized.nvfp4 import Nvfp4Linear
from harness.formats import fp8 as fp8_format
from harness.formats import nvfp4 as nvfp4_format
from harness.judge.attribution.weights import best
from harness.judge.observation import read_observation
from harness.records.probe import ObservationIndex
from harness.session.readings import Components, open_experts, read_as

NAME = "blocks.0.attn1.to_q"
Change = Callable[[Nvfp4Linear], None]


def swap(module: Nvfp4Linear) -> None:
    module.weight.copy_(nvfp4.swap_nibbles(module.weight))


def swizzle(module: Nvfp4Linear) -> None:
    raw = module.weight_scale.view(torch.uint8)
    raw.copy_(nvfp4.swizzle(module.weight_scale).view(torch.uint8).flatten()[: raw.numel()].view(raw.shape))


def roll(module: Nvfp4Linear) -> None:
    raw = module.weight_scale.view(torch.uint8)
    raw.copy_(torch.roll(raw.clone(), 1, dims=0))


def gain(module: Nvfp4Linear) -> None:
    module.weight_scale_2.mul_(1.03)


def nonsense(module: Nvfp4Linear) -> None:
    module.weight[-9:] = 0


@pytest.fixture
def checkpoints(tmp_path: Path) -> tuple[Components, Components, dict[str, torch.Tensor]]:
    """Both experts NVFP4 on disk, and their base."""
    generator = torch.Generator().manual_seed(0)
    stored: dict[str, torch.Tensor] = {}
    for expert in ("transformer", "transformer_2"):
        weight = torch.randn((192, 96), generator=generator) * torch.logspace(-1, 1, 192)[:, None]
        outer = weight.abs().amax() / (6 * 448)
        packed, scale = nvfp4.quantize(weight, outer)
        bias = torch.randn(192, generator=generator).to(torch.bfloat16)
        tensors = {"weight": packed, "weight_scale": scale, "weight_scale_2": outer, "bias": bias}
        if expert == "transformer":
            stored = tensors
        for folder, content in (("q", tensors), ("b", {"weight": weight.to(torch.bfloat16), "bias": bias})):
            place = tmp_path / folder / expert
            place.mkdir(parents=True)
            (place / "config.json").write_text("{}")
            named = {f"{NAME}.{key}": value.contiguous() for key, value in content.items()}
            save_file(named, place / "diffusion_pytorch_model.safetensors")
    return open_experts({"model": tmp_path / "q"}), open_experts({"model": tmp_path / "b"}), stored


@torch.no_grad()
@pytest.mark.parametrize(
    ("change", "name"),
    [
        (lambda module: None, "declared"),
        (swap, "nibble_swapped"),
        (swizzle, "scale_swizzled"),
        (roll, "scale_rolled_rows_+1"),
        (gain, "declared"),
        (nonsense, None),
    ],
)
def test_the_reading_that_fits_is_what_was_multiplied(
    checkpoints: tuple[Components, Components, dict[str, torch.Tensor]],
    tmp_path: Path,
    change: Change,
    name: str | None,
) -> None:
    subject, base, stored = checkpoints
    parts = {key: value.clone() for key, value in stored.items()}
    module = Nvfp4Linear(
        parts["weight"], parts["weight_scale"], parts["weight_scale_2"], None, parts["bias"], native.Choice(None)
    )
    change(module)
    holder = torch.nn.ModuleDict()
    holder.add_module("whole", module)
    sizes = {"whole": 0.7}
    sketches, _ = feed_alone(holder, sizes, torch.bfloat16)
    index = ObservationIndex(
        probes=(), points=(), modules={"transformer": (NAME,)}, formats={}, amplitudes={"transformer": {NAME: 0.7}}
    )
    tensors = {"modules.transformer": torch.tensor([sketches["whole"]], dtype=torch.float32)}
    observed = read_observation(run.write(tmp_path / "seen", index, tensors))
    readings = read_as("transformer", NAME, observed, subject, base, Loader())
    found = best(readings)
    assert (found.name if found else None) == name
    if change is gain and found is not None:
        assert found.gain == pytest.approx(1.03, abs=0.002)
    assert {"other_expert", "base", "scale_missing", "scale_inverted"} <= {reading.name for reading in readings}


@torch.no_grad()
def test_a_native_fp8_product_is_explained_with_its_activations_quantized(tmp_path: Path) -> None:
    """torch's own scaled product quantizes activations; without that no reading fits."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn((192, 96), generator=generator)
    scale, input_scale = weight.abs().amax() / 448, torch.tensor(3.0 / 448)
    stored = (weight / scale).to(torch.float8_e4m3fn)
    for expert in ("transformer", "transformer_2"):
        place = tmp_path / expert
        place.mkdir()
        (place / "config.json").write_text("{}")
        content = {"weight": stored, "weight_scale": scale, "input_scale": input_scale}
        named = {f"{NAME}.{key}": value.clone() for key, value in content.items()}
        save_file(named, place / "diffusion_pytorch_model.safetensors")
    module = Fp8Linear(stored, scale, input_scale, None, native.Choice(native.scaled_mm))
    holder = torch.nn.ModuleDict()
    holder.add_module("whole", module)
    sketches, _ = feed_alone(holder, {"whole": 0.7}, torch.bfloat16)
    index = ObservationIndex(
        probes=(), points=(), modules={"transformer": (NAME,)}, formats={}, amplitudes={"transformer": {NAME: 0.7}}
    )
    tensors = {"modules.transformer": torch.tensor([sketches["whole"]], dtype=torch.float32)}
    observed = read_observation(run.write(tmp_path / "seen", index, tensors))
    readings = read_as("transformer", NAME, observed, open_experts({"model": tmp_path}), {}, Loader())
    assert readings[0].name == "declared"
    assert readings[0].error < 0.004


def test_activations_are_quantized_as_the_engine_does() -> None:
    signal = torch.randn((8, 64), generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)
    scale = torch.tensor(2.5 / (6 * 448))
    wanted = nvfp4.dequantize(*nvfp4.quantize(signal, scale), scale).numpy()
    assert (nvfp4_format.round_activations(signal.float().numpy(), float(scale)) == wanted).all()
    whole = torch.tensor(2.5 / 448)
    wanted = fp8.dequantize(fp8.quantize(signal, whole), whole).numpy()
    assert (fp8_format.round_activations(signal.float().numpy(), float(whole)) == wanted).all()
