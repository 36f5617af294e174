"""Build a transformer from safetensors: empty at first, then filled strictly, with its quantized Linears kept packed.

Unquantized checkpoints are built the same way: diffusers would only warn of missing tensors and leave them random.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from harness.definitions.case import Loader
from harness.engine.failures import shortage
from harness.engine.quantized import native, nvfp4
from harness.engine.quantized.headers import ABSENT, TensorInfo, declared, formats_of, read_config, read_headers
from harness.engine.quantized.linear import Fp8Linear, Nvfp4Linear, QuantizedLinear
from harness.errors import CheckpointFaultError

SCALES = ("weight_scale", "weight_scale_2", "input_scale")


def build_transformer(
    folder: Path,
    *,
    dtype: torch.dtype,
    device: torch.device,
    loader: Loader,
    policy: native.Policy,
    compute: torch.device | None = None,
) -> tuple[torch.nn.Module, dict[str, str]]:
    """Build the model of ``folder`` and fill it.

    Args:
        folder: holds ``config.json`` and safetensors, plain or in ModelOpt's layout.
        dtype: compute dtype; modules that diffusers keeps in float32 stay so.
        device: device of the weights.
        loader: byte layout of packed weights.
        policy: the products that may be used.
        compute: device of the multiplication, if it is not that of the weights (offloading).

    Returns:
        The model in eval mode, and the format of every quantized module.

    Raises:
        CheckpointFaultError: a tensor is missing, unexpected or of the wrong shape.
    """
    config, headers = read_config(folder), read_headers(folder)
    formats = formats_of(headers)
    model = _empty(config, folder)
    # packed weights and scales keep their stored dtype; only the other tensors are cast
    quantized = {f"{module}.{name}" for module in formats for name in ("weight", *SCALES)}
    tensors = _read(
        headers, device, {name: _kept_dtype(name, model, dtype) for name in headers if name not in quantized}
    )
    said = declared(config, folder)
    choices: dict[str, native.Choice] = {}
    for module, form in formats.items():
        if form not in choices:
            # one choice per format, so that the self-check runs once and not per module
            choices[form] = native.choose("fp8" if form == "fp8" else "nvfp4", compute or device, policy)
        parts = {name: tensors.get(f"{module}.{name}") for name in ("weight", "bias", *SCALES)}
        where = f"{headers[f'{module}.weight'].file}: {module}"
        if said.static_inputs(module) is not False and parts["input_scale"] is None:
            raise CheckpointFaultError(
                "no input_scale, and the export's configuration speaks of static activation scales",
                where=where,
                code=ABSENT["input_scale"],
            )
        linear = _submodule(model, module, where)
        fresh = _linear(parts, form, linear, loader, choices[form], where)
        _replace(model, module, fresh)
    _fill(model, tensors, folder)
    return model.eval().to(device), formats


def _empty(config: Mapping[str, Any], folder: Path) -> torch.nn.Module:
    import diffusers
    from accelerate import init_empty_weights  # type: ignore[import-untyped]

    name = str(config.get("_class_name"))
    kind = getattr(diffusers, name, None)
    if not name.endswith("Transformer3DModel") or kind is None:
        raise CheckpointFaultError(
            f"_class_name is {name}, no video transformer that diffusers {diffusers.__version__} has",
            where=str(folder / "config.json"),
            code="unsupported_layout",
        )
        # buffers such as the rotary tables are computed, not loaded, so they must not stay empty
    with init_empty_weights(include_buffers=False):
        model: torch.nn.Module = kind.from_config({k: v for k, v in config.items() if k != "quantization_config"})
    return model


def _read(
    headers: Mapping[str, TensorInfo], device: torch.device, dtypes: Mapping[str, torch.dtype]
) -> dict[str, torch.Tensor]:
    """Return all tensors on ``device``. Floats are cast at once, so that a float32 base never takes double memory."""
    from safetensors import safe_open

    tensors: dict[str, torch.Tensor] = {}
    for path in sorted({info.file for info in headers.values()}):
        try:
            with safe_open(path, framework="pt", device=str(device)) as file:
                for name, info in headers.items():
                    if info.file == path:
                        tensor = file.get_tensor(name)
                        cast = name in dtypes and tensor.is_floating_point()
                        tensors[name] = tensor.to(dtypes[name]) if cast else tensor
        except Exception as error:
            short = shortage(error, "could not be read", str(path))
            if short is not None:
                raise short from error
            if "SafetensorError" in type(error).__name__:
                raise CheckpointFaultError(str(error), where=str(path), code="header_invalid") from error
            raise
    return tensors


def _submodule(model: torch.nn.Module, module: str, where: str) -> torch.nn.Linear:
    try:
        found = model.get_submodule(module)
    except AttributeError as error:
        raise CheckpointFaultError("the model has no such module", where=where, code="tensor_unexpected") from error
    if not isinstance(found, torch.nn.Linear):
        raise CheckpointFaultError(f"is a {type(found).__name__}, not a Linear", where=where, code="tensor_unexpected")
    return found


def _linear(
    parts: Mapping[str, torch.Tensor | None],
    form: str,
    linear: torch.nn.Linear,
    loader: Loader,
    choice: native.Choice,
    where: str,
) -> QuantizedLinear:
    weight, scale = parts["weight"], parts["weight_scale"]
    if weight is None or scale is None:
        raise CheckpointFaultError("weight or weight_scale is missing", where=where, code=ABSENT["weight_scale"])
    rows, columns = linear.out_features, linear.in_features
    width = columns // 2 if form == "nvfp4" else columns
    _expect(tuple(weight.shape) == (rows, width), f"weight is {list(weight.shape)}, not {[rows, width]}", where)
    bias = parts["bias"]
    if (bias is None) != (linear.bias is None):
        raise CheckpointFaultError(
            "bias is missing" if bias is None else "bias is unexpected", where=where, code="tensor_missing"
        )
    _expect(bias is None or tuple(bias.shape) == (rows,), "bias has another length than the weight has rows", where)
    input_scale = _scalar(parts["input_scale"], "input_scale", where)
    if form == "fp8":
        _expect(scale.numel() in (1, rows), f"weight_scale holds {scale.numel()} values, not 1 or {rows}", where)
        return Fp8Linear(weight, scale.to(torch.float32), input_scale, bias, choice)
    blocks = columns // nvfp4.BLOCK
    _expect(columns % nvfp4.BLOCK == 0, f"{columns} columns are no multiple of {nvfp4.BLOCK}", where)
    if scale.dtype != torch.float8_e4m3fn:
        raise CheckpointFaultError(
            f"weight_scale is {scale.dtype}, not float8_e4m3fn", where=where, code="dtype_differs"
        )
    if loader.scale_layout == "swizzled":
        high, wide = nvfp4.padded_shape(rows, blocks)
        _expect(scale.numel() == high * wide, f"weight_scale holds {scale.numel()} values, not {high} x {wide}", where)
        scale = nvfp4.unswizzle(scale, rows, blocks)
    _expect(tuple(scale.shape) == (rows, blocks), f"weight_scale is {list(scale.shape)}, not {[rows, blocks]}", where)
    # unpack here once: the kernels and the emulation take linear scales and low-nibble-first weights only
    if loader.nibble_order == "high_first":
        weight = nvfp4.swap_nibbles(weight)
    global_scale = _scalar(parts["weight_scale_2"], "weight_scale_2", where)
    if global_scale is None:
        raise CheckpointFaultError("weight_scale_2 is missing", where=where, code=ABSENT["weight_scale_2"])
    return Nvfp4Linear(weight, scale, global_scale, input_scale, bias, choice)


def _scalar(value: torch.Tensor | None, name: str, where: str) -> torch.Tensor | None:
    if value is None:
        return None
    _expect(value.numel() == 1, f"{name} holds {value.numel()} values, not 1", where)
    return value.to(torch.float32).reshape(())


def _expect(holds: bool, what: str, where: str) -> None:
    if not holds:
        raise CheckpointFaultError(what, where=where, code="shape_differs")


def _replace(model: torch.nn.Module, module: str, fresh: torch.nn.Module) -> None:
    parent, _, name = module.rpartition(".")
    setattr(model.get_submodule(parent), name, fresh)


def _kept_dtype(name: str, model: torch.nn.Module, dtype: torch.dtype) -> torch.dtype:
    """Return the dtype that diffusers gives a parameter: float32 if a part of its name is listed, else ``dtype``."""
    kept = getattr(model, "_keep_in_fp32_modules", None) or []
    return torch.float32 if any(part in kept for part in name.split(".")) else dtype


def _fill(model: torch.nn.Module, tensors: Mapping[str, torch.Tensor], folder: Path) -> None:
    """Assign every remaining tensor. Raise if a tensor or a parameter is left over."""
    packed = {name for name, module in model.named_modules() if isinstance(module, QuantizedLinear)}
    plain = {name: tensor for name, tensor in tensors.items() if name.rpartition(".")[0] not in packed}
    try:
        missing, unexpected = model.load_state_dict(plain, strict=False, assign=True)
    except RuntimeError as error:
        short = shortage(error, "could not be loaded", str(folder))
        if short is not None:
            raise short from error
        raise CheckpointFaultError(str(error), where=str(folder), code="shape_differs") from error
    missing = [name for name in missing if name.rpartition(".")[0] not in packed]
    ignored = tuple(getattr(model, "_keys_to_ignore_on_load_unexpected", None) or ())
    odd = [name for name in unexpected if not any(part in name for part in ignored)]
    odd += [f"{module}.{name}" for module in packed for name in _left_over(module, tensors)]
    for code, names, said in (("tensor_missing", missing, "lacks"), ("tensor_unexpected", odd, "holds unexpected")):
        if names:
            more = f" and {len(names) - 5} more" if len(names) > 5 else ""
            raise CheckpointFaultError(f"{said} {', '.join(sorted(names)[:5])}{more}", where=str(folder), code=code)
    for parameter in model.parameters():
        parameter.requires_grad_(False)


def _left_over(module: str, tensors: Mapping[str, torch.Tensor]) -> list[str]:
    prefix = f"{module}."
    names = (name.removeprefix(prefix) for name in tensors if name.startswith(prefix))
    return [name for name in names if name not in {"weight", "bias", *SCALES}]
