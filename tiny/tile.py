"""Writes the embedded Wan2.2 at any size: `python -m tiny.tile --out DIR [--width 6144] [--layers 24] [FORMAT ...]`.

A transformer whose width is `k` times the embedded model's 192 computes the same function if every weight is repeated
`k` times along its output axis and along its input axis and divided by `k`: each of the `k` copies of a channel holds
the same value, so a sum over `k` copies, divided by `k`, is the embedded model's sum. Whole heads are repeated, so the
softmax and the norms (means over channels) do not change; the time projection holds six vectors of one width, and each
is repeated on its own. `k` is a power of two, so the division only moves an exponent: BF16 stays exact, and so do the
codes and block scales of FP8 and NVFP4, whose outer scale carries the factor.

Further layers are copies of block 1 whose three output projections are scaled by 2^-14: each costs what any layer
costs and is quantized like any layer, and adds less to the residual than BF16 keeps of it.

With the default width and layers an expert has 14.8 billion parameters. Nothing is held in memory but one row of
tiles: the files are written as fast as the disk takes them. Needs numpy and safetensors only, no torch and no GPU.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from tiny.export import CALIBRATION, EXPERTS, WEIGHTS, quantization_config
from tiny.quantize import NibbleOrder, quantize
from tiny.tensorfile import Tensor, read

TileFormat = Literal["base", "fp8", "nvfp4"]
FORMATS: Final[tuple[TileFormat, ...]] = ("base", "fp8", "nvfp4")
WIDTH: Final = 6144
LAYERS: Final = 24
SHARD_BYTES: Final = 4 << 30
#: A factor on what a further layer adds to the residual: below half a unit in the last place of BF16 and FP16.
SILENT_FACTOR: Final = np.float32(2.0**-14)
_FILE = "diffusion_pytorch_model"
_SILENT = re.compile(r"(?:attn[12]\.to_out\.0|ffn\.net\.2)\.(?P<leaf>\w+)")
_BLOCK = re.compile(r"blocks\.(\d+)\.(.+)")
#: Linears whose input is no channel of the model (frequencies, the text encoder's output): only their rows repeat.
_ENTRY = ("time_embedder.linear_1", "text_embedder.linear_1")
_ITEM_BYTES = {"F32": 4, "BF16": 2, "F8_E4M3": 1, "U8": 1}
_MEMORY_CHUNK = 8 << 20


@dataclass(frozen=True)
class Piece:
    """One tensor of the large model: a small block of bytes, and how often it is repeated.

    `block`: uint8 [sections, rows, bytes of a row]; each section is repeated `down` times along its rows and `across`
    times along its columns before the next section begins.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    block: NDArray[np.uint8]
    down: int = 1
    across: int = 1

    @property
    def nbytes(self) -> int:
        """Bytes of the tensor."""
        return int(self.block.size) * self.down * self.across

    def chunks(self) -> Iterator[bytes]:
        """The bytes of the tensor in order, a few MiB at a time."""
        for section in self.block:
            rows = np.tile(section, (1, self.across)).tobytes()
            together = max(1, min(self.down, _MEMORY_CHUNK // max(len(rows), 1)))
            for start in range(0, self.down, together):
                yield rows * min(together, self.down - start)

    def read(self, start: int, length: int) -> bytes:
        """Bytes `start` to `start + length` of the tensor, computed without the rest of it."""
        _, rows, size = self.block.shape
        line = size * self.across
        first, last = start // line, -(-(start + length) // line)
        parts = []
        for row in range(first, last):
            section, inside = divmod(row, rows * self.down)
            parts.append(self.block[section, inside % rows].tobytes() * self.across)
        return b"".join(parts)[start - first * line : start - first * line + length]


@dataclass(frozen=True)
class Shard:
    """One safetensors file of an expert; tensors of wider items come first, so that each is aligned to its items."""

    name: str
    pieces: tuple[Piece, ...]

    @property
    def header(self) -> bytes:
        """Length and JSON header, padded to eight bytes, as the safetensors format wants them."""
        offset = 0
        body: dict[str, Any] = {"__metadata__": {"format": "pt"}}
        for piece in self.pieces:
            body[piece.name] = {
                "dtype": piece.dtype, "shape": list(piece.shape), "data_offsets": [offset, offset + piece.nbytes],
            }  # fmt: skip
            offset += piece.nbytes
        raw = json.dumps(body, separators=(",", ":")).encode()
        raw += b" " * (-len(raw) % 8)
        return len(raw).to_bytes(8, "little") + raw

    @property
    def nbytes(self) -> int:
        """Size of the file."""
        return len(self.header) + sum(piece.nbytes for piece in self.pieces)

    def write(self, folder: Path) -> None:
        """Write the file into `folder`."""
        with (folder / self.name).open("wb", buffering=0) as file:
            for data in (self.header, *(chunk for piece in self.pieces for chunk in piece.chunks())):
                left = memoryview(data)
                while left:
                    left = left[file.write(left) :]


def factor_of(width: int) -> int:
    """How often the embedded model's 192 channels are repeated. ValueError where that is no power of two."""
    trained = _trained_width()
    times, rest = divmod(width, trained)
    if rest or times < 1 or times & (times - 1):
        near = trained << max(0, round(np.log2(max(width, 1) / trained)))
        raise ValueError(f"width {width} is not {trained} times a power of two; the nearest is {near}")
    return times


def expert_shards(
    expert: str,
    form: TileFormat,
    width: int = WIDTH,
    layers: int = LAYERS,
    *,
    shard_bytes: int = SHARD_BYTES,
    nibbles: NibbleOrder = "low_first",
) -> tuple[Shard, ...]:
    """The files of one expert, as recipes: nothing large is computed until a shard is written or read.

    Args:
        expert: `transformer` or `transformer_2`.
        form: `base` (BF16), `fp8` or `nvfp4`.
        width: 192 times a power of two.
        layers: at least as many as the embedded model has.
        shard_bytes: a shard is closed once it holds this much.
        nibbles: order of an NVFP4 checkpoint's nibbles.

    Raises:
        ValueError: a width or a number of layers that cannot be made.
    """
    times, depth = factor_of(width), _config(expert)["num_layers"]
    if layers < depth:
        raise ValueError(f"the embedded model has {depth} layers: a larger one cannot have {layers}")
    tensors = read(WEIGHTS / expert / f"{_FILE}.safetensors")
    if form != "base":
        amax = json.loads(CALIBRATION.read_text(encoding="utf-8"))["activation_amax"][expert]
        tensors = quantize(tensors, amax, form, nibbles)
    groups: list[list[Piece]] = [[]]
    size = 0
    for name, tensor in _deepened(tensors, depth, layers):
        piece = _tiled(name, tensor, times)
        if size and size + piece.nbytes > shard_bytes:
            groups.append([])
            size = 0
        groups[-1].append(piece)
        size += piece.nbytes
    total = len(groups)
    names = [f"{_FILE}-{index:05d}-of-{total:05d}.safetensors" for index in range(1, total + 1)]
    aligned = (sorted(pieces, key=lambda piece: -_ITEM_BYTES[piece.dtype]) for pieces in groups)
    return tuple(Shard(name, tuple(pieces)) for name, pieces in zip(names, aligned, strict=True))


def expert_config(expert: str, form: TileFormat, width: int = WIDTH, layers: int = LAYERS) -> dict[str, Any]:
    """`config.json` of one expert, as the exporter would write it."""
    times, config = factor_of(width), _config(expert)
    config |= {
        "num_attention_heads": config["num_attention_heads"] * times,
        "ffn_dim": config["ffn_dim"] * times,
        "num_layers": layers,
    }
    if form != "base":
        kept = ["blocks.0*", f"blocks.{layers - 1}*", "condition_embedder*", "patch_embedding", "proj_out"]
        config["quantization_config"] = quantization_config(form, kept, "config.json")
    return config


def shard_index(shards: tuple[Shard, ...]) -> dict[str, Any]:
    """The content of `diffusion_pytorch_model.safetensors.index.json`."""
    return {
        "metadata": {"total_size": sum(piece.nbytes for shard in shards for piece in shard.pieces)},
        "weight_map": {piece.name: shard.name for shard in shards for piece in shard.pieces},
    }


def model_bytes(form: TileFormat, width: int = WIDTH, layers: int = LAYERS) -> int:
    """Bytes of both experts on disk."""
    return sum(shard.nbytes for expert in EXPERTS for shard in expert_shards(expert, form, width, layers))


def is_made(folder: Path, form: TileFormat, width: int, layers: int) -> bool:
    """Whether `folder` holds this model already. A folder appears under its name only once it is complete."""
    for expert in EXPERTS:
        try:
            config = json.loads((folder / expert / "config.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return False
        if config != expert_config(expert, form, width, layers):
            return False
    return True


def tile(
    out: Path,
    form: TileFormat,
    width: int = WIDTH,
    layers: int = LAYERS,
    *,
    shard_bytes: int = SHARD_BYTES,
    workers: int = 0,
    say: Callable[[str], None] = lambda _line: None,
) -> Path:
    """Write the model as a Diffusers repository to `out/<form>`, and return that folder.

    A folder that holds this model already is left as it is; any other is replaced. It appears whole or not at all.

    Args:
        out: the folder that takes one folder per format.
        form: `base`, `fp8` or `nvfp4`.
        width, layers: size of the model.
        shard_bytes: a shard is closed once it holds this much.
        workers: shards that are written at once; 0: one per core, 8 at most.
        say: called with a line per shard: n of N and an estimate.

    Raises:
        ValueError: a size that cannot be made.
        OSError: the disk has no room; nothing is left behind then.
    """
    target, part = out / form, out / f".{form}.{os.getpid()}.part"
    plans = {expert: expert_shards(expert, form, width, layers, shard_bytes=shard_bytes) for expert in EXPERTS}
    if is_made(target, form, width, layers):
        return target
    shutil.rmtree(target, ignore_errors=True)
    out.mkdir(parents=True, exist_ok=True)
    needed = sum(shard.nbytes for shards in plans.values() for shard in shards)
    free = shutil.disk_usage(out).free
    if needed > free:
        raise OSError(f"{out} has {free / 1e9:.1f} GB free, and the {form} model needs {needed / 1e9:.1f} GB")
    try:
        shutil.copytree(WEIGHTS, part, ignore=shutil.ignore_patterns(*EXPERTS, "manifest.json"))
        for expert, shards in plans.items():
            (part / expert).mkdir()
            index = json.dumps(shard_index(shards))
            (part / expert / f"{_FILE}.safetensors.index.json").write_text(index, encoding="utf-8")
            config = json.dumps(expert_config(expert, form, width, layers), indent=4)
            (part / expert / "config.json").write_text(config, encoding="utf-8")
        _write_all([(part / expert, shard) for expert, shards in plans.items() for shard in shards], workers, say)
        part.replace(target)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    return target


def _write_all(shards: list[tuple[Path, Shard]], workers: int, say: Callable[[str], None]) -> None:
    started, done, total = time.monotonic(), 0, sum(shard.nbytes for _, shard in shards)
    with ThreadPoolExecutor(workers or min(8, os.cpu_count() or 1)) as pool:
        writes = pool.map(lambda row: row[1].write(row[0]), shards)
        for number, ((_, shard), _done) in enumerate(zip(shards, writes, strict=True), 1):
            done += shard.nbytes
            left = (time.monotonic() - started) * (total - done) / done
            say(f"shard {number} of {len(shards)}, {done / 1e9:.1f} of {total / 1e9:.1f} GB, {left:.0f} s left")


def _deepened(tensors: dict[str, Tensor], depth: int, layers: int) -> Iterator[tuple[str, Tensor]]:
    """Tensors of a model with `layers` layers: the last block stays last, new ones come before it."""
    blocks: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if match := _BLOCK.fullmatch(name):
            blocks.setdefault(int(match[1]), {})[match[2]] = tensor
        else:
            yield name, tensor
    for layer in range(layers):
        source = depth - 1 if layer == layers - 1 else min(layer, depth - 1)
        silent = depth - 1 <= layer < layers - 1
        block = blocks[1 if silent else source]
        for rest, tensor in block.items():
            yield f"blocks.{layer}.{rest}", _silenced(rest, tensor, block) if silent else tensor


def _silenced(name: str, tensor: Tensor, block: dict[str, Tensor]) -> Tensor:
    """The tensor as it is in a silent layer: the outer scale of an output projection carries the factor."""
    match = _SILENT.fullmatch(name)
    if match is None:
        return tensor
    leaf, module = match["leaf"], name.rpartition(".")[0]
    outer = "weight_scale_2" if f"{module}.weight_scale_2" in block else "weight_scale"
    carrier = outer if f"{module}.{outer}" in block else "weight"
    return _scaled(tensor, SILENT_FACTOR) if leaf in ("bias", carrier) else tensor


def _tiled(name: str, tensor: Tensor, times: int) -> Piece:
    """One tensor of the embedded model in its large form."""
    module, _, leaf = name.rpartition(".")
    shape, share = tensor.array.shape, np.float32(1.0 / times)
    if leaf == "input_scale" or name == "proj_out.bias":
        return _piece(name, tensor, 1, 1)
    if leaf in ("weight_scale", "weight_scale_2") and tensor.dtype == "F32":
        return _piece(name, _scaled(tensor, share), 1, 1)
    if module.endswith("time_proj"):
        plain = tensor if leaf == "bias" else _scaled(tensor, share)
        return _piece(name, plain, times if len(shape) > 1 else 1, times, sections=6)
    if name == "proj_out.weight":
        return _piece(name, _scaled(tensor, share), 1, times)
    if name.endswith("scale_shift_table") or len(shape) == 1:
        return _piece(name, tensor, 1, times)
    if name == "patch_embedding.weight" or module.endswith(_ENTRY):
        return _piece(name, tensor, times, 1)
    if len(shape) != 2:
        raise ValueError(f"{name} has shape {list(shape)}: it is not known how it grows with the width")
    # codes and block scales are repeated as they are; their outer scale carries the factor
    return _piece(name, _scaled(tensor, share) if tensor.dtype in ("BF16", "F32") else tensor, times, times)


def _piece(name: str, tensor: Tensor, down: int, across: int, sections: int = 1) -> Piece:
    shape = tensor.array.shape
    array = np.ascontiguousarray(tensor.array)
    rows = shape[0] if len(shape) > 1 else 1
    if len(shape) == 3:  # a scale_shift_table [1, n, D]: only its last axis grows
        rows = shape[1]
    if sections > 1:
        rows = rows // sections if len(shape) > 1 else 1
    block = array.reshape(sections, rows, -1).view(np.uint8)
    grown = list(shape)
    if len(shape) == 1:
        grown[0] *= across
    elif shape:
        grown[0] *= down
        if across > 1:
            grown[-1] *= across
    return Piece(name, tensor.dtype, tuple(grown), block, down, across)


def _scaled(tensor: Tensor, factor: np.float32) -> Tensor:
    """The tensor times a power of two. ValueError where that is not exact."""
    plain = tensor.float32()
    values = (plain * factor).astype(tensor.array.dtype)
    if not np.array_equal(values.astype(np.float32), plain * factor):
        raise ValueError(f"times {factor:g} is not exact in {tensor.dtype}")
    return Tensor(tensor.dtype, values)


def _config(expert: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((WEIGHTS / expert / "config.json").read_text(encoding="utf-8"))
    return document


def _trained_width() -> int:
    config = _config(EXPERTS[0])
    return int(config["num_attention_heads"]) * int(config["attention_head_dim"])


def _say(line: str) -> None:
    print(f"  {line}", flush=True)


def main(arguments: list[str] | None = None) -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="python -m tiny.tile", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--width", type=int, default=WIDTH, help="192 times a power of two")
    parser.add_argument("--layers", type=int, default=LAYERS)
    parser.add_argument("--shard-gb", type=float, default=SHARD_BYTES / (1 << 30))
    parser.add_argument("formats", nargs="*", metavar="FORMAT", help=f"which (default all): {', '.join(FORMATS)}")
    options = parser.parse_args(arguments)
    chosen = options.formats or FORMATS
    if unknown := sorted(set(chosen) - set(FORMATS)):
        parser.error(f"there is no format {', '.join(unknown)}; there are {', '.join(FORMATS)}")
    for form in chosen:
        started = time.monotonic()
        try:
            shard_bytes = int(options.shard_gb * (1 << 30))
            folder = tile(options.out, form, options.width, options.layers, shard_bytes=shard_bytes, say=_say)
        except (ValueError, OSError) as error:
            print(f"python -m tiny.tile: {error}", file=sys.stderr)
            return 2
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        print(f"{folder}  {size / 1e9:.2f} GB  {time.monotonic() - started:.1f} s", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
