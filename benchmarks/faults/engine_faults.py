"""Faults inside an engine: what a loader, a kernel or a changed default does, and how to undo it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from benchmarks.faults.conditioning import CONDITIONING
from harness.engine.quantized import nvfp4
from harness.engine.quantized.fp8 import Fp8Linear
from harness.engine.quantized.linear import QuantizedLinear
from harness.engine.quantized.nvfp4 import Nvfp4Linear

Undo = Callable[[], None]
Spec = dict[str, Any]
"""``{"kind": "nibble", "where": "transformer/blocks.1", ...}``: JSON, so that it crosses a process boundary."""


def quantized_in(experts: dict[str, Any], place: str) -> list[QuantizedLinear]:
    """Quantized Linears below ``place``: ``*``, an expert, ``expert/blocks.N`` or ``expert/module``."""
    hits = []
    for role, model in experts.items():
        for name, module in model.named_modules():
            path = f"{role}/{name}"
            if isinstance(module, QuantizedLinear) and (
                place == "*" or f"{path}.".startswith((f"{place}/", f"{place}."))
            ):
                hits.append(module)
    return hits


def in_weights(spec: Spec, module: QuantizedLinear) -> Undo:
    """Change one packed Linear in place."""
    kept = {name: value.clone() for name, value in module.named_buffers()}
    kind = spec["kind"]
    with torch.no_grad():
        if kind == "gain":
            scale = module.weight_scale_2 if isinstance(module, Nvfp4Linear) else module.weight_scale
            scale.mul_(spec["by"])  # type: ignore[operator]
        elif isinstance(module, Fp8Linear):
            _fp8(spec, module)
        elif isinstance(module, Nvfp4Linear):
            _nvfp4(spec, module)

    def undo() -> None:
        for name, value in module.named_buffers():
            value.copy_(kept[name])
        if isinstance(module, Nvfp4Linear):
            module._swizzled = None

    if isinstance(module, Nvfp4Linear):
        module._swizzled = None
    return undo


def _fp8(spec: Spec, module: Fp8Linear) -> None:
    if spec["kind"] == "scale_missing":
        module.weight_scale.fill_(1.0)
    else:
        raise ValueError(f"{spec['kind']} is no fault of an FP8 module")


def _nvfp4(spec: Spec, module: Nvfp4Linear) -> None:
    kind, scale = spec["kind"], module.weight_scale
    raw = scale.view(torch.uint8)
    if kind == "nibble":
        module.weight.copy_(nvfp4.swap_nibbles(module.weight))
    elif kind == "swizzled":
        raw.copy_(nvfp4.swizzle(scale).view(torch.uint8).flatten()[: raw.numel()].view(raw.shape))
    elif kind == "rolled":
        raw.copy_(torch.roll(raw.clone(), spec.get("by", 1), dims=spec.get("axis", 0)))
    elif kind == "scale_missing":
        scale.copy_(torch.ones_like(scale, dtype=torch.float32).to(scale.dtype))
    elif kind == "stale":
        exact = module.dequantized(torch.float32)
        noise = torch.randn(exact.shape, generator=torch.Generator().manual_seed(1)).to(exact.device)
        moved = exact + spec["by"] * exact.std() * noise
        packed, scales = nvfp4.quantize(moved, module.weight_scale_2)
        module.weight.copy_(packed)
        raw.copy_(scales.view(torch.uint8))
    elif kind == "zero_rows":
        module.weight[: module.weight.shape[0] // 8] = 0
    else:
        raise ValueError(f"{kind} is no fault of an NVFP4 module")


WEIGHT_KINDS = frozenset({"nibble", "swizzled", "rolled", "gain", "scale_missing", "stale", "zero_rows"})


@contextmanager
def inside(spec: Spec, backend: Any) -> Iterator[None]:
    """Have one fault in the loaded pipeline while the context lasts."""
    undos: list[Undo] = []
    try:
        _apply(spec, backend, undos)
        yield
    finally:
        for undo in reversed(undos):
            undo()


def _apply(spec: Spec, backend: Any, undos: list[Undo]) -> None:
    kind, pipe = spec["kind"], backend.pipe
    if kind in WEIGHT_KINDS:
        modules = quantized_in(backend.experts, spec["where"])
        if not modules:
            raise ValueError(f"no quantized Linear below {spec['where']}")
        undos += [in_weights(spec, module) for module in modules]
    elif kind == "experts_swapped":
        _set(pipe, "transformer", pipe.transformer_2, undos, also={"transformer_2": pipe.transformer})
    elif kind == "expert_bf16":
        _set(pipe, spec["where"], backend.plain_expert(spec["where"]), undos)
    elif kind == "eps":
        module = backend.experts[spec["where"].partition("/")[0]].get_submodule(spec["where"].partition("/")[2])
        _set(module, "eps", spec["to"], undos)
    elif kind == "attention_scale":
        _attention(backend, spec, undos)
    elif kind == "gelu":
        module = backend.experts[spec["where"].partition("/")[0]].get_submodule(spec["where"].partition("/")[2])
        _set(module, "approximate", "none", undos)
    elif kind == "tokenizer":
        _set(pipe, "tokenizer", ShiftedTokenizer(pipe.tokenizer, spec.get("by", 1)), undos)
    elif kind == "mask":
        hook = pipe.text_encoder.register_forward_pre_hook(_no_mask, prepend=True)
        undos.append(hook.remove)
    elif kind == "text_encoder_gain":
        parameter = pipe.text_encoder.encoder.final_layer_norm.weight
        kept = parameter.clone()
        parameter.mul_(spec["by"])
        undos.append(lambda: _restore(parameter, kept))
    elif kind == "vae_statistics":
        kept = {name: getattr(pipe.vae.config, name) for name in ("latents_mean", "latents_std")}
        width = len(kept["latents_mean"])
        pipe.vae.register_to_config(latents_mean=[0.0] * width, latents_std=[1.0] * width)
        undos.append(lambda: pipe.vae.register_to_config(**kept))
    elif kind == "vae_bf16":
        _set(pipe, "vae", copy.deepcopy(pipe.vae).to(torch.bfloat16), undos)
    elif kind == "vae_weight":
        parameter = next(
            value for name, value in pipe.vae.decoder.named_parameters() if name.endswith("conv_out.weight")
        )
        kept_weight = parameter.clone()
        parameter.mul_(spec["by"])
        undos.append(lambda: _restore(parameter, kept_weight))
    elif kind == "noise":
        hooks = [model.register_forward_pre_hook(_noisy, with_kwargs=True) for model in backend.experts.values()]
        undos += [hook.remove for hook in hooks]
    elif kind == "condition":
        context = CONDITIONING[spec["condition"]].patch(pipe)
        context.__enter__()
        undos.append(lambda: context.__exit__(None, None, None))
    elif kind in SETTINGS:
        backend.overrides[kind] = spec["to"]
        undos.append(backend.overrides.clear)
    elif kind in BENIGN:
        BENIGN[kind](backend, undos)
    else:
        raise ValueError(f"there is no fault {kind!r}")


SETTINGS = frozenset(
    {
        *("boundary", "flow_shift", "guidance", "sequence_length", "steps", "negative_prompt", "seed", "solver_order"),
        "disturbed",
    }
)
"""``disturbed`` takes a `harness.engine.noise.Noise` as data and is no fault."""


def _set(target: Any, name: str, value: Any, undos: list[Undo], also: dict[str, Any] | None = None) -> None:
    for key, new in {name: value, **(also or {})}.items():
        old = getattr(target, key)
        undos.append(lambda key=key, old=old: setattr(target, key, old))  # type: ignore[misc]
        setattr(target, key, new)


def _restore(parameter: torch.Tensor, kept: torch.Tensor) -> None:
    with torch.no_grad():
        parameter.copy_(kept)


def _no_mask(_module: Any, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    return (inputs[0], torch.ones_like(inputs[1]), *inputs[2:])


def _noisy(_module: Any, arguments: Any, options: dict[str, Any]) -> Any:
    """Fresh noise of a few percent at every call: a race, or memory that nobody wrote."""
    latents = options["hidden_states"]
    return arguments, {**options, "hidden_states": latents + 0.05 * torch.randn_like(latents)}


def _attention(backend: Any, spec: Spec, undos: list[Undo]) -> None:
    """Attention scores scaled: what a kernel with a wrong softmax scale does."""
    expert, _, name = spec["where"].partition("/")
    module = backend.experts[expert].get_submodule(name)

    def scaled(_module: Any, _inputs: Any, output: torch.Tensor) -> torch.Tensor:
        moved: torch.Tensor = output * spec["by"]
        return moved

    undos.append(module.norm_q.register_forward_hook(scaled).remove if spec.get("before", True) else lambda: None)


class ShiftedTokenizer:
    """A tokenizer whose vocabulary is off by some places."""

    def __init__(self, inner: Any, by: int) -> None:
        self._inner, self._by = inner, by

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        """Ids of real tokens moved; the end mark and padding stay."""
        result = self._inner(*arguments, **options)
        ids = result.input_ids
        real = (result.attention_mask > 0) & (ids > 2)
        result["input_ids"] = torch.where(real, (ids + self._by - 3) % (len(self._inner) - 3) + 3, ids)
        return result


def _threads(_backend: Any, undos: list[Undo]) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2 if before != 2 else 1)
    undos.append(lambda: torch.set_num_threads(before))


def _fp32(backend: Any, undos: list[Undo]) -> None:
    for role, model in backend.experts.items():
        wide = copy.deepcopy(model)
        for module in wide.modules():
            if not isinstance(module, QuantizedLinear):
                for parameter in module.parameters(recurse=False):
                    parameter.data = parameter.data.float()
        _set(backend.pipe, role, wide, undos)
    _set(backend, "_dtype", torch.float32, undos)


def _backend(backend: Any, undos: list[Undo]) -> None:
    for model in backend.experts.values():
        model.set_attention_backend("_native_math")
        undos.append(lambda model=model: model.set_attention_backend("native"))  # type: ignore[misc]


def _batched(backend: Any, undos: list[Undo]) -> None:
    """Every pass in a batch of two, with another video beside it."""
    for model in backend.experts.values():
        inner = model.forward

        def forward(*arguments: Any, inner: Any = inner, **options: Any) -> Any:
            both = {**options}
            for name in ("hidden_states", "encoder_hidden_states"):
                both[name] = torch.cat([options[name], options[name].flip(-1)])
            both["timestep"] = options["timestep"].expand(2, *options["timestep"].shape[1:])
            first, *rest = inner(*arguments, **both)
            return (first[:1], *rest)

        model.forward = forward
        undos.append(lambda model=model: delattr(model, "forward"))  # type: ignore[misc]


def _ulp(backend: Any, undos: list[Undo]) -> None:
    def hook(_module: Any, arguments: Any, options: dict[str, Any]) -> Any:
        latents = options["hidden_states"]
        return arguments, {**options, "hidden_states": torch.nextafter(latents, torch.full_like(latents, 1e9))}

    undos += [model.register_forward_pre_hook(hook, with_kwargs=True).remove for model in backend.experts.values()]


def _nothing(_backend: Any, _undos: list[Undo]) -> None:
    """Healthy."""


BENIGN: dict[str, Callable[[Any, list[Undo]], None]] = {
    "healthy": _nothing,
    "threads": _threads,
    "fp32": _fp32,
    "batch": _batched,
    "attention_backend": _backend,
    "ulp": _ulp,
}
