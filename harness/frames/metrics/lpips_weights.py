"""Where LPIPS' numbers come from: a trunk by path or hub id, pinned by sha256, and the heads of the ``lpips`` wheel."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from harness.frames.errors import MetricUnavailableError
from harness.frames.metrics.trunks import Net, parameter_names

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class WeightSource:
    """A safetensors file with a trunk in torchvision's key names.

    ``where`` is a path, or ``hub:<owner>/<repo>/<file>@<commit>``. ``sha256`` (hex) is of the file.
    """

    where: str
    sha256: str


def stated_source(net: Net) -> WeightSource | None:
    """The source in ``QUANTGATE_LPIPS_<NET>`` and ``QUANTGATE_LPIPS_<NET>_SHA256``, or ``None`` where none is stated.

    Raises:
        MetricUnavailableError: a place without a digest.
    """
    name = f"QUANTGATE_LPIPS_{net.upper()}"
    where, digest = os.environ.get(name, ""), os.environ.get(f"{name}_SHA256", "")
    if not where:
        return None
    if not digest:
        raise MetricUnavailableError(f"{name} is set and {name}_SHA256 is not: unpinned weights are not used")
    return WeightSource(where, digest)


def fetch(source: WeightSource) -> Path:
    """The weights' file on this machine, its digest checked.

    Raises:
        MetricUnavailableError: it cannot be had, or is another file.
    """
    path = Path(source.where)
    if source.where.startswith("hub:"):
        from huggingface_hub import hf_hub_download

        place, _, revision = source.where.removeprefix("hub:").partition("@")
        parts = place.split("/", 2)
        if len(parts) != 3 or not revision:
            raise MetricUnavailableError(f"{source.where}: write hub:<owner>/<repo>/<file>@<commit>")
        try:
            path = Path(hf_hub_download("/".join(parts[:2]), parts[2], revision=revision))
        except Exception as error:
            raise MetricUnavailableError(f"{source.where}: cannot be downloaded: {error}") from error
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise MetricUnavailableError(f"{path}: LPIPS weights cannot be read: {error.strerror}") from error
    if digest != source.sha256.lower():
        raise MetricUnavailableError(f"{path}: LPIPS weights have sha256 {digest}, {source.sha256} is asked for")
    return path


def load_trunk(net: Net, source: WeightSource) -> dict[str, torch.Tensor]:
    """The trunk's parameters.

    Raises:
        MetricUnavailableError: as `fetch`, or parameters are missing.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = fetch(source)
    try:
        state: dict[str, torch.Tensor] = load_file(path)
    except SafetensorError as error:
        raise MetricUnavailableError(f"{path}: not a safetensors file: {error}") from error
    missing = [name for name in parameter_names(net) if name not in state]
    if missing:
        raise MetricUnavailableError(f"{path}: no {net} trunk: {missing[0]} and {len(missing) - 1} more are missing")
    return {name: state[name].float() for name in parameter_names(net)}


def load_heads(net: Net) -> list[torch.Tensor]:
    """The linear heads [1, C, 1, 1] that the ``lpips`` wheel carries, read without importing the package.

    The wheel has them as ``.pth``; they are read with torch's restricted loader, which builds tensors and runs no code.

    Raises:
        MetricUnavailableError: the wheel is not installed.
    """
    import torch

    spec = find_spec("lpips")
    folder = Path(spec.submodule_search_locations[0]) if spec and spec.submodule_search_locations else None
    path = folder / "weights" / "v0.1" / f"{net}.pth" if folder else None
    if path is None or not path.is_file():
        raise MetricUnavailableError("LPIPS' heads are not installed: pip install --no-deps lpips")
    state: Mapping[str, torch.Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    return [state[f"lin{index}.model.1.weight"] for index in range(len(state))]
