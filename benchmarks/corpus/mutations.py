"""What the corpus does to a right checkpoint: one function a fault, each with its strengths."""

# ruff: noqa: ARG001 - every mutation takes a strength, and some have only one
from __future__ import annotations

import json
from collections.abc import Callable

import torch

from benchmarks.corpus.edit import Edit, Tensors, scope, swap_nibbles, swizzle
from benchmarks.corpus.mixed import mixed

FP8 = torch.float8_e4m3fn
Mutation = Callable[[Edit, str], None]


def each(
    edit: Edit, strength: str, change: Callable[[Tensors, str], None], experts: tuple[str, ...] | None = None
) -> None:
    """Apply ``change`` to every Linear in the scope of a strength, in one expert or in both."""
    for expert in experts or (
        ("transformer",) if strength in ("expert", "layer", "row", "block") else ("transformer", "transformer_2")
    ):
        tensors = edit.tensors(expert)
        for module in scope(tensors, strength):
            change(tensors, module)
        edit.write(expert, tensors)


def nibbles(edit: Edit, strength: str) -> None:
    def change(tensors: Tensors, module: str) -> None:
        weight = tensors[f"{module}.weight"]
        rows = slice(7, 8) if strength == "row" else slice(None)
        weight[rows] = swap_nibbles(weight[rows])

    each(edit, strength, change)


def nan_codes(edit: Edit, strength: str) -> None:
    """One FP8 code of each Linear is NaN: cosine and gain do not notice."""

    def change(tensors: Tensors, module: str) -> None:
        tensors[f"{module}.weight"].view(torch.uint8)[3, 5] = 0x7F

    each(edit, strength, change)


def drop(suffix: str) -> Mutation:
    def mutate(edit: Edit, strength: str) -> None:
        def change(tensors: Tensors, module: str) -> None:
            tensors.pop(f"{module}.{suffix}", None)

        each(edit, strength, change)

    return mutate


def swizzled(edit: Edit, strength: str) -> None:
    def change(tensors: Tensors, module: str) -> None:
        tensors[f"{module}.weight_scale"] = swizzle(tensors[f"{module}.weight_scale"])

    each(edit, strength, change)


def scaled(suffix: str, rule: Callable[[torch.Tensor], torch.Tensor]) -> Mutation:
    def mutate(edit: Edit, strength: str) -> None:
        def change(tensors: Tensors, module: str) -> None:
            value = tensors[f"{module}.{suffix}"]
            tensors[f"{module}.{suffix}"] = rule(value.float()).to(value.dtype)

        each(edit, strength, change)

    return mutate


def bytes_in_scales(byte: int) -> Mutation:
    def mutate(edit: Edit, strength: str) -> None:
        def change(tensors: Tensors, module: str) -> None:
            raw = tensors[f"{module}.weight_scale"].view(torch.uint8)
            raw.view(-1)[5 : 6 if strength == "layer" else 9] = byte

        each(edit, strength, change)

    return mutate


def unlist(edit: Edit, strength: str) -> None:
    """Take one pattern out of the ignore list."""
    wanted = "proj_out" if strength == "layer" else "blocks.0*"
    for expert in ("transformer", "transformer_2"):
        edit.quantization(expert, lambda body: body["ignore"].remove(wanted))


def list_quantized(edit: Edit, strength: str) -> None:
    pattern = "blocks.1.attn1.to_out.0" if strength == "layer" else "blocks.1*"
    edit.quantization("transformer", lambda body: body["ignore"].append(pattern))


def rename_module(edit: Edit, strength: str) -> None:
    old, new = (
        ("blocks.1.attn1.to_out.0", "blocks.1.self_attn.o") if strength == "layer" else (".attn1.", ".self_attn.")
    )
    tensors = edit.tensors("transformer")
    edit.write("transformer", {name.replace(old, new): value for name, value in tensors.items()})


def undeclare(edit: Edit, strength: str) -> None:
    for expert in ("transformer",) if strength == "expert" else ("transformer", "transformer_2"):
        body = edit.config(expert)
        body.pop("quantization_config")
        edit.write_config(expert, body)


def misdeclare(algo: str) -> Mutation:
    def mutate(edit: Edit, strength: str) -> None:
        edit.quantization("transformer", lambda body: body.update(quant_algo=algo, config_groups={}))

    return mutate


def declare_only(edit: Edit, strength: str) -> None:
    """A quantization_config over a BF16 transformer."""
    for expert in ("transformer", "transformer_2"):
        body = edit.config(expert)
        body["quantization_config"] = {
            "quant_method": "modelopt",
            "quant_algo": "NVFP4",
            "ignore": ["nothing"],
            "config_groups": {},
        }
        edit.write_config(expert, body)


def packed_width(edit: Edit, strength: str) -> None:
    """One scale for 16 BYTES, that is for 32 values."""

    def change(tensors: Tensors, module: str) -> None:
        scale = tensors[f"{module}.weight_scale"].float()
        tensors[f"{module}.weight_scale"] = scale[:, ::2].contiguous().to(FP8)

    each(edit, strength, change)


def unrounded(edit: Edit, strength: str) -> None:
    """Codes from the block scale before it was rounded to E4M3, made by torch from the base."""
    from safetensors.torch import load_file

    for expert in ("transformer", "transformer_2"):
        base = load_file(next((edit.base / expert).glob("*.safetensors")))
        tensors = edit.tensors(expert)
        for module in scope(tensors, strength):
            weight = base[f"{module}.weight"].float()
            blocks = weight.reshape(len(weight), -1, 16)
            outer = tensors[f"{module}.weight_scale_2"]
            scale = (blocks.abs().amax(-1) / (6 * outer)).clamp(2**-9, 448)
            tensors[f"{module}.weight"] = pack(blocks / (scale * outer)[..., None])
            tensors[f"{module}.weight_scale"] = scale.to(FP8)
        edit.write(expert, tensors)


def pack(values: torch.Tensor) -> torch.Tensor:
    """Nearest E2M1 codes [N, C, 16], low nibble first [N, C * 8]; independent of the package under test."""
    table = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6])
    code = (values.abs()[..., None] - table).abs().argmin(-1).to(torch.uint8)
    code = torch.where(values < 0, code | 8, code).reshape(len(values), -1)
    return (code[:, 1::2] << 4) | code[:, 0::2]


def carried(edit: Edit, strength: str) -> None:
    tensors = edit.tensors("transformer")
    tensors["blocks.6.attn1.to_q.weight"] = torch.randn(192, 192, dtype=torch.bfloat16)
    edit.write("transformer", tensors)


def renamed_scale(edit: Edit, strength: str) -> None:
    def change(tensors: Tensors, module: str) -> None:
        tensors[f"{module}.weight_scale_inv"] = 1 / tensors.pop(f"{module}.weight_scale").float()

    each(edit, strength, change)


def shard(message: str) -> Mutation:
    def mutate(edit: Edit, strength: str) -> None:
        parts = 2 if strength == "expert" else 4
        index = edit.split("transformer", parts)
        shards = edit.shards("transformer")
        if message == "missing":
            shards[-1].unlink()
        elif message == "unindexed":
            from safetensors.torch import load_file, save_file

            old = {name: value * 1.5 for name, value in load_file(shards[0]).items() if value.dtype == torch.bfloat16}
            save_file(dict(list(old.items())[:4]), index.parent / "model-old.safetensors")
        else:
            body = json.loads(index.read_text(encoding="utf-8"))
            names = sorted(body["weight_map"])[: 3 if strength == "layer" else 40]
            files = sorted(set(body["weight_map"].values()))
            for name in names:
                body["weight_map"][name] = next(file for file in files if file != body["weight_map"][name])
            index.write_text(json.dumps(body), encoding="utf-8")

    return mutate


def cut_short(edit: Edit, strength: str) -> None:
    edit.own("transformer")
    file = edit.shards("transformer")[0]
    with file.open("r+b") as raw:
        raw.truncate(file.stat().st_size // 2)


def column_scales(edit: Edit, strength: str) -> None:
    """[N] to [N, 1] in some Linears."""

    def change(tensors: Tensors, module: str) -> None:
        tensors[f"{module}.weight_scale"] = tensors[f"{module}.weight_scale"].reshape(-1, 1)

    each(edit, strength, change)


def two_conventions(edit: Edit, strength: str) -> None:
    each(
        edit,
        "layer" if strength == "layer" else "half",
        lambda t, m: t.update({f"{m}.weight": swap_nibbles(t[f"{m}.weight"])}),
    )


def drift(edit: Edit, strength: str) -> None:
    """SVDQuant's exporter changed weights that it was told to leave alone."""
    tensors = edit.tensors("transformer")
    names = (
        ["blocks.0.attn1.to_q.weight"]
        if strength == "layer"
        else [n for n in tensors if n.startswith("blocks.0.") and n.endswith("weight")]
    )
    for name in names:
        tensors[name] = (tensors[name].float() * 1.03).to(tensors[name].dtype)
    edit.write("transformer", tensors)


def primary_only(edit: Edit, strength: str) -> None:

    link = edit.folder / "transformer_2"
    link.unlink()
    link.symlink_to(edit.base / "transformer_2", target_is_directory=True)


def no_boundary(edit: Edit, strength: str) -> None:
    body = edit.index()
    body.pop("boundary_ratio")
    edit.write_index(body)


def boundary(edit: Edit, strength: str) -> None:
    edit.write_index({**edit.index(), "boundary_ratio": 0.9 if strength == "small" else 0.5})


def broken_config(edit: Edit, strength: str) -> None:
    place = edit.own("transformer") / "config.json"
    text = place.read_text(encoding="utf-8")
    place.write_text(
        text[: len(text) // 2] if strength == "cut" else text.replace("{", '{"ignore": NaN,', 1), encoding="utf-8"
    )


def adaln(edit: Edit, strength: str) -> None:
    tensors = edit.tensors("transformer")
    names = (
        ["scale_shift_table"]
        if strength == "layer"
        else [name for name in tensors if name.endswith("scale_shift_table")]
    )
    for name in names:
        half = tensors[name].shape[1] // 2
        tensors[name] = torch.cat([tensors[name][:, half:], tensors[name][:, :half]], dim=1)
    edit.write("transformer", tensors)


def exchanged(edit: Edit, strength: str) -> None:
    first, second = edit.folder / "transformer", edit.folder / "transformer_2"
    first_place, second_place = first.resolve(), second.resolve()
    first.unlink()
    second.unlink()
    first.symlink_to(second_place if strength == "both" else first_place, target_is_directory=True)
    second.symlink_to(first_place, target_is_directory=True)


def stale(amount: float) -> Mutation:
    """A base that moved after the export: the export is remade from weights that differ by ``amount``."""

    def mutate(edit: Edit, strength: str) -> None:
        from safetensors.torch import load_file

        generator = torch.Generator().manual_seed(3)
        base = load_file(next((edit.base / "transformer").glob("*.safetensors")))
        tensors = edit.tensors("transformer")
        for module in scope(tensors, strength):
            weight = base[f"{module}.weight"].float()
            noise = torch.randn(weight.shape, generator=generator) * weight.std() * amount
            blocks = (weight + noise).to(torch.bfloat16).float().reshape(len(weight), -1, 16)
            outer = blocks.abs().amax() / (6 * 448)
            scale = (blocks.abs().amax(-1) / (6 * outer)).clamp(2**-9, 448).to(FP8)
            tensors[f"{module}.weight_scale_2"] = outer
            tensors[f"{module}.weight_scale"] = scale
            tensors[f"{module}.weight"] = pack(blocks / (scale.float() * outer)[..., None])
        edit.write("transformer", tensors)

    return mutate


def another_base(edit: Edit, strength: str) -> None:
    """The base was retrained after the export: every tensor moved."""
    generator = torch.Generator().manual_seed(4)
    for expert in ("transformer", "transformer_2"):
        tensors = edit.tensors(expert)
        for name, value in tensors.items():
            if value.dtype in (torch.bfloat16, torch.float32) and value.ndim and not name.endswith("scale"):
                noise = torch.randn(value.shape, generator=generator) * value.float().std().nan_to_num(0) * 0.05
                tensors[name] = (value.float() + noise).to(value.dtype)
        edit.write(expert, tensors)


def nothing(edit: Edit, strength: str) -> None:
    """Right bytes: only the runtime that will read them is wrong for them."""


def cut_rows(edit: Edit, strength: str) -> None:
    """Half of a Linear, as a tensor-parallel shard that was never joined."""

    def change(tensors: Tensors, module: str) -> None:
        for suffix in ("weight", "weight_scale"):
            value = tensors[f"{module}.{suffix}"]
            tensors[f"{module}.{suffix}"] = value[: len(value) // 2]

    each(edit, strength, change)


def other_config(edit: Edit, strength: str) -> None:
    body = edit.config("transformer")
    edit.write_config("transformer", {**body, "num_layers": body["num_layers"] + 2})


def split_qkv(edit: Edit, strength: str) -> None:
    def change(tensors: Tensors, module: str) -> None:
        if module.endswith("to_k"):
            tensors[f"{module}.weight_scale_2"] = tensors[f"{module}.weight_scale_2"] * 2
            tensors[f"{module}.weight_scale"] = (tensors[f"{module}.weight_scale"].float() / 2).to(FP8)

    each(edit, "expert", change)


def fp8_codes(dtype: torch.dtype) -> Mutation:
    """The same weights in other 8-bit codes, with that format's own scale, stored as if they were E4M3."""

    def mutate(edit: Edit, strength: str) -> None:
        def change(tensors: Tensors, module: str) -> None:
            values = tensors[f"{module}.weight"].float()
            largest = values.abs().max() / torch.finfo(dtype).max
            tensors[f"{module}.weight"] = (values / largest).to(dtype).view(torch.uint8).view(FP8)
            tensors[f"{module}.weight_scale"] = tensors[f"{module}.weight_scale"] * largest

        each(edit, strength, change)

    return mutate


def transposed(edit: Edit, strength: str) -> None:
    def change(tensors: Tensors, module: str) -> None:
        weight = tensors[f"{module}.weight"]
        if weight.shape[0] == weight.shape[1]:
            tensors[f"{module}.weight"] = weight.t().contiguous()

    each(edit, strength, change)


INVERTED = scaled("weight_scale_2", lambda value: 1 / value)
INVERTED_FP8 = scaled("weight_scale", lambda value: 1 / value)
ZERO = scaled("weight_scale_2", lambda value: value * 0)
INFINITE = scaled("weight_scale_2", lambda value: value * 0 + float("inf"))
TINY_INPUT = scaled("input_scale", lambda value: value * 1e-20)
ONES = scaled("weight_scale_2", lambda value: value * 0 + 1)
ONES_FP8 = scaled("weight_scale", lambda value: value * 0 + 1)


def mixed_exchanged(edit: Edit, strength: str) -> None:
    mixed(edit, exchanged=True)


def declared_twice(edit: Edit, strength: str) -> None:
    """``hf_quant_config.json`` of another export beside ``config.json``."""
    _second(edit, {"quant_algo": "FP8"})


def ignored_twice(edit: Edit, strength: str) -> None:
    _second(edit, {"quant_algo": "NVFP4", "exclude_modules": ["proj_out"]})


def _second(edit: Edit, section: dict[str, object]) -> None:
    place = edit.own("transformer")
    (place / "hf_quant_config.json").write_text(json.dumps({"quantization": section}), encoding="utf-8")
