"""Receipts of weights: digests of the values that a loaded pipeline really holds.

Files of the same content can end as other values in memory: a loader casts and widens again, merges an adapter, or
code writes into a parameter. Equal identities cannot show that, so the values themselves are sampled.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping

import torch

SAMPLED = 4096
"""Values that are read per tensor, spread evenly, so that a model of any size costs about as many small reads."""
DIGITS = 8
"""Hexadecimal digits per digest: two different values agree by chance once in 4e9."""
_NUMBER = re.compile(r"\.\d+(?=\.|$)")

Held = dict[str, dict[str, str]]
"""Per component and kind of tensor (``blocks.*.scale_shift_table``) one word per tensor, in the order of the model."""


def held_weights(components: Mapping[str, torch.nn.Module | None]) -> Held:
    """Return a word ``exact/rounded`` per stored tensor of each component: two digests of its sampled values.

    ``exact`` is of the values as they are, whatever dtype holds them; ``rounded`` is of the same values after a cast
    to bfloat16. Tensors that are computed and not loaded (non-persistent buffers) are left out.

    Args:
        components: loaded modules by name (``transformer``, ``vae``); ``None`` is skipped.
    """
    digests: Held = {}
    for component, module in components.items():
        words: dict[str, list[str]] = {}
        for name, tensor in module.state_dict().items() if module is not None else ():
            if isinstance(tensor, torch.Tensor):
                words.setdefault(_NUMBER.sub(".*", name), []).append(_word(tensor))
        if words:
            digests[component] = {kind: " ".join(row) for kind, row in sorted(words.items())}
    return digests


def _word(tensor: torch.Tensor) -> str:
    flat = tensor.detach().reshape(-1)
    step = max(1, flat.numel() // SAMPLED)
    # float64 holds every value of the narrower dtypes exactly, so that a widened parameter keeps its digest
    values = flat[::step][:SAMPLED].cpu().to(torch.float64)
    return f"{_digest(values)}/{_digest(values.to(torch.bfloat16).to(torch.float64))}"


def _digest(values: torch.Tensor) -> str:
    # adding 0 turns -0 into 0: a cast may lose that sign, and no result depends on it
    return hashlib.sha256((values + 0.0).numpy().tobytes()).hexdigest()[:DIGITS]
