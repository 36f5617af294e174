"""Right checkpoints and faults of Wan's variants and of converters that change more than the weights.

Each row's right answer was written down before it was run for the first time. ModelOpt's rows are made by ModelOpt.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from safetensors.torch import save_file

from benchmarks.corpus import written
from benchmarks.corpus.edit import Edit, Tensors, quantized
from benchmarks.corpus.exports import EXCLUDED, EXPERTS, calibrate
from benchmarks.corpus.libraries import marker
from benchmarks.corpus.mutations import FP8, Mutation

E5M2 = torch.float8_e5m2


def eight(dtype: torch.dtype = FP8, scale: str = "weight_scale", **fields: Any) -> written.Linear:
    """FP8 with a scale per tensor under the name ``scale``; ``fields``: the Linear's ``comfy_quant`` marker."""

    def change(tensors: Tensors, module: str, weight: torch.Tensor) -> None:
        top = torch.finfo(dtype).max
        factor = weight.abs().max() / top
        tensors[f"{module}.weight"] = (weight / factor).clamp(-top, top).to(dtype)
        tensors[f"{module}.{scale}"] = factor
        if fields:
            tensors[f"{module}.comfy_quant"] = marker(**fields)

    return change


def single(edit: Edit, linear: written.Linear) -> None:
    """Both experts as single files under Wan's names."""
    written.remake(edit, linear)
    written.single_files(edit)


def unit_scales(edit: Edit) -> None:
    """ComfyUI's first FP8 files of Wan2.2: casts whose ``scale_weight`` is 1 everywhere."""

    def change(tensors: Tensors, module: str, weight: torch.Tensor) -> None:
        tensors[f"{module}.weight"] = weight.to(FP8)
        tensors[f"{module}.scale_weight"] = torch.ones(1)

    single(edit, change)


def neighbours(weight: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """FP8 codes of which a part is the value's other neighbour, as learned rounding leaves them."""
    exact = (weight / scale).clamp(-448, 448)
    near = exact.to(FP8)
    bits = near.view(torch.uint8)
    size = (bits & 0x7F).int()
    step = torch.where(exact.abs() > near.float().abs(), 1, -1)
    other = ((bits & 0x80) | (size + step).clamp(0, 0x7E).to(torch.uint8)).view(FP8)
    close = (exact - other.float()).abs() < 1.8 * (exact - near.float()).abs()
    drawn = torch.rand(weight.shape, generator=torch.Generator().manual_seed(0)) < 0.6
    return torch.where(drawn & close, other.view(torch.uint8), bits).view(FP8)


def learned_rounding(tensors: Tensors, module: str, weight: torch.Tensor) -> None:
    """convert_to_quant's learned rounding: scales of max calibration, codes that are not the nearest."""
    scale = weight.abs().max() / 448
    tensors[f"{module}.weight"], tensors[f"{module}.weight_scale"] = neighbours(weight, scale), scale
    tensors[f"{module}.comfy_quant"] = marker(format="float8_e4m3fn")


def corrected_biases(factor: float) -> written.Linear:
    """FP8 per row, and biases moved by ``factor`` times the mean error of the codes (convert_to_quant)."""

    def change(tensors: Tensors, module: str, weight: torch.Tensor) -> None:
        scale = (weight.abs().amax(1) / 448).clamp(min=1e-12)
        codes = (weight / scale[:, None]).clamp(-448, 448).to(FP8)
        inputs = torch.randn(64, weight.shape[1], generator=torch.Generator().manual_seed(1))
        error = (inputs @ (weight - codes.float() * scale[:, None]).T).mean(0)
        bias = tensors[f"{module}.bias"]
        tensors[f"{module}.bias"] = (bias.float() + factor * error).to(bias.dtype)
        tensors[f"{module}.weight"], tensors[f"{module}.weight_scale"] = codes, scale
        tensors[f"{module}.comfy_quant"] = marker(format="float8_e4m3fn_rowwise")

    return change


def hybrid_mxfp8(tensors: Tensors, module: str, weight: torch.Tensor) -> None:
    """MXFP8 with a further scale per tensor for cards without microscaling (convert_to_quant's hybrid files)."""
    written.mxfp8()(tensors, module, weight)
    tensors[f"{module}.weight_scalar"] = weight.abs().max() / 448


def animate(edit: Edit) -> None:
    """Wan2.2-Animate, scaled FP8: pose, face and motion parts beside the blocks; the face adapter is quantized too."""
    single(edit, eight(scale="scale_weight"))
    generator = torch.Generator().manual_seed(2)
    extra: Tensors = {
        "pose_patch_embedding.weight": torch.randn(192, 16, 1, 2, 2, generator=generator).bfloat16(),
        "motion_encoder.enc.fc.0.weight": torch.randn(16, 16, generator=generator),
        "face_encoder.out_proj.weight": torch.randn(192, 16, generator=generator).bfloat16(),
    }
    name = "face_adapter.fuser_blocks.0.linear1_q"
    eight(scale="scale_weight")(extra, name, torch.randn(192, 192, generator=generator))
    for file in edit.folder.glob("*.safetensors"):
        with_parts(file, extra)


def with_parts(file: Any, extra: Tensors) -> None:
    """Add tensors to one safetensors file."""
    from safetensors.torch import load_file

    save_file({name: value.contiguous().clone() for name, value in (load_file(file) | extra).items()}, file)


def modelopt(recipe: str) -> Callable[[Edit], None]:
    """Both experts by ModelOpt's own preset and exporter, with Wan's exclusions."""

    def make(edit: Edit) -> None:
        import modelopt.torch.quantization as mtq
        from diffusers import WanTransformer3DModel
        from modelopt.torch.export import export_hf_checkpoint

        config: dict[str, Any] = copy.deepcopy(dict(getattr(mtq, recipe)))
        config["quant_cfg"] = [
            *({**item, "quantizer_name": item["quantizer_name"].replace("*", "*blocks.*", 1)} if "cfg" in item else item
              for item in config["quant_cfg"]),
            *({"quantizer_name": f"*{name}*", "enable": False} for name in EXCLUDED),
        ]  # fmt: skip
        for expert in EXPERTS:
            model = WanTransformer3DModel.from_pretrained(  # type: ignore[no-untyped-call]
                edit.base / expert, torch_dtype=torch.bfloat16
            )
            mtq.quantize(model, config, calibrate)
            place = edit.own(expert)
            for old in place.iterdir():
                old.unlink()
            export_hf_checkpoint(model, export_dir=place)

    return make


def compressed_in_memory(edit: Edit) -> None:
    """ModelOpt's ``mtq.compress``, saved by Diffusers: ``weight_quantizer._scale`` and ``_amax`` beside FP8 codes."""
    import modelopt.torch.quantization as mtq

    def change(tensors: Tensors, module: str, weight: torch.Tensor) -> None:
        own = torch.nn.Sequential(torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False)).to(torch.bfloat16)
        own[0].weight.data = weight.to(torch.bfloat16)
        inputs = torch.randn(4, weight.shape[1], generator=torch.Generator().manual_seed(3)).to(torch.bfloat16)
        mtq.quantize(own, mtq.FP8_DEFAULT_CFG, lambda model: model(inputs))
        mtq.compress(own)
        tensors |= {f"{module}.{name.removeprefix('0.')}": value for name, value in own.state_dict().items()}

    written.remake(edit, change, {"quant_method": "modelopt", "quant_type": "FP8", "modules_to_not_convert": []})


def fake_quantized(edit: Edit) -> None:
    """A model under ModelOpt's fake quantization, saved in BF16 with the quantizers' ``_amax``."""

    def change(tensors: Tensors, module: str, weight: torch.Tensor) -> None:
        tensors[f"{module}.weight_quantizer._amax"] = weight.abs().max()
        tensors[f"{module}.input_quantizer._amax"] = torch.tensor(2.0)

    written.remake(edit, change)


# Faults.


def marked_e4m3(edit: Edit, strength: str) -> None:
    """E5M2 codes whose markers state E4M3."""
    single(edit, eight(E5M2, format="float8_e4m3fn"))


def far_biases(edit: Edit, strength: str) -> None:
    """Biases that moved by far more than the codes' error."""
    single(edit, corrected_biases(30.0))


def two_scales(edit: Edit, strength: str) -> None:
    """``weight_scale`` and ``scale_weight`` beside one weight, of which the second is twice the first."""

    def change(tensors: Tensors, module: str, weight: torch.Tensor) -> None:
        eight()(tensors, module, weight)
        tensors[f"{module}.scale_weight"] = tensors[f"{module}.weight_scale"] * 2

    single(edit, change)


def same_scale_twice(edit: Edit) -> None:
    """``weight_scale`` and ``scale_weight`` beside one weight, equal: a file for loaders of either name."""

    def change(tensors: Tensors, module: str, weight: torch.Tensor) -> None:
        eight()(tensors, module, weight)
        tensors[f"{module}.scale_weight"] = tensors[f"{module}.weight_scale"].clone()

    single(edit, change)


def plain_bytes(edit: Edit, strength: str) -> None:
    """FP8 codes saved as U8, and declared FP8."""

    def change(tensors: Tensors, module: str, weight: torch.Tensor) -> None:
        eight()(tensors, module, weight)
        tensors[f"{module}.weight"] = tensors[f"{module}.weight"].view(torch.uint8)

    body = {"quant_method": "modelopt", "quant_algo": "W8A16_FP8", "ignore": written.kept(edit)}
    written.remake(edit, change, body)


def other_state(**changed: Any) -> Mutation:
    """bitsandbytes' NF4 whose ``quant_state`` has other values."""

    def mutate(edit: Edit, strength: str) -> None:
        import json

        def change(tensors: Tensors, module: str, weight: torch.Tensor) -> None:
            written.nf4()(tensors, module, weight)
            name = next(item for item in tensors if item.startswith(f"{module}.weight.quant_state"))
            tensors[name] = marker(**{**json.loads(bytes(tensors[name].tolist())), **changed})

        written.remake(edit, change, written.BITSANDBYTES)

    return mutate


def declared_eight_bits(edit: Edit, strength: str) -> None:
    """NF4 weights under a configuration that says LLM.int8."""
    written.remake(edit, written.nf4(), {"quant_method": "bitsandbytes", "load_in_8bit": True, "load_in_4bit": False})


def overflowed(edit: Edit, strength: str) -> None:
    """The base in F16, of which one row exceeded the range."""
    for expert in EXPERTS:
        tensors = {name: value.half() for name, value in edit.tensors(expert).items()}
        tensors["blocks.2.ffn.net.2.weight"][3] = float("inf")
        edit.write(expert, tensors)


def distilled(edit: Edit, strength: str) -> None:
    """Every tensor moved by 2 % of its spread, then FP8 per row: a step-distilled model in LightX2V's layout."""
    generator = torch.Generator().manual_seed(5)
    names = {expert: quantized(edit.tensors(expert)) for expert in EXPERTS}
    for expert in EXPERTS:
        tensors = written.base_tensors(edit, expert)
        for name, value in tensors.items():
            spread = value.float().std().nan_to_num(0)
            tensors[name] = (value.float() + torch.randn(value.shape, generator=generator) * spread * 0.02).bfloat16()
        for module in names[expert]:
            weight = tensors[f"{module}.weight"].float()
            scale = weight.abs().amax(1, keepdim=True) / 448
            tensors[f"{module}.weight"] = (weight / scale).clamp(-448, 448).to(FP8)
            tensors[f"{module}.weight_scale"] = scale
        edit.write(expert, tensors)
        body = edit.config(expert)
        body.pop("quantization_config")
        edit.write_config(expert, body)
    written.single_files(edit)


def without_block(edit: Edit, strength: str) -> None:
    """Every tensor of block 3 is absent: a file per block, and one of them was not fetched."""
    for expert in EXPERTS:
        kept = {name: value for name, value in edit.tensors(expert).items() if not name.startswith("blocks.3.")}
        edit.write(expert, kept)
    written.single_files(edit)


def vace_layers(edit: Edit, strength: str) -> None:
    """A configuration of two VACE layers over a file with one."""
    for expert in EXPERTS:
        tensors = edit.tensors(expert)
        own = {name: value for name, value in tensors.items() if name.startswith("blocks.1.")}
        tensors |= {name.replace("blocks.1.", "vace_blocks.0."): value for name, value in own.items()}
        tensors["vace_patch_embedding.weight"] = torch.zeros(192, 96, 1, 2, 2, dtype=torch.bfloat16)
        edit.write(expert, tensors)
        edit.write_config(
            expert, {**edit.config(expert), "_class_name": "WanVACETransformer3DModel", "vace_layers": [0, 3]}
        )


def flux(edit: Edit, strength: str) -> None:
    """A file of another model."""
    names = ("double_blocks.0.img_attn.qkv", "double_blocks.0.img_mlp.0", "single_blocks.0.linear1", "img_in", "txt_in")
    tensors = {f"{name}.weight": torch.ones(24, 12, dtype=torch.bfloat16) for name in names}
    save_file(tensors, edit.folder / "flux1-dev.safetensors")
    written.drop_folders(edit)
