"""Break a copy of a checkpoint by changing bytes. Needs no torch and no memory for a whole shard.

Only files that a fault changes are copied; all others are links to the checkpoint, which is never written to.
"""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

from harness.errors import CheckpointFaultError
from harness.formats.header import read_header

Bytes = npt.NDArray[np.uint8]
EXPERTS = ("transformer", "transformer_2")
STRENGTHS = (0.1, 0.25, 0.5, 1.0)
"""Shares of the Linears of an expert that a fault changes, at least one Linear."""
GAIN = 1.25
_DTYPES: dict[str, Any] = {
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "U8": np.dtype(np.uint8),
}


@dataclass(frozen=True)
class Place:
    """File, dtype, shape and byte range of one tensor."""

    file: Path
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int

    def open(self) -> np.memmap[Any, Any]:
        """Map the tensor's bytes, writable, in its own dtype and shape (a scalar as [1])."""
        shape = self.shape or (1,)
        return np.memmap(self.file, dtype=_DTYPES[self.dtype], mode="r+", offset=self.begin, shape=shape)


Tensors = Mapping[str, Place]
Change = Callable[[Tensors, str], None]


def nibble_swap(tensors: Tensors, module: str) -> None:
    """Exchange the two FP4 codes of every byte, like a loader with the other packing order."""
    codes = tensors[f"{module}.weight"].open()
    codes[...] = (codes >> 4) | (codes << 4)


def scale_roll(tensors: Tensors, module: str) -> None:
    """Give every block the scale of its neighbour, like a loader with another layout of scales."""
    scales = tensors[f"{module}.weight_scale"].open()
    raw = scales.view(np.uint8)
    raw[...] = np.roll(raw, 1, axis=-1)


def gain(tensors: Tensors, module: str) -> None:
    """Multiply the Linear by ``GAIN``, like a scale that is applied wrongly."""
    name = next(n for n in (f"{module}.weight_scale_2", f"{module}.weight_scale", f"{module}.weight") if n in tensors)
    values = tensors[name].open()
    values[...] = (np.asarray(values, dtype=np.float32) * GAIN).astype(values.dtype)


def row_roll(tensors: Tensors, module: str) -> None:
    """Give every output the weights of its neighbour, like a shard that is joined at the wrong place."""
    weight = tensors[f"{module}.weight"].open()
    raw = weight.view(np.uint8).reshape(weight.shape[0], -1)
    raw[...] = np.roll(raw, 1, axis=0)


@dataclass(frozen=True)
class WeightFault:
    """One way to break Linears."""

    name: str
    change: Change
    formats: frozenset[str]
    """Formats that can have it: ``bf16``, ``fp8``, ``nvfp4``."""


FAULTS: tuple[WeightFault, ...] = (
    WeightFault("nibble_swap", nibble_swap, frozenset({"nvfp4"})),
    WeightFault("scale_roll", scale_roll, frozenset({"nvfp4"})),
    WeightFault("row_roll", row_roll, frozenset({"bf16", "fp8"})),
    WeightFault("gain", gain, frozenset({"bf16", "fp8", "nvfp4"})),
)


def inject(
    fault: WeightFault, strength: float, source: Path, target: Path, experts: tuple[str, ...] = EXPERTS
) -> tuple[str, ...]:
    """Write a broken copy of a checkpoint.

    Args:
        fault: what to break.
        strength: share of the Linears of each expert, in (0, 1]; they are spread evenly over the network.
        source: a Diffusers repository, or the folder of one transformer. Never written to.
        target: an absent folder.
        experts: experts of a repository to break; those that it does not have are skipped.

    Returns:
        The broken Linears, as ``expert/module``.

    Raises:
        CheckpointFaultError: the checkpoint has no Linear that this fault can break (code ``nothing_to_break``).
    """
    source = source.resolve()
    whole = (source / "model_index.json").is_file()
    folders = [expert for expert in experts if (source / expert).is_dir()] if whole else [""]
    _link(source, target, frozenset(folders))
    broken: list[str] = []
    for folder in folders:
        tensors = _tensors(target / folder)
        modules = [name for name in linears(tensors) if _kind(tensors, name) in fault.formats]
        for module in spread(modules, strength):
            # Copy before the change: a write through the link would change the checkpoint itself.
            _own(tensors[f"{module}.weight"].file)
            for name in (f"{module}.weight_scale", f"{module}.weight_scale_2"):
                if name in tensors:
                    _own(tensors[name].file)
            fault.change(tensors, module)
            broken.append(f"{folder}/{module}" if folder else module)
    if not broken:
        raise CheckpointFaultError(f"has no Linear for {fault.name}", where=str(source), code="nothing_to_break")
    return tuple(broken)


def linears(tensors: Tensors) -> list[str]:
    """Return the quantized Linears, or all Linears of the blocks if none is quantized; sorted."""
    quantized = sorted(name.removesuffix(".weight_scale") for name in tensors if name.endswith(".weight_scale"))
    return quantized or sorted(
        name.removesuffix(".weight")
        for name, place in tensors.items()
        if name.startswith("blocks.") and name.endswith(".weight") and len(place.shape) == 2
    )


def spread(modules: list[str], strength: float) -> Iterator[str]:
    """Yield a share ``strength`` of the modules, at least one, spread evenly."""
    count = max(1, round(strength * len(modules))) if modules else 0
    for index in range(count):
        yield modules[math.floor((index + 0.5) * len(modules) / count)]


def _kind(tensors: Tensors, module: str) -> str:
    if f"{module}.weight_scale" not in tensors:
        return "bf16"
    return "nvfp4" if tensors[f"{module}.weight"].dtype == "U8" else "fp8"


def _tensors(folder: Path) -> dict[str, Place]:
    """Read the place of every tensor in the safetensors files of a folder."""
    found: dict[str, Place] = {}
    for file in sorted(folder.glob("*.safetensors")):
        with file.open("rb", buffering=0) as raw:
            header = read_header(
                str(file), file.stat().st_size, lambda start, size: os.pread(raw.fileno(), size, start)
            )
        for name, entry in header.tensors.items():
            found[name] = Place(file, entry.dtype, entry.shape, entry.start, entry.start + entry.nbytes)
    return found


def _link(source: Path, target: Path, own: frozenset[str]) -> None:
    """Link ``source`` at ``target``: folders to change as folders of links, every other entry as one link."""
    target.mkdir(parents=True)
    if own == {""}:
        _link_files(source, target)
        return
    for entry in sorted(source.iterdir()):
        if entry.name in own:
            (target / entry.name).mkdir()
            _link_files(entry, target / entry.name)
        else:
            (target / entry.name).symlink_to(entry.resolve())


def _link_files(source: Path, target: Path) -> None:
    for entry in sorted(source.iterdir()):
        (target / entry.name).symlink_to(entry.resolve())


def _own(file: Path) -> None:
    """Replace a link by a copy of its file, atomically."""
    if file.is_symlink():
        part = file.with_name(f".{file.name}.{os.getpid()}.part")
        shutil.copyfile(file.resolve(), part)
        part.replace(file)
