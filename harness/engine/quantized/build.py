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
from harness.engine.quantized import native
from harness.engine.quantized.headers import (
    ABSENT,
    TensorInfo,
    declared,
    formats_of,
    parts_of,
    read_config,
    read_headers,
)
from harness.engine.quantized.linear import Choice, QuantizedLinear, StoredTensors
from harness.errors import CheckpointFaultError
from harness.formats.registry import known_formats


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
    declaration = declared(config, folder)
    formats = formats_of(headers, declaration.raw)
    model = _empty(config, folder)
    # packed weights and scales keep their stored dtype; only the other tensors are cast
    parts = {module: parts_of(form, module, headers) for module, form in formats.items()}
    quantized = {f"{module}.{suffix}" for module, suffixes in parts.items() for suffix in suffixes}
    tensors = _read(
        headers, device, {name: _kept_dtype(name, model, dtype) for name in headers if name not in quantized}
    )
    choices: dict[str, Choice] = {}
    for module, form in formats.items():
        if form not in choices:
            # one choice per format, so that the self-check runs once and not per module
            choices[form] = native.choose(form, compute or device, policy)
        names = {suffix: f"{module}.{suffix}" for suffix in ("bias", *parts[module])}
        stored_parts = {suffix: tensors[name] for suffix, name in names.items() if name in tensors}
        place = f"{headers[f'{module}.weight'].file}: {module}"
        static = known_formats()[form].modelopt and declaration.static_inputs(module) is not False
        if static and "input_scale" not in stored_parts:
            raise CheckpointFaultError(
                "no input_scale, and the export's configuration speaks of static activation scales",
                place=place,
                code=ABSENT["input_scale"],
            )
        linear = _submodule(model, module, place)
        stored = StoredTensors(
            stored_parts, linear.out_features, linear.in_features, place, loader.model_dump(mode="json"), ABSENT
        )
        _check_bias(stored, linear)
        _replace(model, module, native.linear_class(form).from_stored(stored, choices[form]))
    _fill(model, tensors, folder, parts)
    return model.eval().to(device), formats


def _empty(config: Mapping[str, Any], folder: Path) -> torch.nn.Module:
    import diffusers
    from accelerate import init_empty_weights  # type: ignore[import-untyped]

    name = str(config.get("_class_name"))
    kind = getattr(diffusers, name, None)
    if not name.endswith("Transformer3DModel") or kind is None:
        raise CheckpointFaultError(
            f"_class_name is {name}, no video transformer that diffusers {diffusers.__version__} has",
            place=str(folder / "config.json"),
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
                raise CheckpointFaultError(str(error), place=str(path), code="header_invalid") from error
            raise
    return tensors


def _submodule(model: torch.nn.Module, module: str, place: str) -> torch.nn.Linear:
    try:
        submodule = model.get_submodule(module)
    except AttributeError as error:
        raise CheckpointFaultError("the model has no such module", place=place, code="tensor_unexpected") from error
    if not isinstance(submodule, torch.nn.Linear):
        raise CheckpointFaultError(
            f"is a {type(submodule).__name__}, not a Linear", place=place, code="tensor_unexpected"
        )
    return submodule


def _check_bias(stored: StoredTensors, linear: torch.nn.Linear) -> None:
    """Raise ``CheckpointFaultError`` if the model's Linear has a bias and the checkpoint none, or the reverse."""
    bias = stored.tensors.get("bias")
    fault = "bias is missing" if bias is None else "bias is unexpected"
    stored.expect((bias is None) == (linear.bias is None), fault, "tensor_missing")
    fits = bias is None or tuple(bias.shape) == (stored.rows,)
    stored.expect(fits, "bias has another length than the weight has rows")


def _replace(model: torch.nn.Module, module: str, fresh: torch.nn.Module) -> None:
    parent, _, name = module.rpartition(".")
    setattr(model.get_submodule(parent), name, fresh)


def _kept_dtype(name: str, model: torch.nn.Module, dtype: torch.dtype) -> torch.dtype:
    """Return the dtype that diffusers gives a parameter: float32 if a part of its name is listed, else ``dtype``."""
    float32_names = getattr(model, "_keep_in_fp32_modules", None) or []
    return torch.float32 if any(part in float32_names for part in name.split(".")) else dtype


def _fill(
    model: torch.nn.Module, tensors: Mapping[str, torch.Tensor], folder: Path, parts: Mapping[str, set[str]]
) -> None:
    """Assign every remaining tensor. Raise if a tensor or a parameter is left over."""
    packed = {name for name, module in model.named_modules() if isinstance(module, QuantizedLinear)}
    plain = {name: tensor for name, tensor in tensors.items() if name.rpartition(".")[0] not in packed}
    try:
        missing, unexpected = model.load_state_dict(plain, strict=False, assign=True)
    except RuntimeError as error:
        short = shortage(error, "could not be loaded", str(folder))
        if short is not None:
            raise short from error
        raise CheckpointFaultError(str(error), place=str(folder), code="shape_differs") from error
    missing = [name for name in missing if name.rpartition(".")[0] not in packed]
    ignored = tuple(getattr(model, "_keys_to_ignore_on_load_unexpected", None) or ())
    odd = [name for name in unexpected if not any(part in name for part in ignored)]
    odd += [f"{module}.{name}" for module in packed for name in _left_over(module, tensors, parts.get(module, set()))]
    for code, names, verb in (("tensor_missing", missing, "lacks"), ("tensor_unexpected", odd, "holds unexpected")):
        if names:
            more = f" and {len(names) - 5} more" if len(names) > 5 else ""
            raise CheckpointFaultError(f"{verb} {', '.join(sorted(names)[:5])}{more}", place=str(folder), code=code)
    for parameter in model.parameters():
        parameter.requires_grad_(False)


def _left_over(module: str, tensors: Mapping[str, torch.Tensor], parts: set[str]) -> list[str]:
    prefix = f"{module}."
    names = (name.removeprefix(prefix) for name in tensors if name.startswith(prefix))
    return [name for name in names if name not in {"bias", *parts}]
