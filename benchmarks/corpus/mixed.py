"""One export of two formats, declared Linear by Linear."""

from __future__ import annotations

from typing import Any

from safetensors.torch import load_file

from benchmarks.corpus.edit import Edit, quantized
from benchmarks.corpus.exports import EXPERTS


def mixed(edit: Edit, exchanged: bool = False, weight_only: bool = False) -> None:
    """ModelOpt's MIXED_PRECISION: attention in FP8, feed-forward in NVFP4; each Linear is listed, none is ignored.

    Args:
        exchanged: list the formats the other way round.
        weight_only: the NVFP4 Linears leave activations as they are.
    """
    from modelopt.torch.export.convert_hf_config import convert_hf_quant_config_format

    four: dict[str, Any] = {"quant_algo": "W4A16_NVFP4" if weight_only else "NVFP4", "group_size": 16}
    eight: dict[str, Any] = {"quant_algo": "FP8"}
    for expert in EXPERTS:
        tensors = edit.tensors(expert)
        other = load_file(next((edit.base.parent / "fp8" / expert).glob("*.safetensors")))
        listed = {}
        for module in quantized(tensors):
            wide = ".ffn." in module
            if not wide:
                for suffix in ("weight", "weight_scale", "weight_scale_2", "input_scale"):
                    tensors.pop(f"{module}.{suffix}")
                tensors |= {name: value for name, value in other.items() if name.startswith(f"{module}.")}
            elif weight_only:
                tensors.pop(f"{module}.input_scale")
            listed[module] = four if wide is not exchanged else eight
        edit.write(expert, tensors)
        body = edit.config(expert)
        declaration = {"quant_algo": "MIXED_PRECISION", "quantized_layers": listed}
        body["quantization_config"] = convert_hf_quant_config_format(
            {"producer": body["quantization_config"]["producer"], "quantization": declaration}
        ) | {"quant_method": "modelopt"}
        edit.write_config(expert, body)
