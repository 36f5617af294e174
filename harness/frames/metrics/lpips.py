"""LPIPS, the learned distance of image patches. Computed with pinned weights, or not at all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from harness.frames.errors import MetricUnavailableError
from harness.frames.metric import Measurement, Pair
from harness.frames.metrics.lpips_weights import WeightSource, load_heads, load_trunk, stated_source
from harness.frames.metrics.trunks import Net, features
from harness.records.frames import MetricDirection

if TYPE_CHECKING:
    import torch

    Distance = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

SHIFT = (-0.030, -0.088, -0.188)
SCALE = (0.458, 0.448, 0.450)
"""LPIPS' own normalisation of images in [-1, 1]."""
SMALLEST_SIDE = 32
"""Pixels. Below, the trunks' last layers have nothing left to look at."""
TORCHVISION_FILES: dict[Net, str] = {
    "alex": "alexnet-owt-7be5be79.pth",
    "vgg": "vgg16-397923af.pth",
    "squeeze": "squeezenet1_1-b8a52dc0.pth",
}
"""What torchvision keeps in torch's hub folder once somebody downloaded it; never downloaded by this package."""


@dataclass(frozen=True)
class Lpips:
    """LPIPS of each frame with one trunk. ``weights``: else the environment's, else the ``lpips`` package's own."""

    net: Net = "alex"
    weights: WeightSource | None = None
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
        """The trunk, and the digest of its weights where they are stated here."""
        return f"{self.net}, v0.1, weights {self.weights.sha256[:12] if self.weights else 'of the environment'}"

    def measure(self, pair: Pair) -> Measurement:
        """LPIPS of each frame.

        Raises:
            MetricUnavailableError: no pinned weights, or frames under 32 pixels. A random trunk is never used.
        """
        import torch

        count, height, width, _ = pair.golden.shape
        if min(height, width) < SMALLEST_SIDE:
            raise MetricUnavailableError(f"LPIPS needs {SMALLEST_SIDE} pixels a side, the frames are {width}x{height}")
        distance, implementation = self._distance(pair.device)
        values = np.empty(count)
        with torch.inference_mode():
            for index in range(count):
                one, two = (
                    torch.tensor(clip.frames[index]).to(pair.device).permute(2, 0, 1)[None].float() / 127.5 - 1.0
                    for clip in (pair.golden, pair.candidate)
                )
                values[index] = float(distance(one, two))
        return Measurement(per_frame=values, implementation=implementation)

    def _distance(self, device: str) -> tuple[Distance, str]:
        source = self.weights or stated_source(self.net)
        if source is not None:
            trunk = {name: value.to(device) for name, value in load_trunk(self.net, source).items()}
            heads = [head.to(device) for head in load_heads(self.net)]
            return (
                lambda one, two: lpips_distance(self.net, trunk, heads, one, two)
            ), f"own trunk {source.sha256[:12]}"
        return _package_distance(self.net, device), "lpips package"


def lpips_distance(
    net: Net, trunk: dict[str, torch.Tensor], heads: list[torch.Tensor], one: torch.Tensor, two: torch.Tensor
) -> torch.Tensor:
    """LPIPS [N, 1, 1, 1] of images [N, 3, H, W] in [-1, 1], in the order of operations of ``lpips.LPIPS``."""
    import torch
    from torch.nn import functional as F

    shift = torch.tensor(SHIFT, device=one.device)[None, :, None, None]
    scale = torch.tensor(SCALE, device=one.device)[None, :, None, None]
    sides = [features(net, trunk, (image - shift) / scale) for image in (one, two)]
    layers = []
    for first, second, head in zip(*sides, heads, strict=True):
        unit = [side / (torch.sqrt(torch.sum(side**2, dim=1, keepdim=True)) + 1e-10) for side in (first, second)]
        layers.append(F.conv2d((unit[0] - unit[1]) ** 2, head).mean([2, 3], keepdim=True))
    total = layers[0]
    for layer in layers[1:]:
        total = total + layer
    return total


def _package_distance(net: Net, device: str) -> Distance:
    import torch

    file = f"{torch.hub.get_dir()}/checkpoints/{TORCHVISION_FILES[net]}"
    advice = (
        f"state a trunk in QUANTGATE_LPIPS_{net.upper()} (a safetensors path, or hub:<owner>/<repo>/<file>@<commit>) "
        f"and its digest in QUANTGATE_LPIPS_{net.upper()}_SHA256"
    )
    try:
        from pathlib import Path

        if not Path(file).is_file():
            raise MetricUnavailableError(f"no weights for LPIPS' {net} trunk; {advice}")
        import lpips
    except (ImportError, RuntimeError) as error:
        raise MetricUnavailableError(f"the lpips package cannot be imported ({error}); {advice}") from error
    model = lpips.LPIPS(net=net, verbose=False).to(device).eval()

    def distance(one: torch.Tensor, two: torch.Tensor) -> torch.Tensor:
        value: torch.Tensor = model(one, two)
        return value

    return distance
