"""ModelOpt exports in a diffusers transformer: the right values, nothing missing, nothing left over."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from harness.definitions.case import Loader
from harness.engine.quantized import native, nvfp4
from harness.engine.quantized.build import build_transformer
from harness.engine.quantized.fp8 import Fp8Linear
from harness.engine.quantized.headers import formats_of, read_headers
from harness.engine.quantized.linear import QuantizedLinear
from harness.engine.quantized.nvfp4 import Nvfp4Linear
from harness.errors import CheckpointFaultError

torch.set_num_threads(1)
Tensors = dict[str, torch.Tensor]
SHARD = "diffusion_pytorch_model.safetensors"
LINEAR = "blocks.0.attn1.to_q"
CPU = torch.device("cpu")


def _build(folder: Path, dtype: torch.dtype = torch.bfloat16, **loader: Any) -> tuple[Any, dict[str, str]]:
    return build_transformer(folder, dtype=dtype, device=CPU, loader=Loader(**loader), policy="auto")


def _mutated(source: Path, target: Path, change: Callable[[Tensors], object]) -> Path:
    shutil.copytree(source, target)
    tensors = load_file(target / SHARD)
    change(tensors)
    save_file(tensors, target / SHARD, metadata={"format": "pt"})
    return target


@torch.no_grad()
def _run(model: Any) -> torch.Tensor:
    generator = torch.Generator().manual_seed(2)
    latents = torch.randn(1, 4, 2, 4, 4, generator=generator)
    text = torch.randn(1, 8, 32, generator=generator)
    dtype = model.patch_embedding.weight.dtype
    output: torch.Tensor = model(
        hidden_states=latents.to(dtype),
        timestep=torch.tensor([900]),
        encoder_hidden_states=text.to(dtype),
        return_dict=False,
    )[0]
    return output.float()


@pytest.mark.parametrize("form", ["nvfp4", "fp8"])
def test_quantized_weights_are_modelopts_and_stay_packed(random_wan: Path, form: str) -> None:
    from modelopt.torch.quantization.qtensor import FP8QTensor, NVFP4QTensor

    model, formats = _build(random_wan / form)
    assert set(formats.values()) == {form}
    assert {name for name, module in model.named_modules() if isinstance(module, QuantizedLinear)} == set(formats)
    assert len([name for name in formats if name.startswith("blocks.")]) == 20
    stored = load_file(random_wan / form / SHARD)
    for name in formats:
        module = model.get_submodule(name)
        assert torch.equal(module.weight.view(torch.uint8), stored[f"{name}.weight"].view(torch.uint8))
        weight, scale = stored[f"{name}.weight"], stored[f"{name}.weight_scale"]
        if form == "nvfp4":
            assert isinstance(module, Nvfp4Linear)
            theirs = NVFP4QTensor(torch.Size((module.out_features, module.in_features)), torch.float32, weight)
            wanted = theirs.dequantize(
                scale=scale, double_scale=stored[f"{name}.weight_scale_2"], block_sizes={-1: 16}, dtype=torch.float32
            )
        else:
            assert isinstance(module, Fp8Linear)
            wanted = FP8QTensor(weight.shape, torch.float32, weight).dequantize(scale=scale, block_sizes=None)
        torch.testing.assert_close(module.dequantized(torch.float32), wanted.float(), rtol=1e-6, atol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("form", ["nvfp4", "bf16/transformer"])
def test_every_other_parameter_has_diffusers_dtype_and_value(random_wan: Path, form: str, dtype: torch.dtype) -> None:
    from diffusers import WanTransformer3DModel

    plain = WanTransformer3DModel.from_pretrained(str(random_wan / "bf16" / "transformer"), torch_dtype=dtype)
    wanted = plain.state_dict()
    model, formats = _build(random_wan / form, dtype)
    assert set(model.state_dict()) >= set(wanted)
    buffers = dict(model.named_buffers())
    assert not any(value.is_meta for value in [*model.parameters(), *buffers.values()])
    assert torch.equal(buffers["rope.freqs_cos"], plain.rope.freqs_cos)
    for name, value in model.state_dict().items():
        module, _, part = name.rpartition(".")
        if module in formats and part != "bias":
            continue
        assert value.dtype == wanted[name].dtype, name
        assert torch.equal(value, wanted[name]), name


def test_a_variant_beside_the_standard_file_is_left_alone(random_wan: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(random_wan / "nvfp4", tmp_path / "variant"))
    save_file({"x": torch.zeros(1)}, folder / "diffusion_pytorch_model.fp16.safetensors")
    assert torch.equal(_run(_build(folder)[0]), _run(_build(random_wan / "nvfp4")[0]))


def test_the_output_is_near_the_base(random_wan: Path) -> None:
    base = _run(_build(random_wan / "bf16" / "transformer")[0])
    for form, limit in (("fp8", 0.05), ("nvfp4", 0.2)):
        error = (_run(_build(random_wan / form)[0]) - base).norm() / base.norm()
        assert 0 < error < limit, form


def test_a_preswapped_checkpoint_needs_its_loader_option(random_wan: Path, tmp_path: Path) -> None:
    def swap(tensors: Tensors) -> None:
        for name, tensor in tensors.items():
            if tensor.dtype == torch.uint8:
                tensors[name] = nvfp4.swap_nibbles(tensor)

    swapped = _mutated(random_wan / "nvfp4", tmp_path / "swapped", swap)
    right = _run(_build(random_wan / "nvfp4")[0])
    assert torch.equal(_run(_build(swapped, nibble_order="high_first")[0]), right)
    assert not torch.allclose(_run(_build(swapped)[0]), right, rtol=0.05)
    assert not torch.allclose(_run(_build(random_wan / "nvfp4", nibble_order="high_first")[0]), right, rtol=0.05)


def test_a_swizzled_checkpoint_needs_its_loader_option(random_wan: Path, tmp_path: Path) -> None:
    def swizzle(tensors: Tensors) -> None:
        for name in [name for name in tensors if name.endswith(".weight_scale")]:
            tensors[name] = nvfp4.swizzle(tensors[name])

    swizzled = _mutated(random_wan / "nvfp4", tmp_path / "swizzled", swizzle)
    assert torch.equal(_run(_build(swizzled, scale_layout="swizzled")[0]), _run(_build(random_wan / "nvfp4")[0]))
    for folder, layout in ((swizzled, "linear"), (random_wan / "nvfp4", "swizzled")):
        with pytest.raises(CheckpointFaultError, match="weight_scale") as caught:
            _build(folder, scale_layout=layout)
        assert caught.value.code == "shape_differs"


def _split(folder: Path) -> dict[str, str]:
    tensors = load_file(folder / SHARD)
    (folder / SHARD).unlink()
    names = sorted(tensors)
    placed = {name: f"part-{index % 3}.safetensors" for index, name in enumerate(names)}
    for shard in set(placed.values()):
        save_file({name: tensors[name] for name in names if placed[name] == shard}, folder / shard)
    (folder / f"{SHARD}.index.json").write_text(json.dumps({"weight_map": placed}))
    return placed


def test_shards_are_read_through_their_index(random_wan: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(random_wan / "nvfp4", tmp_path / "sharded"))
    placed = _split(folder)
    # A stale shard beside the index, with a tensor of the same name, must not win.
    save_file({name: torch.zeros(1) for name in placed}, folder / "stale.safetensors")
    assert torch.equal(_run(_build(folder)[0]), _run(_build(random_wan / "nvfp4")[0]))


def _index(folder: Path, change: Callable[[dict[str, str]], object]) -> None:
    path = folder / f"{SHARD}.index.json"
    placed = json.loads(path.read_text())["weight_map"]
    change(placed)
    path.write_text(json.dumps({"weight_map": placed}))


SHARD_FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "shard gone": (lambda folder: (folder / "part-1.safetensors").unlink(), "shard_missing"),
    "shard cut": (lambda folder: (folder / "part-1.safetensors").write_bytes(b"\x20"), "header_invalid"),
    "no index": (lambda folder: (folder / f"{SHARD}.index.json").unlink(), "shard_missing"),
    "index no json": (lambda folder: (folder / f"{SHARD}.index.json").write_text("{"), "index_invalid"),
    "index outside": (lambda folder: _index(folder, lambda m: m.update(x="../part-1.safetensors")), "index_invalid"),
    "index stale": (lambda folder: _index(folder, lambda m: m.update(x="part-1.safetensors")), "index_stale"),
    "tensor unindexed": (lambda folder: _index(folder, lambda m: m.pop("proj_out.weight")), "tensor_missing"),
    "config gone": (lambda folder: (folder / "config.json").unlink(), "config_invalid"),
    "config list": (lambda folder: (folder / "config.json").write_text("[]"), "config_invalid"),
    "class": (
        lambda folder: (folder / "config.json").write_text('{"_class_name": "UNet2DModel"}'),
        "unsupported_layout",
    ),
}


@pytest.mark.parametrize("fault", SHARD_FAULTS)
def test_a_damaged_folder_is_a_checkpoint_fault(random_wan: Path, tmp_path: Path, fault: str) -> None:
    folder = Path(shutil.copytree(random_wan / "nvfp4", tmp_path / "damaged"))
    _split(folder)
    damage, code = SHARD_FAULTS[fault]
    damage(folder)
    with pytest.raises(CheckpointFaultError) as caught:
        _build(folder)
    assert caught.value.code == code
    assert str(folder) in caught.value.place


def _set(name: str, change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Tensors], object]:
    return lambda tensors: tensors.update({name: change(tensors[name]).contiguous()})


TENSOR_FAULTS: dict[str, tuple[str, Callable[[Tensors], object], str]] = {
    "no weight_scale": ("nvfp4", lambda t: t.pop(f"{LINEAR}.weight_scale"), "scale_missing"),
    "no weight_scale_2": ("nvfp4", lambda t: t.pop(f"{LINEAR}.weight_scale_2"), "global_scale_missing"),
    "no input_scale": ("nvfp4", lambda t: t.pop(f"{LINEAR}.input_scale"), "input_scale_missing"),
    "fp8: no weight_scale": ("fp8", lambda t: t.pop(f"{LINEAR}.weight_scale"), "scale_missing"),
    "fp8: no input_scale": ("fp8", lambda t: t.pop(f"{LINEAR}.input_scale"), "input_scale_missing"),
    "no bias": ("nvfp4", lambda t: t.pop(f"{LINEAR}.bias"), "tensor_missing"),
    "no weight": ("nvfp4", lambda t: t.pop(f"{LINEAR}.weight"), "dtype_differs"),
    "no norm": ("nvfp4", lambda t: t.pop("blocks.1.norm2.weight"), "tensor_missing"),
    "extra tensor": ("nvfp4", lambda t: t.update({"blocks.9.x": torch.zeros(2)}), "tensor_unexpected"),
    "svdquant": ("nvfp4", lambda t: t.update({f"{LINEAR}.pre_quant_scale": torch.ones(64)}), "tensor_unexpected"),
    "extra module": (
        "fp8",
        lambda t: t.update({f"blocks.9.x.{k}": t[f"{LINEAR}.{k}"].clone() for k in ("weight", "weight_scale")}),
        "input_scale_missing",
    ),
    "bf16 weight with scales": ("fp8", _set(f"{LINEAR}.weight", lambda w: w.to(torch.bfloat16)), "dtype_differs"),
    "int8 weight": ("fp8", _set(f"{LINEAR}.weight", lambda w: w.view(torch.int8)), "dtype_differs"),
    "fp32 block scales": ("nvfp4", _set(f"{LINEAR}.weight_scale", lambda s: s.float()), "dtype_differs"),
    "cut scales": (
        "nvfp4",
        _set(f"{LINEAR}.weight_scale", lambda s: s.view(torch.uint8)[:, :2].contiguous().view(s.dtype)),
        "shape_differs",
    ),
    "global per row": ("nvfp4", _set(f"{LINEAR}.weight_scale_2", lambda s: s.repeat(64)), "shape_differs"),
    "unpacked width": ("nvfp4", _set(f"{LINEAR}.weight", lambda w: w.repeat(1, 2)), "shape_differs"),
    "fp8 scale of 2": ("fp8", _set(f"{LINEAR}.weight_scale", lambda s: s.repeat(2)), "shape_differs"),
    "short bias": ("fp8", _set(f"{LINEAR}.bias", lambda b: b[:3]), "shape_differs"),
    "norm of another width": ("fp8", _set("blocks.0.norm2.weight", lambda w: w[:3]), "shape_differs"),
}


@pytest.mark.parametrize("fault", TENSOR_FAULTS)
def test_a_wrong_tensor_is_a_checkpoint_fault(random_wan: Path, tmp_path: Path, fault: str) -> None:
    form, change, code = TENSOR_FAULTS[fault]
    folder = _mutated(random_wan / form, tmp_path / "wrong", change)
    with pytest.raises(CheckpointFaultError) as caught:
        _build(folder)
    assert caught.value.code == code
    assert str(folder) in caught.value.place


def test_an_export_with_dynamic_activations_needs_no_input_scale(random_wan: Path, tmp_path: Path) -> None:
    def drop(tensors: Tensors) -> None:
        for name in [name for name in tensors if name.endswith(".input_scale")]:
            del tensors[name]

    folder = _mutated(random_wan / "fp8", tmp_path / "dynamic", drop)
    config = json.loads((folder / "config.json").read_text())
    for group in config["quantization_config"]["config_groups"].values():
        group["input_activations"]["dynamic"] = True
    (folder / "config.json").write_text(json.dumps(config))
    assert torch.equal(_run(_build(folder)[0]), _run(_build(random_wan / "fp8")[0]))


def test_a_product_is_chosen_for_the_device_that_multiplies(random_wan: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[torch.device] = []

    def choose(form: str, device: torch.device, policy: str) -> native.Choice:
        asked.append(device)
        return native.Choice(None)

    monkeypatch.setattr(native, "choose", choose)
    there = torch.device("meta")
    build_transformer(
        random_wan / "fp8", dtype=torch.bfloat16, device=CPU, loader=Loader(), policy="auto", compute=there
    )
    assert asked == [there]


@pytest.mark.parametrize("shape", [(64,), (64, 1), (1,)])
def test_fp8_scales_of_other_writers(random_wan: Path, tmp_path: Path, shape: tuple[int, ...]) -> None:
    change = _set(f"{LINEAR}.weight_scale", lambda s: s.reshape(()).expand(shape))
    folder = _mutated(random_wan / "fp8", tmp_path / "shaped", change)
    assert torch.equal(_run(_build(folder)[0]), _run(_build(random_wan / "fp8")[0]))


def test_the_promise_is_read_from_headers_alone(random_wan: Path) -> None:
    for form in ("nvfp4", "fp8"):
        assert formats_of(read_headers(random_wan / form), {}) == _build(random_wan / form)[1]
    assert formats_of(read_headers(random_wan / "bf16" / "transformer"), {}) == {}
