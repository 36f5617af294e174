"""Every Linear of an expert, fed alone: what it answers depends on its weights and its kernel and on nothing else."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from harness.pipeline.probes.points import is_linear
from harness.pipeline.probes.stimulus import stimulus
from harness.pipeline.quantized.linear import QuantizedLinear
from harness.pipeline.sketch import sketch

_FORMATS = {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "fp32"}


def feed_alone(
    model: torch.nn.Module, amplitudes: Mapping[str, float], dtype: torch.dtype
) -> tuple[dict[str, tuple[float, ...]], dict[str, str]]:
    """Feed the fixed signal into every Linear that ``amplitudes`` names.

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
        if name not in amplitudes or not is_linear(module):
            continue
        weight: torch.Tensor = module.weight
        packed = isinstance(module, QuantizedLinear)
        columns = int(module.in_features)
        signal = torch.from_numpy(stimulus(columns, amplitudes[name]))
        x = signal.to(device=weight.device, dtype=dtype if packed else weight.dtype)
        sketches[name] = sketch(module(x))
        formats[name] = (
            module.stored_format()
            if isinstance(module, QuantizedLinear)
            else _FORMATS.get(weight.dtype, str(weight.dtype))
        )
    return sketches, formats
