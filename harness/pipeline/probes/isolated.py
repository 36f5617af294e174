"""Every Linear and norm of an expert, fed alone: its answer depends on its own weights and kernel only."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from harness.pipeline.probes.points import is_linear, is_norm
from harness.pipeline.probes.stimulus import stimulus
from harness.pipeline.quantized.linear import QuantizedLinear
from harness.pipeline.sketch import sketch

NORM = "norm"
"""Format of a norm among the modules."""
NORM_AMPLITUDE = 0.01
"""Norms are fed a faint signal: at the size of real activations an epsilon of 1e-2 hardly moves one, here 1e-5 does."""
_FORMATS = {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "fp32"}


def feed_alone(
    model: torch.nn.Module, amplitudes: Mapping[str, float], dtype: torch.dtype
) -> tuple[dict[str, tuple[float, ...]], dict[str, str]]:
    """Feed the fixed signal into every Linear that ``amplitudes`` names, and into every norm.

    Args:
        model: an expert.
        amplitudes: module to root mean square of its signal.
        dtype: compute dtype of packed Linears; a plain one is fed in the dtype of its weight.

    Returns:
        Sketch of the answer by module, and the module's stored format.
    """
    sketches: dict[str, tuple[float, ...]] = {}
    formats: dict[str, str] = {}
    for name, module in model.named_modules():
        if is_norm(name, module):
            sketches[name] = sketch(_norm(module, dtype))
            formats[name] = NORM
        if name not in amplitudes or not is_linear(module):
            continue
        weight: torch.Tensor = module.weight
        packed = isinstance(module, QuantizedLinear)
        columns = int(module.in_features)
        signal = torch.from_numpy(stimulus(columns, amplitudes[name])).to(weight.device)
        # The signal has 16 magnitudes. Where one lies on a rounding boundary of FP8 or FP4, another compute dtype would
        # move a sixteenth of all values to the next code: a packed Linear gets the same values in every dtype.
        x = signal.to(torch.bfloat16).to(dtype) if packed else signal.to(weight.dtype)
        sketches[name] = sketch(module(x))
        formats[name] = (
            module.stored_format()
            if isinstance(module, QuantizedLinear)
            else _FORMATS.get(weight.dtype, str(weight.dtype))
        )
    return sketches, formats


def _norm(module: torch.nn.Module, dtype: torch.dtype) -> torch.Tensor:
    shape = getattr(module, "normalized_shape", None)
    weight = getattr(module, "weight", None)
    columns = int(shape[-1]) if shape is not None else int(weight.shape[-1])  # type: ignore[union-attr]
    place = weight.device if weight is not None else torch.device("cpu")
    kept = weight.dtype if weight is not None else dtype
    signal = torch.from_numpy(stimulus(columns, NORM_AMPLITUDE)).to(device=place, dtype=kept)
    answer: torch.Tensor = module(signal)
    return answer
