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

from harness.errors import CheckpointFaultError
from harness.formats.damage import PLAIN
from harness.formats.header import TensorEntry, read_header
from harness.formats.registry import known_formats, stored_format
from harness.reading import UnreadableError, read_foreign

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
    """One tensor and the file that holds it."""

    file: Path
    entry: TensorEntry

    def open(self) -> np.memmap[Any, Any]:
        """Map the tensor's bytes, writable, in its own dtype and shape (a scalar as [1])."""
        entry = self.entry
        dtype, shape = _DTYPES[entry.dtype], entry.shape or (1,)
        return np.memmap(self.file, dtype=dtype, mode="r+", offset=entry.start, shape=shape)


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
        stored = {part: place.open() for part, place in _parts(tensors, module).items()}
        form = known_formats().get(kind_of(tensors, module))
        (PLAIN if form is None else form.faults or PLAIN)[name](stored)

    return change


def inject(
    fault: WeightFault, strength: float, source: Path, target: Path, experts: tuple[str, ...] = EXPERTS
) -> tuple[str, ...]:
    """Write a broken copy of a checkpoint.

    Args:
        fault: the kind of damage.
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
        modules = [name for name, form in linears(tensors).items() if form in fault.formats]
        for module in spread(modules, strength):
            # Copy before the change: a write through the link would change the checkpoint itself.
            for place in _parts(tensors, module).values():
                _make_private(place.file)
            fault.change(tensors, module)
            broken.append(f"{folder}/{module}" if folder else module)
    if not broken:
        raise CheckpointFaultError(f"has no Linear for {fault.name}", place=str(source), code="nothing_to_break")
    return tuple(broken)


def linears(tensors: Tensors) -> dict[str, str]:
    """Return the stored formats of the quantized Linears, or of all Linears of the blocks if none is quantized.

    The names are sorted.
    """
    weights = sorted(
        name.removesuffix(".weight")
        for name, place in tensors.items()
        if name.endswith(".weight") and len(place.entry.shape) == 2
    )
    formats = {name: kind_of(tensors, name) for name in weights}
    quantized = {name: form for name, form in formats.items() if form != "bf16"}
    return quantized or {name: form for name, form in formats.items() if name.startswith("blocks.")}


def spread(modules: list[str], strength: float) -> Iterator[str]:
    """Yield a share ``strength`` of the modules, at least one, spread evenly."""
    count = max(1, round(strength * len(modules))) if modules else 0
    for index in range(count):
        yield modules[math.floor((index + 0.5) * len(modules) / count)]


def kind_of(tensors: Tensors, module: str) -> str:
    """Return the stored format of a Linear; ``bf16`` for plain floats."""
    places = _parts(tensors, module)
    weight = places["weight"]
    parts = {name: place.entry for name, place in places.items()}
    recognised = stored_format(weight.entry, parts, _declared(weight.file.parent))
    return "bf16" if recognised is None else recognised[0].name


def _parts(tensors: Tensors, module: str) -> dict[str, Place]:
    """Return the tensors of a module, by the ends of their names: ``weight``, ``weight_scale`` ..."""
    prefix = f"{module}."
    return {name.removeprefix(prefix): place for name, place in tensors.items() if name.startswith(prefix)}


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
    places: dict[str, Place] = {}
    for file in sorted(folder.glob("*.safetensors")):
        with file.open("rb", buffering=0) as raw:
            header = read_header(
                str(file), file.stat().st_size, lambda start, size: os.pread(raw.fileno(), size, start)
            )
        places |= {name: Place(file, entry) for name, entry in header.tensors.items()}
    return places


def _link(source: Path, target: Path, copied: frozenset[str]) -> None:
    """Link ``source`` at ``target``: folders to change as folders of links, every other entry as one link."""
    target.mkdir(parents=True)
    if copied == {""}:
        _link_files(source, target)
        return
    for entry in sorted(source.iterdir()):
        if entry.name in copied:
            (target / entry.name).mkdir()
            _link_files(entry, target / entry.name)
        else:
            (target / entry.name).symlink_to(entry.resolve())


def _link_files(source: Path, target: Path) -> None:
    for entry in sorted(source.iterdir()):
        (target / entry.name).symlink_to(entry.resolve())


def _make_private(file: Path) -> None:
    """Replace a link by a copy of its file, atomically."""
    if file.is_symlink():
        part = file.with_name(f".{file.name}.{os.getpid()}.part")
        shutil.copyfile(file.resolve(), part)
        part.replace(file)
