"""Read the tensors and declared formats of a transformer folder from headers alone, without weights and torch."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import CheckpointFaultError
from harness.formats.config import Declaration, declaration
from harness.formats.errors import ConfigError, HeaderError
from harness.formats.header import TensorEntry, read_header
from harness.formats.registry import built_in_formats, stored_format
from harness.formats.spec import Format
from harness.reading import UnreadableError, read_foreign, reason

ABSENT = {scale.suffix: scale.absent for form in built_in_formats().values() for scale in form.scales}
"""The inspector's cause code for each missing scale of a built-in format."""


@dataclass(frozen=True)
class TensorInfo:
    """Place, dtype and shape of a stored tensor."""

    file: Path
    entry: TensorEntry

    @property
    def dtype(self) -> str:
        """Return the safetensors dtype."""
        return self.entry.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        """Return the stored shape."""
        return self.entry.shape


def read_config(folder: Path, remedy: str = "") -> dict[str, Any]:
    """Read ``config.json`` of a model folder.

    Args:
        folder: of a transformer or another component.
        remedy: next command of the error.

    Raises:
        CheckpointFaultError: the file is absent or holds no JSON object.
    """
    path = folder / "config.json"
    try:
        config = read_foreign(path)
    except (OSError, UnreadableError) as error:
        raise CheckpointFaultError(
            f"cannot be read: {reason(error)}", place=str(path), remedy=remedy, code="config_invalid"
        ) from error
    if not isinstance(config, dict):
        raise CheckpointFaultError("holds no JSON object", place=str(path), remedy=remedy, code="config_invalid")
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
            files = f"{len(shards)} .safetensors files and no index" if shards else "no .safetensors file"
            raise CheckpointFaultError(f"holds {files}", place=str(folder), code="shard_missing")
        return _header(shards[0])
    index = indices[0]
    try:
        body = read_foreign(index)
    except (OSError, UnreadableError) as error:
        raise CheckpointFaultError(f"is no index: {reason(error)}", place=str(index), code="index_invalid") from error
    placed = body.get("weight_map") if isinstance(body, dict) else None
    if not isinstance(placed, dict) or not all(isinstance(name, str) for name in placed.values()):
        raise CheckpointFaultError(
            "is no index: weight_map is not a map of names", place=str(index), code="index_invalid"
        )
    tensors: dict[str, TensorInfo] = {}
    headers = {name: _header(_inside(folder, name, index)) for name in sorted(set(placed.values()))}
    for tensor, name in placed.items():
        if tensor not in headers[name]:
            raise CheckpointFaultError(
                f"places {tensor} in {name}, which does not hold it", place=str(index), code="index_stale"
            )
        tensors[tensor] = headers[name][tensor]
    return tensors


def formats_of(tensors: Mapping[str, TensorInfo], declaration: Mapping[str, Any]) -> dict[str, str]:
    """Return the formats that the tensors imply: module name to format, for every quantized module.

    Args:
        tensors: of the model folder.
        declaration: ``quantization_config``, which a registered format may need to recognise itself.

    Raises:
        CheckpointFaultError: a format that the engine cannot run, a quantized weight without its scales, or scales
            without a quantized weight.
    """
    formats: dict[str, str] = {}
    for module, beside in sorted(_by_module(tensors).items()):
        if (form := _format_of(beside, declaration)) is not None:
            formats[module] = form.name
            _check_scales(module, form, beside)
    for name, info in sorted(tensors.items()):
        module, _, kind = name.rpartition(".")
        if kind in ABSENT and module not in formats:
            dtype = tensors[f"{module}.weight"].dtype if f"{module}.weight" in tensors else "no"
            raise CheckpointFaultError(
                f"{module} has a {kind} and {dtype} weight", place=str(info.file), code="dtype_differs"
            )
    return formats


def parts_of(form: str, module: str, tensors: Mapping[str, TensorInfo]) -> set[str]:
    """Return the suffixes that the tensors of a quantized Linear may have: of a registered format all that are stored.

    A built-in format has the names of ``ABSENT`` only; any other tensor beside the weight is unexpected.
    """
    if form in built_in_formats():
        return {"weight", *ABSENT}
    prefix = f"{module}."
    return {name.removeprefix(prefix) for name in tensors if name.startswith(prefix)} - {"bias"}


def formats_promised(tensors: Mapping[str, TensorInfo], declaration: Mapping[str, Any]) -> dict[str, str]:
    """Return module name to format of every quantized weight, without a check of its scales."""
    formats = {module: _format_of(beside, declaration) for module, beside in _by_module(tensors).items()}
    return {module: form.name for module, form in formats.items() if form is not None}


def _by_module(tensors: Mapping[str, TensorInfo]) -> dict[str, dict[str, TensorInfo]]:
    """Return the tensors of every module by suffix."""
    modules: dict[str, dict[str, TensorInfo]] = {}
    for name, info in tensors.items():
        module, _, suffix = name.rpartition(".")
        modules.setdefault(module, {})[suffix] = info
    return modules


def _format_of(beside: Mapping[str, TensorInfo], declaration: Mapping[str, Any]) -> Format | None:
    if "weight" not in beside:
        return None
    parts = {suffix: info.entry for suffix, info in beside.items() if suffix not in ("weight", "bias")}
    recognised = stored_format(beside["weight"].entry, parts, declaration)
    return None if recognised is None else recognised[0]


def _check_scales(module: str, form: Format, beside: Mapping[str, TensorInfo]) -> None:
    place = str(beside["weight"].file)
    if not form.runs:
        fault = f"{module} is stored as {form.title}, which this engine does not run"
        raise CheckpointFaultError(fault, place=place, code="unsupported_layout")
    for scale in form.scales:
        if scale.required and scale.suffix not in beside:
            fault = f"{module} holds an {form.name} weight and no {scale.suffix}"
            raise CheckpointFaultError(fault, place=place, code=scale.absent)


def declared(config: dict[str, Any], folder: Path) -> Declaration:
    """Return the quantization that ``config.json`` declares.

    Raises:
        CheckpointFaultError: the section is invalid.
    """
    quantization = config.get("quantization_config") or {}
    place = str(folder / "config.json")
    if not isinstance(quantization, dict):
        raise CheckpointFaultError("quantization_config is no object", place=place, code="config_invalid")
    try:
        return declaration(quantization, "config.json")
    except ConfigError as error:
        raise CheckpointFaultError(
            f"quantization_config: {error.message}", place=place, code="config_invalid"
        ) from error


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
        f"holds no {role}/config.json and no config.json", place=str(root), code="config_invalid"
    )


def _preferred(folder: Path, ending: str) -> list[Path]:
    """Return the file of diffusers' standard name with this ending if it exists (so no variants), else all files."""
    standard = folder / f"diffusion_pytorch_model{ending}"
    return [standard] if standard.is_file() else sorted(folder.glob(f"*{ending}"))


def _inside(folder: Path, name: str, index: Path) -> Path:
    # an index comes with the weights, so it must not lead out of its folder
    if Path(name).name != name:
        raise CheckpointFaultError(
            f"places tensors in {name!r}, outside its folder", place=str(index), code="index_invalid"
        )
    return folder / name


def _header(path: Path) -> dict[str, TensorInfo]:
    try:
        # opening a pipe without O_NONBLOCK would wait for a writer
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:

            def read(start: int, length: int) -> bytes:
                file.seek(start)
                return file.read(length)

            header = read_header(path.name, os.fstat(file.fileno()).st_size, read)
    except FileNotFoundError as error:
        raise CheckpointFaultError(
            "the index names it and it is not there", place=str(path), code="shard_missing"
        ) from error
    except (OSError, HeaderError) as error:
        fault = error.message if isinstance(error, HeaderError) else reason(error)
        raise CheckpointFaultError(
            f"its header cannot be read: {fault}", place=str(path), code="header_invalid"
        ) from error
    return {name: TensorInfo(path, entry) for name, entry in header.tensors.items()}
