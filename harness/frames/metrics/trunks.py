"""The convolutional trunks under LPIPS, without torchvision: layers as data, features read off at LPIPS' taps.

Key names are torchvision's (``features.0.weight``), so that a state dict of ``torchvision.models.alexnet``, ``vgg16``
or ``squeezenet1_1`` saved as safetensors fits. That the result equals ``lpips.LPIPS`` bit by bit is tested against
that package where it is installed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch

Net = Literal["alex", "vgg", "squeeze"]

Layer = tuple[str, int, int, int]
"""Kind and its numbers: ``conv`` key, stride, padding; ``fire`` key; ``pool`` kernel, stride, ceil mode; ``relu``."""


def _conv(key: int, stride: int = 1, padding: int = 1) -> Layer:
    return ("conv", key, stride, padding)


RELU: Layer = ("relu", 0, 0, 0)
TAP: Layer = ("tap", 0, 0, 0)
POOL_3: Layer = ("pool", 3, 2, 0)
POOL_3_UP: Layer = ("pool", 3, 2, 1)
POOL_2: Layer = ("pool", 2, 2, 0)


def _vgg() -> tuple[Layer, ...]:
    layers: list[Layer] = []
    for block, keys in enumerate(((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28))):
        layers += [POOL_2] if block else []
        for key in keys:
            layers += [_conv(key), RELU]
        layers.append(TAP)
    return tuple(layers)


def _fire(key: int) -> Layer:
    return ("fire", key, 0, 0)


LAYERS: dict[Net, tuple[Layer, ...]] = {
    "alex": (
        *(_conv(0, 4, 2), RELU, TAP),
        *(POOL_3, _conv(3, 1, 2), RELU, TAP),
        *(POOL_3, _conv(6), RELU, TAP),
        *(_conv(8), RELU, TAP),
        *(_conv(10), RELU, TAP),
    ),
    "vgg": _vgg(),
    "squeeze": (
        *(_conv(0, 2, 0), RELU, TAP),
        *(POOL_3_UP, _fire(3), _fire(4), TAP),
        *(POOL_3_UP, _fire(6), _fire(7), TAP),
        *(POOL_3_UP, _fire(9), TAP),
        *(_fire(10), TAP, _fire(11), TAP, _fire(12), TAP),
    ),
}


def parameter_names(net: Net) -> tuple[str, ...]:
    """Names of the parameters that the trunk reads."""
    names: list[str] = []
    for kind, key, _, _ in LAYERS[net]:
        parts = {"conv": [""], "fire": [".squeeze", ".expand1x1", ".expand3x3"]}.get(kind, [])
        names += [f"features.{key}{part}.{end}" for part in parts for end in ("weight", "bias")]
    return tuple(names)


def features(net: Net, weights: Mapping[str, torch.Tensor], image: torch.Tensor) -> list[torch.Tensor]:
    """Activations at LPIPS' taps of a normalised image [N, 3, H, W], each [N, C, h, w]."""
    from torch.nn import functional as F

    def convolve(x: torch.Tensor, key: str, stride: int, padding: int) -> torch.Tensor:
        return F.conv2d(x, weights[f"{key}.weight"], weights[f"{key}.bias"], stride=stride, padding=padding)

    import torch

    taps: list[torch.Tensor] = []
    x = image
    for kind, first, second, third in LAYERS[net]:
        if kind == "conv":
            x = convolve(x, f"features.{first}", second, third)
        elif kind == "relu":
            x = F.relu(x)
        elif kind == "pool":
            x = F.max_pool2d(x, first, second, ceil_mode=bool(third))
        elif kind == "fire":
            key = f"features.{first}"
            squeezed = F.relu(convolve(x, f"{key}.squeeze", 1, 0))
            wide = (convolve(squeezed, f"{key}.expand1x1", 1, 0), convolve(squeezed, f"{key}.expand3x3", 1, 1))
            x = torch.cat([F.relu(part) for part in wide], dim=1)
        else:
            taps.append(x)
    return taps
