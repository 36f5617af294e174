"""The embedded models that take an image: I2V-A14B and TI2V-5B in miniature. Constants and shapes, no torch.

Both share the VAE, the text encoder and the tokenizer of the text-to-video model in `weights/`: only their transformers
are weights of their own. Their world is that of `tiny.spec`; the image fixes the object, its colour and its place, the
sentence says where it moves.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tiny.spec import LATENT_CHANNELS

_HERE = Path(__file__).parent
TEXT_TO_VIDEO: Final = _HERE / "weights"
#: Mask channels of I2V: one per frame that a latent frame stands for.
MASK_CHANNELS: Final = 4


@dataclass(frozen=True)
class Variant:
    """One embedded model that takes an image.

    `experts` are component folders, high noise first. `boundary_ratio` is None with one expert. `kept_blocks` names the
    blocks of the text-to-video expert that the model starts from, in order, and `ffn_dim` the width left of its
    feed-forward layers. `flow_shift` is that of the published model. `robust_share` is the share of the stage with
    weight noise in the committed weights.
    """

    name: str
    pipeline: str
    experts: tuple[str, ...]
    in_channels: int
    kept_blocks: tuple[int, ...]
    ffn_dim: int
    flow_shift: float
    boundary_ratio: float | None
    expand_timesteps: bool
    robust_share: float

    @property
    def weights(self) -> Path:
        """The folder of the committed transformers and of the files that differ from the text-to-video model's."""
        return _HERE / f"weights_{self.name}"

    def transformer_config(self, base: Mapping[str, Any]) -> dict[str, Any]:
        """The transformer's `config.json` from the text-to-video expert's."""
        changed = {"in_channels": self.in_channels, "num_layers": len(self.kept_blocks), "ffn_dim": self.ffn_dim}
        return {**base, **changed}

    def boundary_u(self) -> float:
        """The boundary in the uniform variable u that sigmas are drawn from: sigma = shift u / (1 + (shift - 1) u)."""
        if self.boundary_ratio is None:
            return 0.0
        return self.boundary_ratio / (self.flow_shift - (self.flow_shift - 1) * self.boundary_ratio)


#: Smaller than the text-to-video experts (5 of 6 blocks, 512 of 768 inner channels): two experts within 12 MB.
I2V: Final = Variant(
    name="i2v",
    pipeline="WanImageToVideoPipeline",
    experts=("transformer", "transformer_2"),
    in_channels=2 * LATENT_CHANNELS + MASK_CHANNELS,
    kept_blocks=(0, 1, 2, 4, 5),
    ffn_dim=512,
    flow_shift=5.0,
    boundary_ratio=0.9,
    expand_timesteps=False,
    robust_share=0.3,
)
TI2V: Final = Variant(
    name="ti2v",
    pipeline="WanPipeline",
    experts=("transformer",),
    in_channels=LATENT_CHANNELS,
    kept_blocks=(0, 1, 2, 3, 4, 5),
    ffn_dim=768,
    flow_shift=5.0,
    boundary_ratio=None,
    expand_timesteps=True,
    robust_share=0.3,
)
VARIANTS: Final = {variant.name: variant for variant in (I2V, TI2V)}
