"""Break a copy of a checkpoint by changing bytes. Needs no torch and no memory for a whole shard.

Only files that a fault changes are copied; all others are links to the checkpoint, which is never written to.
"""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

from harness.errors import CheckpointFaultError
from harness.formats.damage import PLAIN
from harness.formats.header import TensorEntry, read_header
from harness.formats.registry import known_formats, stored_format
from harness.reading import UnreadableError, read_foreign

Bytes = npt.NDArray[np.uint8]
EXPERTS = ("transformer", "transformer_2")
STRENGTHS = (0.1, 0.25, 0.5, 1.0)
"""Shares of the Linears of an expert that a fault changes, at least one Linear."""
ORDER = ("nibble_swap", "scale_roll", "row_roll", "gain")
"""Order of the damages of built-in formats in limit files; those of other formats follow."""
_DTYPES: dict[str, Any] = {
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
    "U8": np.dtype(np.uint8),
    "I8": np.dtype(np.int8),
    "F8_E8M0": np.dtype(np.uint8),
    "U16": np.dtype("<u2"),
    "I32": np.dtype("<i4"),
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


@dataclass(frozen=True)
class WeightFault:
    """One way to break Linears."""

    name: str
    change: Change
    formats: frozenset[str]
    """Formats that can have it."""


def weight_faults() -> tuple[WeightFault, ...]:
    """Return every damage that a number format names, in the order of the formats: the format carries it out."""
    runnable = {name: form.faults or PLAIN for name, form in known_formats().items() if form.runs}
    damages = {"bf16": PLAIN, **runnable}
    names: dict[str, set[str]] = {name: set() for name in ORDER}
    for form, faults in damages.items():
        for name in faults:
            names.setdefault(name, set()).add(form)
    return tuple(WeightFault(name, _carried_out(name), frozenset(forms)) for name, forms in names.items() if forms)


def _carried_out(name: str) -> Change:
    def change(tensors: Tensors, module: str) -> None:
        prefix = f"{module}."
        stored = {full.removeprefix(prefix): place.open() for full, place in tensors.items() if full.startswith(prefix)}
        form = known_formats().get(kind_of(tensors, module))
        (PLAIN if form is None else form.faults or PLAIN)[name](stored)

    return change


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
        modules = [name for name in linears(tensors) if kind_of(tensors, name) in fault.formats]
        for module in spread(modules, strength):
            # Copy before the change: a write through the link would change the checkpoint itself.
            _own(tensors[f"{module}.weight"].file)
            for name in tensors:
                if name.startswith(f"{module}."):
                    _own(tensors[name].file)
            fault.change(tensors, module)
            broken.append(f"{folder}/{module}" if folder else module)
    if not broken:
        raise CheckpointFaultError(f"has no Linear for {fault.name}", where=str(source), code="nothing_to_break")
    return tuple(broken)


def linears(tensors: Tensors) -> list[str]:
    """Return the quantized Linears, or all Linears of the blocks if none is quantized; sorted."""
    weights = [
        name.removesuffix(".weight")
        for name, place in tensors.items()
        if name.endswith(".weight") and len(place.shape) == 2
    ]
    quantized = sorted(name for name in weights if kind_of(tensors, name) != "bf16")
    return quantized or sorted(name for name in weights if name.startswith("blocks."))


def spread(modules: list[str], strength: float) -> Iterator[str]:
    """Yield a share ``strength`` of the modules, at least one, spread evenly."""
    count = max(1, round(strength * len(modules))) if modules else 0
    for index in range(count):
        yield modules[math.floor((index + 0.5) * len(modules) / count)]


def kind_of(tensors: Tensors, module: str) -> str:
    """Return the stored format of a Linear; ``bf16`` for plain floats."""
    weight = _entry(tensors, f"{module}.weight")
    prefix = f"{module}."
    parts = {name.removeprefix(prefix): _entry(tensors, name) for name in tensors if name.startswith(prefix)}
    recognised = stored_format(weight, parts, _declared(tensors[f"{module}.weight"].file.parent))
    return "bf16" if recognised is None else recognised[0].name


def _entry(tensors: Tensors, name: str) -> TensorEntry:
    place = tensors[name]
    return TensorEntry(name, place.dtype, place.shape, place.file.name, place.begin, place.end - place.begin)


@cache
def _declared(folder: Path) -> Mapping[str, Any]:
    """Return the quantization that ``config.json`` of a folder declares; empty if it declares none."""
    try:
        config = read_foreign(folder / "config.json")
    except (OSError, UnreadableError):
        return {}
    declared = config.get("quantization_config") if isinstance(config, dict) else None
    return declared if isinstance(declared, dict) else {}


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
