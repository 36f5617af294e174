"""Define a number format: how the stored bytes of a Linear become numbers, and everything that follows from it.

A `Format` is one object per number format. The inspector decodes and proves with it, the engine builds its Linear, the
attribution asks it for the ways in which a loader could misread the bytes, and calibration asks it how to damage them.
The program that wrote the file, and its tensor names, are the dialect (see ``harness.formats.names``).

Each built-in format is a file of this folder and an entry of ``harness.formats.registry``. Another distribution adds a
format with one `Format` value in the entry point group ``quantgate.formats``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from harness.formats.codecs import F32, U8, decode_floats
from harness.formats.header import TensorEntry

MAX_SCALE_BYTES = 1 << 26
"""Largest tensor beside a weight that is read, 64 MiB: a stated shape must not decide how much memory is taken."""

Proof = Literal["base", "recognised"]
"""``base``: rows are decoded and compared with the base. ``recognised``: the format is named and nothing is decoded."""


@dataclass(frozen=True, slots=True)
class Gate:
    """Limits of one stored format, calibrated by ``python -m benchmarks.fault_corpus``."""

    cosine: float
    """At or above this cosine, the codes were made from this base."""
    unrelated: float
    """Below this cosine under every reading, the codes were not made from this base."""
    gap: float
    """Cosine by which the best reading must lead."""
    gain: float
    """Largest distance of the fitted gain from 1."""


@dataclass(frozen=True, slots=True)
class Scale:
    """A tensor beside the weight that the engine needs."""

    suffix: str
    """``weight_scale`` of ``blocks.0.attn1.to_q.weight_scale``."""
    absent: str
    """Cause code of the fault if it is missing."""
    required: bool = True


@dataclass(frozen=True)
class StoredLinear:
    """The stored bytes of one Linear and the rows that are wanted of it. Bytes are read when they are asked for."""

    weight: TensorEntry
    parts: Mapping[str, TensorEntry]
    """Every further tensor of the Linear by suffix."""
    shape: tuple[int, int]
    """[N, K] of the logical weight."""
    rows: NDArray[np.int64]
    """Consecutive row numbers."""
    read: Callable[[TensorEntry, int, int], bytes]
    """Takes a tensor, the offset of the first byte in it, and a number of bytes."""
    scale: TensorEntry | None = None
    kind: str = ""
    """How the scale lies over the weight, see ``harness.formats.modules.Module.kind``."""
    block: tuple[int, int] = (1, 1)
    code: str = ""
    dialect: str = ""
    state: Mapping[str, Any] = field(default_factory=dict)
    """bitsandbytes' ``quant_state``; of packed integers ``bits`` and further facts of the declaration."""
    rotation: int = 0
    """Columns per group that a declared Hadamard rotation mixes; 0: none."""
    packing: str = ""
    """Order of packed integers, a key of ``harness.formats.int4.PACKINGS``; empty: a code per byte."""
    ranges: Callable[[TensorEntry, Sequence[tuple[int, int]]], list[bytes]] | None = None
    """Reads many ranges ``(offset in the tensor, bytes)`` at once; ``None``: one after the other."""

    def read_many(self, entry: TensorEntry, spans: Sequence[tuple[int, int]]) -> list[bytes]:
        """Return several ranges ``(offset in the tensor, bytes)`` of a tensor."""
        if self.ranges is not None:
            return self.ranges(entry, spans)
        return [self.read(entry, start, length) for start, length in spans]

    def row_bytes(self) -> bytes:
        """Return the bytes of the wanted rows."""
        width = self.weight.nbytes // max(self.weight.shape[0], 1)
        return self.read(self.weight, int(self.rows[0]) * width, width * len(self.rows))

    def codes(self) -> U8:
        """Return the bytes of the wanted rows as [rows, bytes per row]."""
        return np.frombuffer(self.row_bytes(), np.uint8).reshape(len(self.rows), -1)

    def whole(self, entry: TensorEntry) -> bytes:
        """Return all bytes of a tensor.

        Raises:
            ValueError: it is larger than ``MAX_SCALE_BYTES``.
        """
        if entry.nbytes > MAX_SCALE_BYTES:
            raise ValueError(f"{entry.name} has {entry.nbytes} bytes")
        return self.read(entry, 0, entry.nbytes)

    def floats(self, entry: TensorEntry) -> F32:
        """Return all values of a float or 8-bit tensor, flat."""
        return decode_floats(self.whole(entry), entry.dtype)


Recognise = Callable[[TensorEntry, Mapping[str, TensorEntry], Mapping[str, Any]], tuple[int, int] | None]
"""Takes a Linear's weight, its further tensors by suffix (``weight_scale``) and the checkpoint's quantization
declaration. Returns the shape [N, K] of the logical weight; ``None`` if the Linear has another format."""
Decode = Callable[[bytes, Mapping[str, bytes], tuple[int, int], NDArray[np.int64]], F32]
"""Takes the stored bytes of some rows, all bytes of the further tensors by suffix, the shape [N, K] and the row
numbers. Returns the values [rows, K]."""
Readings = Callable[[StoredLinear], dict[str, F32]]
"""Takes stored rows. Returns their values [rows, K] by the name of the reading: a format has several if its bytes do
not show, for example, which nibble comes first."""
Misreadings = Callable[[StoredLinear, Mapping[str, str]], Iterator[tuple[str, F32]]]
"""Takes all rows and the loader options of the case. Yields the declared values under the name ``declared``, then those
of each fault that a loader could have, such as ``nibble_swapped``."""
Encode = Callable[[F32], dict[str, NDArray[Any]]]
"""Takes values [N, K]. Returns the tensors of a Linear by suffix, as an exporter writes them."""
Activations = Callable[[F32, float | None], F32]
"""Takes activations [M, K] and the stored input scale. Returns them rounded as a native kernel rounds them."""
Damage = Callable[[Mapping[str, NDArray[Any]]], None]
"""Takes the writable tensors of a Linear by suffix, and changes them in place as a broken export or loader does."""


@dataclass(frozen=True, slots=True)
class Format:
    """One number format.

    The first seven members and, for a format whose rows are compared with a base, ``decode`` or ``readings`` are all
    that the inspector needs. A format with ``decode`` or ``linear`` also runs in the ``diffusers`` backend.
    """

    name: str
    """Name in records and in ``quantization:`` of a case: ``mxfp8`` ..."""
    title: str
    """Name in texts for people."""
    stored: str
    """Layout on disk, for docs/formats.md."""
    proof: Proof
    gate: Gate
    noise: float
    """Relative rounding error of one value: the standard error of a fitted gain follows from it."""
    source: str
    """Publication or library from which the rule was read."""
    recognise: Recognise | None = None
    """Required of a registered format. It is called before the rules of the built-in formats."""
    decode: Decode | None = None
    """Required of a registered format whose ``proof`` is ``base``."""
    readings: Readings | None = None
    """Instead of ``decode``, for a format with several readings or one that needs more than bytes and shapes."""
    declared_reading: Callable[[str, str], str] | None = None
    """Takes the dialect and the code of a Linear. Returns the reading that the dialect defines; ``any`` leaves a part
    of it open, as in ``low_first/any``."""
    algorithms: str = ""
    """Regular expression of the names in a declaration that mean this format, in capitals with underscores."""
    group_bits: int | None = None
    """Bits of the float weights in ``config_groups`` that mean this format if no name does (compressed-tensors)."""
    values_per_byte: int = 1
    two_level: bool = False
    """Block scales are multiplied by one more scale per tensor (``weight_scale_2``): it is the outer scale."""
    block: int = 0
    """Columns that share a block scale; 0 if that is not fixed."""
    scale_dtypes: tuple[str, ...] = ()
    """Safetensors dtypes that a block scale may have."""
    modelopt: bool = False
    """ModelOpt exports it, with its scales in F32 and, unless it declares otherwise, with a scale for activations."""
    weight_dtypes: tuple[str, ...] = ()
    """Safetensors dtypes of a weight that the engine reads in this format, without asking ``recognise``."""
    scales: tuple[Scale, ...] = ()
    """Tensors beside the weight that the engine checks for."""
    loader_options: frozenset[str] = frozenset()
    """Fields of a case's ``loader:`` that change how this format is read."""
    encode: Encode | None = None
    activations: Activations | None = None
    """``None``: no kernel quantizes activations for this format, so ``matmul: emulate`` leaves them as they are."""
    misreadings: Misreadings | None = None
    """``None``: only the declared values are compared with an engine's output."""
    faults: Mapping[str, Damage] = field(default_factory=dict)
    """Damages that calibration injects to place limits, by name."""
    linear: str = ""
    """``module:Class`` of a ``harness.engine.quantized.linear.QuantizedLinear`` that multiplies packed weights. It is
    imported in the engine only, because the inspector starts without torch. Empty: ``decode`` decodes the weight at
    load, and the engine multiplies it in the compute dtype."""

    @property
    def runs(self) -> bool:
        """Return whether the ``diffusers`` backend can run a Linear of this format."""
        return bool(self.linear) or self.decode is not None

    def matches(self, algorithm: str) -> bool:
        """Return whether a declaration's name of an algorithm, in capitals with underscores, means this format."""
        return bool(self.algorithms) and re.search(self.algorithms, algorithm) is not None

    def values(self, stored: StoredLinear) -> dict[str, F32]:
        """Return the values [rows, K] of stored rows under each reading.

        Raises:
            ValueError, KeyError, IndexError: tensors do not fit together.
            NotImplementedError: this format, or this code of it, is not decoded.
        """
        if self.readings is not None:
            return self.readings(stored)
        if self.decode is None:
            raise NotImplementedError(f"{self.title} is not decoded")
        parts = {
            suffix: stored.whole(entry)
            for suffix, entry in stored.parts.items()
            if entry is not stored.weight and suffix not in ("weight", "bias")
        }
        values = self.decode(stored.row_bytes(), parts, stored.shape, stored.rows)
        return {stored.code: np.asarray(values, np.float32).reshape(len(stored.rows), stored.shape[1])}

    def misread(self, stored: StoredLinear, options: Mapping[str, str]) -> Iterator[tuple[str, F32]]:
        """Yield the values of all rows as declared, and as each fault of a loader would give them."""
        if self.misreadings is not None:
            yield from self.misreadings(stored, options)
        else:
            yield from (("declared", values) for values in self.values(stored).values())
