"""Read the tensors and declared formats of a transformer folder from headers alone, without weights and torch."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import CheckpointFaultError
from harness.formats.config import Declaration, declaration
from harness.formats.errors import ConfigError, HeaderError
from harness.formats.header import read_header
from harness.reading import UnreadableError, read_foreign, reason

QUANTIZED_DTYPES = {"U8": "nvfp4", "F8_E4M3": "fp8"}
"""Safetensors dtype of a quantized weight, and its format in a ModelOpt export."""
ABSENT = {
    "weight_scale": "scale_missing", "weight_scale_2": "global_scale_missing", "input_scale": "input_scale_missing",
}  # fmt: skip
"""The inspector's cause code for each missing scale."""


@dataclass(frozen=True)
class TensorInfo:
    """Place, dtype and shape of a stored tensor."""

    file: Path
    dtype: str
    shape: tuple[int, ...]


def read_config(folder: Path) -> dict[str, Any]:
    """Read ``config.json`` of a model folder.

    Raises:
        CheckpointFaultError: the file is absent or holds no JSON object.
    """
    path = folder / "config.json"
    try:
        config = read_foreign(path)
    except (OSError, UnreadableError) as error:
        raise CheckpointFaultError(
            f"cannot be read: {reason(error)}", where=str(path), code="config_invalid"
        ) from error
    if not isinstance(config, dict):
        raise CheckpointFaultError("holds no JSON object", where=str(path), code="config_invalid")
    return config


def read_headers(folder: Path) -> dict[str, TensorInfo]:
    """Return every tensor of a model folder by name, from the shards in the index, or from the only shard.

    Raises:
        CheckpointFaultError: no weights, several shards without an index, a missing shard, an index with tensors that
            its shards do not hold, or a damaged header.
    """
    indices = _preferred(folder, ".safetensors.index.json")
    shards = _preferred(folder, ".safetensors")
    if not indices:
        if len(shards) != 1:
            found = f"{len(shards)} .safetensors files and no index" if shards else "no .safetensors file"
            raise CheckpointFaultError(f"holds {found}", where=str(folder), code="shard_missing")
        return _header(shards[0])
    index = indices[0]
    try:
        body = read_foreign(index)
    except (OSError, UnreadableError) as error:
        raise CheckpointFaultError(f"is no index: {reason(error)}", where=str(index), code="index_invalid") from error
    placed = body.get("weight_map") if isinstance(body, dict) else None
    if not isinstance(placed, dict) or not all(isinstance(name, str) for name in placed.values()):
        raise CheckpointFaultError(
            "is no index: weight_map is not a map of names", where=str(index), code="index_invalid"
        )
    tensors: dict[str, TensorInfo] = {}
    headers = {name: _header(_inside(folder, name, index)) for name in sorted(set(placed.values()))}
    for tensor, name in placed.items():
        if tensor not in headers[name]:
            raise CheckpointFaultError(
                f"places {tensor} in {name}, which does not hold it", where=str(index), code="index_stale"
            )
        tensors[tensor] = headers[name][tensor]
    return tensors


def formats_of(tensors: dict[str, TensorInfo]) -> dict[str, str]:
    """Return the formats that the tensors imply: module name to ``fp8`` or ``nvfp4``, for every quantized module.

    Raises:
        CheckpointFaultError: a quantized weight without its scales, or scales without a quantized weight.
    """
    formats: dict[str, str] = {}
    for name, info in sorted(tensors.items()):
        module, _, kind = name.rpartition(".")
        if kind == "weight" and info.dtype in QUANTIZED_DTYPES:
            formats[module] = QUANTIZED_DTYPES[info.dtype]
    for module, form in formats.items():
        wanted = ("weight_scale", "weight_scale_2") if form == "nvfp4" else ("weight_scale",)
        for scale in wanted:
            if f"{module}.{scale}" not in tensors:
                where = str(tensors[f"{module}.weight"].file)
                raise CheckpointFaultError(
                    f"{module} holds an {form} weight and no {scale}", where=where, code=ABSENT[scale]
                )
    for name, info in sorted(tensors.items()):
        module, _, kind = name.rpartition(".")
        if kind in {"weight_scale", "weight_scale_2", "input_scale"} and module not in formats:
            held = tensors[f"{module}.weight"].dtype if f"{module}.weight" in tensors else "no"
            raise CheckpointFaultError(
                f"{module} has a {kind} and {held} weight", where=str(info.file), code="dtype_differs"
            )
    return formats


def declared(config: dict[str, Any], folder: Path) -> Declaration:
    """Return the quantization that ``config.json`` declares.

    Raises:
        CheckpointFaultError: the section is invalid.
    """
    said = config.get("quantization_config") or {}
    where = str(folder / "config.json")
    if not isinstance(said, dict):
        raise CheckpointFaultError("quantization_config is no object", where=where, code="config_invalid")
    try:
        return declaration(said, "config.json")
    except ConfigError as error:
        raise CheckpointFaultError(f"quantization_config: {error.what}", where=where, code="config_invalid") from error


def override_folder(root: Path, role: str) -> Path:
    """Return the folder of an override's weights: ``root``, or its subfolder ``role`` or ``transformer``.

    Raises:
        CheckpointFaultError: none of them holds a ``config.json``.
    """
    # the subfolders first: a whole repository may also have a config.json at its top
    for folder in (root / role, root / "transformer", root):
        if (folder / "config.json").is_file():
            return folder
    raise CheckpointFaultError(
        f"holds no {role}/config.json and no config.json", where=str(root), code="config_invalid"
    )


def _preferred(folder: Path, ending: str) -> list[Path]:
    """Return the file of diffusers' standard name with this ending if it exists (so no variants), else all files."""
    standard = folder / f"diffusion_pytorch_model{ending}"
    return [standard] if standard.is_file() else sorted(folder.glob(f"*{ending}"))


def _inside(folder: Path, name: str, index: Path) -> Path:
    # an index comes with the weights, so it must not lead out of its folder
    if Path(name).name != name:
        raise CheckpointFaultError(
            f"places tensors in {name!r}, outside its folder", where=str(index), code="index_invalid"
        )
    return folder / name


def _header(path: Path) -> dict[str, TensorInfo]:
    try:
        with path.open("rb", buffering=0) as file:
            header = read_header(
                str(path), os.fstat(file.fileno()).st_size, lambda start, size: os.pread(file.fileno(), size, start)
            )
    except FileNotFoundError as error:
        raise CheckpointFaultError(
            "the index names it and it is not there", where=str(path), code="shard_missing"
        ) from error
    except (OSError, HeaderError) as error:
        text = error.what if isinstance(error, HeaderError) else reason(error)
        raise CheckpointFaultError(
            f"its header cannot be read: {text}", where=str(path), code="header_invalid"
        ) from error
    return {name: TensorInfo(path, entry.dtype, entry.shape) for name, entry in header.tensors.items()}
