"""Check that the parts of a Wan2.2 pipeline fit together: index, transformers and VAE. List the published models.

Source of the rules: diffusers pipelines/wan (input channels, effect of `expand_timesteps` and `boundary_ratio`) and
its Wan converter (sizes of the published models); the boundaries are those of Wan's own configurations.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from harness.formats.codecs import FLOAT_DTYPES
from harness.inspector.findings import finding
from harness.inspector.index import Component
from harness.records.inspection import InspectionFinding

T2V, I2V = "WanPipeline", "WanImageToVideoPipeline"
PIPELINES = (T2V, I2V)
Misfit = tuple[str, tuple[str, str]]
"""A sentence without its full stop, and the two components that it names."""


@dataclass(frozen=True)
class Published:
    """One published model of Wan2.2: the configuration values that distinguish it from the others."""

    name: str
    layers: int
    width: int
    in_channels: int
    latent_channels: int
    experts: int
    pipelines: tuple[str, ...]
    expand_timesteps: bool
    boundary_ratio: float | None


PUBLISHED = (
    Published("Wan2.2-T2V-A14B", 40, 5120, 16, 16, 2, (T2V,), False, 0.875),
    Published("Wan2.2-I2V-A14B", 40, 5120, 36, 16, 2, (I2V,), False, 0.9),
    Published("Wan2.2-TI2V-5B", 30, 3072, 48, 48, 1, (T2V, I2V), True, None),
)


def published(experts: Mapping[str, Component]) -> Published | None:
    """Return the published model with the transformers' sizes and number of experts, or ``None``.

    The number of experts counts because Wan2.1 has the same sizes with one expert.
    """
    for model in PUBLISHED:
        sizes = {_sizes(component.config) for component in experts.values() if component.config}
        wanted = (model.layers, model.width, model.in_channels, model.latent_channels)
        if sizes == {wanted} and len(experts) == model.experts:
            return model
    return None


def channels_of(component: Component) -> tuple[Any, Any]:
    """Return input and output channels of a transformer, from its tensors if they show them, else from its config.

    `config_against_tensors` reports a configuration that contradicts the tensors: no other component is to blame then.
    """
    config, patch = component.config, component.tensors.get("patch_embedding.weight")
    head, size = component.tensors.get("proj_out.weight"), config.get("patch_size", (1, 2, 2))
    channels_in, channels_out = config.get("in_channels"), config.get("out_channels")
    if patch is not None and len(patch.shape) == 5:
        channels_in = patch.shape[1]
    whole = isinstance(size, list | tuple) and all(isinstance(item, int) and item > 0 for item in size)
    if head is not None and head.dtype in FLOAT_DTYPES and head.shape and whole and not head.shape[0] % math.prod(size):
        channels_out = head.shape[0] // math.prod(size)
    return channels_in, channels_out


def _sizes(config: Mapping[str, Any]) -> tuple[Any, ...]:
    heads, head = config.get("num_attention_heads"), config.get("attention_head_dim")
    width = heads * head if isinstance(heads, int) and isinstance(head, int) else None
    return config.get("num_layers"), width, config.get("in_channels"), config.get("out_channels")


def channels_wanted(index: Mapping[str, Any], config: Mapping[str, Any], size: int) -> tuple[int, ...]:
    """Return the input channels that the index's pipeline gives a transformer, for latents of ``size`` channels.

    I2V concatenates noise, a mask of 4 channels and the image's latents: 2 * 16 + 4 = 36 for A14B. With
    ``expand_timesteps`` the image replaces noise instead, so there are ``size`` channels.
    """
    expand = index.get("expand_timesteps") is True
    image = index.get("_class_name") == I2V or config.get("image_dim") is not None
    return (2 * size + 4,) if image and not expand else (size,)


def misfits(index: Mapping[str, Any], experts: Mapping[str, Component], vae: Mapping[str, Any]) -> Iterator[Misfit]:
    """Yield parts of a pipeline that cannot work together, independent of the weights."""
    if index.get("_class_name") not in PIPELINES:
        return
    second = index.get("transformer_2") not in (None, [None, None])
    expand, boundary = index.get("expand_timesteps") is True, index.get("boundary_ratio")
    if expand and second:
        yield (
            "model_index.json has expand_timesteps and two experts: no published pipeline has both",
            ("transformer_2", "transformer"),
        )
    # an index that names no part at all says nothing of how many experts there are
    if boundary is not None and not second and index.get("transformer") not in (None, [None, None]):
        yield (
            f"model_index.json switches experts at {boundary} and names no transformer_2: a run ends at the switch",
            ("transformer", "transformer"),
        )
    sizes = {
        expert: (*_sizes(component.config)[:2], *channels_of(component))
        for expert, component in experts.items()
        if component.config
    }
    # a configuration that omits a size cannot contradict the other expert
    if any(len({value for value in column if value is not None}) > 1 for column in zip(*sizes.values(), strict=True)):
        yield f"the experts are not of one model: {_sizes_text(sizes)}", ("transformer_2", "transformer")
    patch, channels = vae.get("patch_size"), vae.get("in_channels")
    if isinstance(patch, int) and isinstance(channels, int) and channels != 3 * patch * patch:
        yield f"vae takes patches of {patch}x{patch} pixels and has in_channels {channels}", ("vae", "vae")
    model = published(experts)
    if model is None:  # sizes of no published model: nothing to compare the class and expand_timesteps with
        return
    if index["_class_name"] not in model.pipelines:
        yield (
            f"the transformers are those of {model.name}, and model_index.json names {index['_class_name']}",
            ("transformer", "transformer"),
        )
    if expand != model.expand_timesteps:
        has = "has" if expand else "lacks"
        yield (
            f"the transformers are those of {model.name}, and model_index.json {has} expand_timesteps",
            ("transformer", "transformer"),
        )


def _sizes_text(sizes: Mapping[str, tuple[Any, ...]]) -> str:
    names = ("num_layers", "width", "in_channels", "out_channels")
    return "; ".join(
        f"{expert} has " + ", ".join(f"{name} {value}" for name, value in zip(names, row, strict=True))
        for expert, row in sorted(sizes.items())
    )


def unusual_boundary(index: Mapping[str, Any], experts: Mapping[str, Component]) -> Iterator[InspectionFinding]:
    """Warn of a boundary that differs from the published model's. Only a base could prove it wrong."""
    model, boundary = published(experts), index.get("boundary_ratio")
    if model is None or model.boundary_ratio is None or boundary in (None, model.boundary_ratio):
        return
    yield finding(
        "warning",
        "boundary_ratio_differs",
        f"model_index.json switches experts at {boundary}, and {model.name} at {model.boundary_ratio}.",
        evidence={"checkpoint": boundary, "published": model.boundary_ratio},
        next_command=f"write boundary_ratio {model.boundary_ratio} into model_index.json",
    )
