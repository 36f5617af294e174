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
_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
"""Bytes of a value to whole numbers of that width."""

Held = dict[str, dict[str, str]]
"""Per component and kind of tensor (``blocks.*.scale_shift_table``) one word per tensor, in the order of the model."""


class HeldWeights:
    """Reads the weights that loaded modules hold, and hashes only what changed since it last read them.

    A case generates often from the same weights. At 14.8 B an expert they have some 3,500 tensors: a copy from the
    device and two hashes for each cost more than everything else that the gate adds to a generation.
    """

    def __init__(self) -> None:
        self._words: dict[tuple[str, str], tuple[torch.Tensor, str]] = {}

    def read(self, components: Mapping[str, torch.nn.Module | None]) -> Held:
        """Return a word ``exact/rounded`` per stored tensor of each component: two digests of its sampled values.

        ``exact`` is of the values as they are, whatever dtype holds them; ``rounded`` is of the same values after a
        cast to bfloat16. Tensors that are computed and not loaded (non-persistent buffers) are left out.

        Args:
            components: loaded modules by name (``transformer``, ``vae``); ``None`` is skipped.
        """
        places, samples = [], []
        for component, module in components.items():
            for name, tensor in module.state_dict().items() if module is not None else ():
                if isinstance(tensor, torch.Tensor):
                    places.append((component, name))
                    samples.append(_sample(tensor))
        digests: dict[str, dict[str, list[str]]] = {}
        for (component, name), values in zip(places, _to_host(samples), strict=True):
            kinds = digests.setdefault(component, {})
            kinds.setdefault(_NUMBER.sub(".*", name), []).append(self._word(component, name, values))
        return {
            component: {kind: " ".join(words) for kind, words in sorted(kinds.items())}
            for component, kinds in digests.items()
        }

    def _word(self, component: str, name: str, values: torch.Tensor) -> str:
        before = self._words.get((component, name))
        if before is not None and _same_bytes(before[0], values):
            return before[1]
        # float64 holds every value of the narrower dtypes exactly, so that a widened parameter keeps its digest
        exact = values.to(torch.float64)
        word = f"{_digest(exact)}/{_digest(exact.to(torch.bfloat16).to(torch.float64))}"
        self._words[component, name] = (values, word)
        return word


def held_weights(components: Mapping[str, torch.nn.Module | None]) -> Held:
    """Read weights once: see ``HeldWeights.read``."""
    return HeldWeights().read(components)


def _sample(tensor: torch.Tensor) -> torch.Tensor:
    flat = tensor.detach().reshape(-1)
    step = max(1, flat.numel() // SAMPLED)
    return flat[::step][:SAMPLED]


def _to_host(samples: list[torch.Tensor]) -> list[torch.Tensor]:
    """Copy the samples to host memory, with one copy per dtype and device: each copy waits for the device."""
    groups: dict[tuple[torch.device, torch.dtype], list[int]] = {}
    for index, values in enumerate(samples):
        groups.setdefault((values.device, values.dtype), []).append(index)
    copied = dict(enumerate(samples))
    for (_, dtype), members in groups.items():
        # as whole numbers of the same width: not every dtype can be concatenated on every device
        integers = [samples[index].view(_INTEGERS[dtype.itemsize]) for index in members]
        whole = torch.cat(integers).cpu().view(dtype)
        copied |= zip(members, torch.split(whole, [len(row) for row in integers]), strict=True)
    return [copied[index] for index in range(len(samples))]


def _same_bytes(first: torch.Tensor, second: torch.Tensor) -> bool:
    if first.dtype != second.dtype or first.shape != second.shape:
        return False
    integer = _INTEGERS[first.dtype.itemsize]
    return torch.equal(first.view(integer), second.view(integer))


def _digest(values: torch.Tensor) -> str:
    # adding 0 turns -0 into 0: a cast may lose that sign, and no result depends on it
    return hashlib.sha256((values + 0.0).numpy().tobytes()).hexdigest()[:DIGITS]
