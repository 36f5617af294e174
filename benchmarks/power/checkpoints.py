"""Broken copies of the NVFP4 export of the embedded Wan2.2."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np

from benchmarks.power.design import Engine
from harness.calibrate.faults import weights
from harness.calibrate.faults.weights import Tensors, WeightFault, inject, linears
from harness.formats.codecs import swizzle

BASE = Path(__file__).resolve().parents[2] / "tiny" / "weights"
NVFP4 = frozenset({"nvfp4"})
EXPERTS = ("transformer", "transformer_2")


def _inverted(tensors: Tensors, module: str) -> None:
    scale = tensors[f"{module}.weight_scale_2"].open()
    scale[...] = 1.0 / np.asarray(scale)


def _ones(tensors: Tensors, module: str) -> None:
    tensors[f"{module}.weight_scale_2"].open()[...] = 1.0


def _zeroed(tensors: Tensors, module: str) -> None:
    raw = tensors[f"{module}.weight_scale"].open().view(np.uint8)
    raw[:8, :] = 0


def _swizzled(tensors: Tensors, module: str) -> None:
    """The tiled layout, cut to the size of the linear one where it is padded."""
    raw = tensors[f"{module}.weight_scale"].open().view(np.uint8)
    raw[...] = swizzle(np.array(raw)).reshape(-1)[: raw.size].reshape(raw.shape)


def _stale(tensors: Tensors, module: str) -> None:
    """One code in twenty becomes its neighbour, as after a base that moved."""
    raw = tensors[f"{module}.weight"].open()
    random = np.random.default_rng(len(module))
    hit = random.random(raw.shape) < 0.05
    raw[...] = np.where(hit & ((raw & 7) < 7), raw + 1, raw)


LINEAR: dict[str, WeightFault] = {
    **{fault.name: fault for fault in weights.weight_faults()},
    "global_scale_inverted": WeightFault("global_scale_inverted", _inverted, NVFP4),
    "global_scale_ones": WeightFault("global_scale_ones", _ones, NVFP4),
    "block_scale_zero": WeightFault("block_scale_zero", _zeroed, NVFP4),
    "scales_swizzled": WeightFault("scales_swizzled", _swizzled, NVFP4),
    "codes_stale": WeightFault("codes_stale", _stale, NVFP4),
}
FOLDER = ("experts_swapped", "expert_twice", "expert_unquantized", "adaln_halves", "excluded_moved")


def prepare(engine: Engine, healthy: Path, target: Path, base: Path = BASE) -> Path:
    """Return the repository that an engine loads.

    Args:
        engine: its checkpoint, fault and strength.
        healthy: the NVFP4 export, which is never written to.
        target: an absent folder for a broken copy.
        base: the unquantized repository.

    Raises:
        ValueError: no such fault.
    """
    name = engine.checkpoint
    if name == "healthy":
        return healthy
    if name in LINEAR:
        inject(LINEAR[name], engine.strength, healthy, target, engine.experts)
        return target
    if name not in FOLDER:
        raise ValueError(f"no fault {name!r}")
    shutil.copytree(healthy, target)
    first, second = (target / expert for expert in EXPERTS)
    present = [folder for folder in (first, second) if folder.exists()]
    if name == "experts_swapped":
        first.rename(target / "swap")
        second.rename(first)
        (target / "swap").rename(second)
    elif name == "expert_twice":
        shutil.rmtree(second)
        shutil.copytree(first, second)
    elif name == "expert_unquantized":
        for expert in engine.experts:
            shutil.rmtree(target / expert)
            shutil.copytree(base / expert, target / expert)
    else:
        for folder in present:
            _move(weights._tensors(folder), name)
    return target


def _move(tensors: Tensors, name: str) -> None:
    quantized = set(linears(tensors))
    for tensor, place in tensors.items():
        if name == "adaln_halves" and tensor.endswith("scale_shift_table"):
            values = place.open()
            half = values.shape[1] // 2
            values[...] = np.concatenate([np.array(values[:, half:]), np.array(values[:, :half])], axis=1)
        plain = tensor.endswith(".weight") and tensor.removesuffix(".weight") not in quantized
        if name == "excluded_moved" and plain and tensor.startswith("blocks.0."):
            values = place.open()
            values[...] = (np.asarray(values, dtype=np.float32) * 1.03).astype(values.dtype)
