"""Mutations that users of published checkpoints reported: files that are none, names of another dialect, tensors that
belong to nothing, scales that nobody measured, and the faults of formats beside ModelOpt's."""

from __future__ import annotations

import json

import torch

from benchmarks.corpus import written
from benchmarks.corpus.edit import Edit, Tensors, quantized, scope
from benchmarks.corpus.exports import EXPERTS
from benchmarks.corpus.mutations import FP8, Mutation, each

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"ab" * 32 + b"\nsize 14288491520\n"
PAGE = b"<!DOCTYPE html><html><head><title>Sign in</title></head></html>"


def file_of(data: bytes) -> Mutation:
    """Other bytes where one expert's weights were."""

    def mutate(edit: Edit, strength: str) -> None:
        edit.own("transformer")
        for shard in edit.shards("transformer"):
            shard.write_bytes(data)

    return mutate


def blocks_only(edit: Edit, strength: str) -> None:
    """No embeddings and no head; ``layer``: one block lacks a norm."""
    tensors = edit.tensors("transformer")
    if strength == "layer":
        tensors.pop("blocks.2.norm2.weight")
    else:
        tensors = {name: value for name, value in tensors.items() if name.startswith("blocks.")}
    edit.write("transformer", tensors)


def wan_names(edit: Edit, strength: str) -> None:
    """Wan's own names in a Diffusers folder; ``half``: of every other block."""
    tensors = edit.tensors("transformer")
    for name in list(tensors):
        if strength == "all" or name.startswith(("blocks.1.", "blocks.3.")):
            tensors[written.wan_name(name)] = tensors.pop(name)
    edit.write("transformer", tensors)


def eight_bit_norms(edit: Edit, strength: str) -> None:
    """Norms, biases, tables and the patch embedding in FP8; ``layer``: one norm."""
    tensors = edit.tensors("transformer")
    for name, value in tensors.items():
        small = value.ndim != 2 and not name.endswith("_scale")
        if small and (strength == "all" or name == "blocks.1.norm2.weight"):
            tensors[name] = value.to(FP8)
    edit.write("transformer", tensors)


def first_level_only(edit: Edit, strength: str) -> None:
    """A second level of 1: block scales fall into E4M3's subnormals."""

    def change(tensors: Tensors, module: str) -> None:
        scale = tensors[f"{module}.weight_scale"]
        tensors[f"{module}.weight_scale"] = (scale.view(torch.uint8) % 7 + 1).view(FP8)
        tensors[f"{module}.weight_scale_2"] = torch.tensor(1.0)

    each(edit, strength, change)


def rounded_scales(edit: Edit, strength: str) -> None:
    """Scales stored in BF16."""

    def change(tensors: Tensors, module: str) -> None:
        for name in ("weight_scale", "input_scale"):
            tensors[f"{module}.{name}"] = tensors[f"{module}.{name}"].to(torch.bfloat16)

    each(edit, strength, change)


def foreign_input(factor: float, part: str = "to_k") -> Mutation:
    """The input scale of one of q, k, v is another one's."""

    def mutate(edit: Edit, strength: str) -> None:
        tensors = edit.tensors("transformer")
        names = [name for name in tensors if name.endswith(f"attn1.{part}.input_scale")]
        for name in names[:1] if strength == "layer" else names:
            tensors[name] = tensors[name] * factor
        edit.write("transformer", tensors)

    return mutate


def left_over(edit: Edit, strength: str) -> None:
    """The base's weight put back beside the scales of the quantized one."""
    base = written.base_tensors(edit, "transformer")

    def change(tensors: Tensors, module: str) -> None:
        tensors[f"{module}.weight"] = base[f"{module}.weight"]

    each(edit, strength, change, ("transformer",))


def orphaned(edit: Edit, strength: str) -> None:
    """Scales whose weight is gone."""

    def change(tensors: Tensors, module: str) -> None:
        tensors.pop(f"{module}.weight")

    each(edit, strength, change)


def one_scale(edit: Edit, strength: str) -> None:
    """The same scale for every Linear."""

    def change(tensors: Tensors, module: str) -> None:
        tensors[f"{module}.weight_scale"] = torch.full_like(tensors[f"{module}.weight_scale"], 0.0125)

    each(edit, strength, change)


def robbed(edit: Edit, strength: str) -> None:
    """FP8 codes without scales and without a declaration."""

    def change(tensors: Tensors, module: str, weight: torch.Tensor) -> None:
        tensors[f"{module}.weight"] = (weight / (weight.abs().max() / 448)).to(FP8)

    written.remake(edit, change)


def broken_plain(value: float) -> Mutation:
    """One value of an unquantized Linear, or (zero) all of them."""

    def mutate(edit: Edit, strength: str) -> None:
        tensors = edit.tensors("transformer")
        weight = tensors["blocks.1.attn1.to_q.weight"]
        if value == 0:
            weight.zero_()
        else:
            weight[0, 3] = value
        edit.write("transformer", tensors)

    return mutate


def wrong_layers(edit: Edit, strength: str) -> None:
    """ComfyUI's metadata names layers without the prefix that the tensors have."""
    written.layered_single_files(edit, written="")


def setting(key: str, value: object) -> Mutation:
    """A key of the transformer's ``config.json``."""

    def mutate(edit: Edit, strength: str) -> None:
        body = edit.config("transformer")
        body[key] = value
        edit.write_config("transformer", body)

    return mutate


def remade(linear: written.Linear, change: written.Linear, declaration: dict[str, object] | None = None) -> Mutation:
    """A right checkpoint of a format, of which ``change`` breaks one Linear (``layer``) or all."""

    def mutate(edit: Edit, strength: str) -> None:
        touched = set(scope(edit.tensors("transformer"), strength))

        def both(tensors: Tensors, module: str, weight: torch.Tensor) -> None:
            linear(tensors, module, weight)
            if module in touched:
                change(tensors, module, weight)

        written.remake(edit, both, dict(declaration) if declaration else None)

    return mutate


def times(suffix: str, factor: float) -> written.Linear:
    """A scale that is too large by a factor."""

    def change(tensors: Tensors, module: str, weight: torch.Tensor) -> None:
        tensors[f"{module}.{suffix}"] = tensors[f"{module}.{suffix}"] * factor

    return change


def plus_one(tensors: Tensors, module: str, weight: torch.Tensor) -> None:
    """E8M0 exponents one too large: every weight twice as large."""
    tensors[f"{module}.weight_scale"] = tensors[f"{module}.weight_scale"] + 1


def without(suffix: str) -> written.Linear:
    """A scale that is not there."""

    def change(tensors: Tensors, module: str, weight: torch.Tensor) -> None:
        tensors.pop(f"{module}.{suffix}")

    return change


def half_of_them(tensors: Tensors, module: str, weight: torch.Tensor) -> None:
    """Half as many exponents as blocks, made for blocks of 64."""
    tensors[f"{module}.weight_scale"] = tensors[f"{module}.weight_scale"][:, ::2].contiguous()


def other_rows(tensors: Tensors, module: str, weight: torch.Tensor) -> None:
    """Codes of other rows."""
    tensors[f"{module}.weight"] = tensors[f"{module}.weight"].flip(0).contiguous()


def other_nibbles(tensors: Tensors, module: str, weight: torch.Tensor) -> None:
    """The two codes of each byte exchanged."""
    packed = tensors[f"{module}.weight"]
    tensors[f"{module}.weight"] = (packed << 4) | (packed >> 4)


def unfit(tensors: Tensors, module: str, weight: torch.Tensor) -> None:
    """A scale of a shape that fits nothing."""
    tensors[f"{module}.weight_scale"] = torch.full((7,), 0.01)


def cut_gguf(edit: Edit, strength: str) -> None:
    """A GGUF file that was cut short."""
    written.gguf(edit, "Q8_0")
    for file in edit.folder.rglob("*High*.gguf"):
        file.write_bytes(file.read_bytes()[:-1000])


def exchanged_gguf(edit: Edit, strength: str) -> None:
    """The two GGUF files under each other's names."""
    written.gguf(edit, "Q8_0")
    high, low = next(edit.folder.rglob("*High*.gguf")), next(edit.folder.rglob("*Low*.gguf"))
    high_bytes, low_bytes = high.read_bytes(), low.read_bytes()
    high.write_bytes(low_bytes)
    low.write_bytes(high_bytes)


def opaque(edit: Edit, strength: str) -> None:
    """GPTQ's 3 bits in 32-bit words: named, not decoded."""
    for expert in EXPERTS:
        tensors = edit.tensors(expert)
        for module in quantized(tensors):
            weight = tensors.pop(f"{module}.weight")
            tensors.pop(f"{module}.weight_scale")
            tensors.pop(f"{module}.input_scale", None)
            tensors[f"{module}.qweight"] = torch.zeros(weight.shape[1] * 3 // 32, weight.shape[0], dtype=torch.int32)
            tensors[f"{module}.scales"] = torch.ones(weight.shape[1] // 64, weight.shape[0])
            tensors[f"{module}.qzeros"] = torch.zeros(
                weight.shape[1] // 64, weight.shape[0] * 3 // 32, dtype=torch.int32
            )
        edit.write(expert, tensors)
        body = edit.config(expert)
        body["quantization_config"] = {"quant_method": "gptq", "bits": 3, "group_size": 64}
        edit.write_config(expert, body)


def empty_file(edit: Edit, strength: str) -> None:
    """A safetensors file that lists no tensor."""
    header = json.dumps({"__metadata__": {"format": "pt"}}).encode()
    file_of(len(header).to_bytes(8, "little") + header)(edit, strength)
