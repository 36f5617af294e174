"""``python -m benchmarks.selfcheck``: does this device multiply quantized weights as it should?

Prints, for FP8 and NVFP4, whether the native product is used and its relative error against the dequantized
operands; then loads a small random transformer in ModelOpt's layout twice, native and dequantized, and prints what
the receipts say and how far the two outputs are apart. Exit status 1 if a product that the device should have is
refused, or if the outputs differ by more than quantized activations explain.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from harness.definitions.case import Loader
from harness.engine.backends.wan_loading import pick_device
from harness.engine.fingerprint import take_fingerprint
from harness.engine.quantized import fp8, native, nvfp4
from harness.engine.quantized.build import build_transformer
from harness.engine.receipts import keep_receipts

FORMATS = ("fp8", "nvfp4")
OUTPUT_TOLERANCE = 0.10
"""Largest relative difference of the two outputs. Emulated activations move this transformer's output by .7 % in FP8
and by 1.7 % in NVFP4; a wrong scale moves it by far more."""
SHAPES = ((1, 256, 256), (512, 1536, 1536), (8190, 5120, 5120))
"""Tokens, N, K of the timed products; the last is a block Linear of Wan2.2 at 480p over a quarter of its frames."""


def main() -> int:
    """Run the checks and print what they found."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    device = pick_device(parser.parse_args().device)
    torch.set_grad_enabled(False)
    fingerprint = take_fingerprint("selfcheck", device.type)
    capability = fingerprint.device.compute_capability
    print(f"device      {fingerprint.device.name}" + (f", compute capability {capability}" if capability else ""))
    print(f"torch       {fingerprint.packages.get('torch')}, cuda {fingerprint.cuda}, driver {fingerprint.driver}")
    healthy = True
    for form in FORMATS:
        healthy &= _product(form, device)
    for form in FORMATS:
        with tempfile.TemporaryDirectory() as folder:
            healthy &= output_difference(form, Path(folder), device, ("auto", "dequantize")) <= OUTPUT_TOLERANCE
    if device.type == "cuda":
        _times(device)
    print("selfcheck   " + ("passed" if healthy else "FAILED"))
    return 0 if healthy else 1


def _product(form: str, device: torch.device) -> bool:
    choice = native.choose(form, device, "auto")
    since = native.linear_class(form).native_since or (0, 0)
    should = device.type == "cuda" and torch.cuda.get_device_capability(device) >= since
    if choice.product is None:
        print(f"{form:<11} dequantized: {choice.note or 'this device has no native product'}")
        return not should
    error = native.self_check(form, device, choice.product)
    print(f"{form:<11} native, relative error {error:.2e} against dequantized operands")
    return True


def output_difference(
    form: str, folder: Path, device: torch.device, policies: tuple[native.Policy, native.Policy]
) -> float:
    """Relative difference of a small transformer's output under two policies; prints it, and what the receipts say."""
    inputs = _write_export(form, folder, device)
    outputs = []
    for policy in policies:
        model, _ = build_transformer(folder, dtype=torch.bfloat16, device=device, loader=Loader(), policy=policy)
        with keep_receipts({"transformer": model}) as book:
            outputs.append(model(**inputs).sample.float())
        print(f"receipts    {policy:<11}{book.receipts().count('transformer')}")
    difference = float((outputs[0] - outputs[1]).norm() / outputs[1].norm())
    print(f"output      {form} relative difference {difference:.2e}, {OUTPUT_TOLERANCE} allowed")
    return difference


def _write_export(form: str, folder: Path, device: torch.device) -> dict[str, torch.Tensor]:
    """Write a random transformer with quantized blocks in ModelOpt's layout; returns inputs for it."""
    from diffusers import WanTransformer3DModel
    from safetensors.torch import save_file

    torch.manual_seed(0)
    kind: Any = WanTransformer3DModel
    model = kind(
        num_attention_heads=4,
        attention_head_dim=48,
        text_dim=64,
        freq_dim=64,
        ffn_dim=512,
        num_layers=3,
        rope_max_seq_len=64,
    ).to(device)
    generator = torch.Generator("cpu").manual_seed(1)
    inputs = {
        "hidden_states": torch.randn(1, 16, 3, 16, 16, generator=generator).to(device, torch.bfloat16),
        "timestep": torch.tensor([700], device=device),
        "encoder_hidden_states": torch.randn(1, 32, 64, generator=generator).to(device, torch.bfloat16),
    }
    largest: dict[str, float] = {}
    linears = {name: module for name, module in model.blocks.named_modules() if isinstance(module, torch.nn.Linear)}
    hooks = [module.register_forward_pre_hook(_noter(largest, f"blocks.{name}")) for name, module in linears.items()]
    model(**{name: value.float() if value.is_floating_point() else value for name, value in inputs.items()})
    for hook in hooks:
        hook.remove()
    tensors = {name: tensor.to("cpu", torch.bfloat16) for name, tensor in model.state_dict().items()}
    for name, amax in largest.items():
        parts = _quantized(form, model.get_parameter(f"{name}.weight").cpu(), amax)
        tensors |= {f"{name}.{part}": value for part, value in parts.items()}
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "model.safetensors")
    config = {key: value for key, value in model.config.items() if not key.startswith("_")}
    config |= {"_class_name": "WanTransformer3DModel", "quantization_config": {"quant_algo": form.upper()}}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return inputs


def _quantized(form: str, weight: torch.Tensor, amax: float) -> dict[str, torch.Tensor]:
    """A weight [N, K] whose inputs reach ``amax``, as ModelOpt stores it."""
    if form == "fp8":
        scale = fp8.dynamic_scale(weight)
        stored = {"weight": fp8.quantize(weight, scale), "weight_scale": scale}
        return stored | {"input_scale": torch.tensor(amax / fp8.E4M3_MAX)}
    unit = nvfp4.E2M1_MAX * nvfp4.E4M3_MAX
    outer = weight.abs().amax().float() / unit
    packed, blocks = nvfp4.quantize(weight, outer)
    stored = {"weight": packed, "weight_scale": blocks, "weight_scale_2": outer}
    return stored | {"input_scale": torch.tensor(amax / unit)}


def _noter(largest: dict[str, float], name: str) -> Any:
    def note(_module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        largest[name] = max(largest.get(name, 0.0), float(inputs[0].abs().max()))

    return note


def _times(device: torch.device) -> None:
    """Print the time of the native FP8 product, activation quantization included, beside BF16's."""
    choice = native.choose("fp8", device, "auto")
    if choice.product is None:
        return
    for tokens, rows, columns in SHAPES:
        x = torch.randn(tokens, columns, device=device, dtype=torch.bfloat16)
        weight = torch.randn(rows, columns, device=device, dtype=torch.bfloat16)
        scale, x_scale = fp8.dynamic_scale(weight), fp8.dynamic_scale(x)
        stored = fp8.quantize(weight, scale)
        plain = _seconds(torch.nn.functional.linear, x, weight) * 1e3
        fast = _seconds(fp8.matmul, x, stored, scale, x_scale, choice.product) * 1e3
        print(f"time        [{tokens}, {columns}] x [{columns}, {rows}]: bf16 {plain:.3f} ms, fp8 {fast:.3f} ms")


def _seconds(work: Callable[..., object], *arguments: object) -> float:
    """Median seconds of ten calls, after two to warm up."""
    taken = []
    for index in range(12):
        torch.cuda.synchronize()
        began = time.perf_counter()
        work(*arguments)
        torch.cuda.synchronize()
        if index >= 2:
            taken.append(time.perf_counter() - began)
    return sorted(taken)[len(taken) // 2]


if __name__ == "__main__":
    sys.exit(main())
