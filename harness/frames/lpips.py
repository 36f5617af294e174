"""LPIPS, the learned distance of image patches, computed by the ``lpips`` package with a pinned trunk.

Optional: ``pip install 'quantgate[lpips]'``. Its three networks are registered in the entry point group
``quantgate.metrics`` like the metrics of any other package, and gate only where a case names them.

LPIPS is a trunk (a convolutional network from torchvision) and a few linear heads. The package carries the heads. It
would download the trunk as a pickle, unpinned; here the trunk is a safetensors file that the environment states
together with its sha256, and without one the metric is not computed.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from harness.frames.errors import MetricUnavailableError
from harness.frames.metric import Measurement, Pair
from harness.reading import UnreadableError, read_bytes, reason
from harness.records.frames import MetricDirection

if TYPE_CHECKING:
    import torch

Net = Literal["alex", "vgg", "squeeze"]
LARGEST_TRUNK = 1 << 30
"""Bytes of the largest file of weights that is read. VGG16, the largest trunk, has 553 MB with its classifier."""
SMALLEST_SIDE = 32
"""Pixels. On smaller frames the last layers of the trunks have no output."""


@dataclass(frozen=True)
class Lpips:
    """LPIPS of each frame with one trunk, version 0.1 of the heads."""

    net: Net = "alex"
    gates: bool = False  # it needs weights that nobody has by default, and saturates on models that drift
    direction: MetricDirection = "lower_is_better"
    scope: Literal["frame", "clip"] = "frame"
    unit: str = ""
    ideal: float = 0.0
    valid_range: tuple[float, float] = (0.0, 10.0)
    blind_to: str = "time; in chaotic models it saturates between two equally good videos"
    source: str = "Zhang et al. 2018, arXiv:1801.03924, version 0.1"

    @property
    def name(self) -> str:
        """``lpips_alex``, ``lpips_vgg`` or ``lpips_squeeze``."""
        return f"lpips_{self.net}"

    @property
    def setting(self) -> str:
        """The trunk's network. The digest of its weights is in the result's ``implementation``."""
        return f"{self.net}, v0.1, weights of the environment"

    def measure(self, pair: Pair) -> Measurement:
        """Return LPIPS of each frame, computed on the CPU frame by frame.

        Raises:
            MetricUnavailableError: the frames are too small, or package or weights are missing; nothing is downloaded
                that the environment does not name.
        """
        import torch

        count, height, width, _ = pair.golden.shape
        if min(height, width) < SMALLEST_SIDE:
            raise MetricUnavailableError(f"LPIPS needs {SMALLEST_SIDE} pixels a side, the frames are {width}x{height}")
        trunk, digest = read_trunk(self.net)
        model = load_model(self.net, trunk)
        values = np.empty(count)
        with torch.inference_mode():
            for index in range(count):
                golden, candidate = (
                    # [H, W, 3] of bytes -> [1, 3, H, W] in [-1, 1], as the package expects
                    torch.tensor(clip.frames[index]).permute(2, 0, 1)[None].float() / 127.5 - 1.0
                    for clip in (pair.golden, pair.candidate)
                )
                values[index] = float(model(golden, candidate))
        return Measurement(per_frame=values, implementation=f"lpips package, trunk {digest[:12]}")


def alex() -> Lpips:
    """Return LPIPS with AlexNet, the fastest and the authors' choice for comparing images."""
    return Lpips("alex")


def vgg() -> Lpips:
    """Return LPIPS with VGG16."""
    return Lpips("vgg")


def squeeze() -> Lpips:
    """Return LPIPS with SqueezeNet 1.1."""
    return Lpips("squeeze")


def read_trunk(net: Net) -> tuple[dict[str, torch.Tensor], str]:
    """Read the trunk that ``QUANTGATE_LPIPS_<NET>`` states and return its parameters and the file's sha256 (hex).

    The variable is the path of a safetensors file with torchvision's parameter names, such as ``features.0.weight``,
    or ``hub:<owner>/<repo>/<file>@<commit>``. ``QUANTGATE_LPIPS_<NET>_SHA256`` is the file's sha256.

    Raises:
        MetricUnavailableError: a variable is missing, or the file cannot be read or has another digest.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    variable = f"QUANTGATE_LPIPS_{net.upper()}"
    location, expected = os.environ.get(variable, ""), os.environ.get(f"{variable}_SHA256", "").lower()
    if not location:
        raise MetricUnavailableError(
            f"no weights for LPIPS' {net} trunk: set {variable} to a safetensors file (a path, or "
            f"hub:<owner>/<repo>/<file>@<commit>) and {variable}_SHA256 to its sha256; docs/limits.md shows how to "
            "make one"
        )
    if not expected:
        raise MetricUnavailableError(f"{variable} is set and {variable}_SHA256 is not: unpinned weights are not used")
    path = _download(location) if location.startswith("hub:") else Path(location)
    try:
        data = read_bytes(path, limit=LARGEST_TRUNK)
    except (OSError, UnreadableError) as error:
        raise MetricUnavailableError(
            f"{path}: LPIPS weights cannot be read: {reason(error)}; set {variable} to a file that docs/limits.md makes"
        ) from error
    # Digest and parameters come from the same bytes: the file cannot change in between. Bytes with another digest are
    # never parsed, so the header needs no check of its own.
    digest = hashlib.sha256(data).hexdigest()
    if digest != expected:
        raise MetricUnavailableError(f"{path}: LPIPS weights have sha256 {digest}, {variable}_SHA256 is {expected}")
    try:
        return load(data), digest
    except SafetensorError as error:
        raise MetricUnavailableError(f"{path}: not a safetensors file: {error}") from error


def load_model(net: Net, trunk: dict[str, torch.Tensor]) -> Any:
    """Build the package's model with the parameters of ``trunk``; called with two images, it returns their distance.

    Raises:
        MetricUnavailableError: the package cannot be imported, or the trunk is of another network.
    """
    try:
        import lpips
    except (ImportError, RuntimeError) as error:  # torchvision raises RuntimeError beside a torch that it does not fit
        raise MetricUnavailableError(
            f"the lpips package cannot be imported ({error}); pip install 'quantgate[lpips]'"
        ) from error
    # pnet_rand: a trunk without weights, which the next lines fill; otherwise the package downloads one.
    model = lpips.LPIPS(net=net, pnet_rand=True, verbose=False).eval()
    # The package calls slice1.0.weight the layer that torchvision calls features.0.weight.
    names = {name: f"features.{name.split('.', 1)[1]}" for name in model.net.state_dict()}
    missing = sorted(set(names.values()) - set(trunk))
    if missing:
        raise MetricUnavailableError(
            f"the LPIPS weights are no {net} trunk: {len(missing)} parameters are missing, the first is {missing[0]}"
        )
    try:
        model.net.load_state_dict({name: trunk[source].float() for name, source in names.items()})
    except RuntimeError as error:  # shapes differ
        reason = " ".join(str(error).split())
        raise MetricUnavailableError(f"the LPIPS weights are no {net} trunk: {reason}") from error
    return model


def _download(location: str) -> Path:
    """Fetch ``hub:<owner>/<repo>/<file>@<commit>`` and return the local path."""
    from huggingface_hub import hf_hub_download

    file, _, revision = location.removeprefix("hub:").partition("@")
    parts = file.split("/", 2)
    if len(parts) != 3 or not revision:
        raise MetricUnavailableError(f"{location}: write hub:<owner>/<repo>/<file>@<commit>")
    try:
        return Path(hf_hub_download("/".join(parts[:2]), parts[2], revision=revision))
    except Exception as error:  # the hub's client raises many types; each means that the file cannot be had
        raise MetricUnavailableError(f"{location}: cannot be downloaded: {error}") from error
