"""Watch SGLang denoise: record the inputs of each expert, the scheduler's steps, and the products that ran."""

from __future__ import annotations

import functools
import json
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from harness.engine.backends.wan_condition import ConditionWatch
from harness.engine.backends.wan_received import Pass, Texts, call_facts, finite, fit, guidance, passes
from harness.engine.inside import emulate
from harness.engine.observed import moved, numbers, repeated_frames, text_facts
from harness.engine.sketch import sketch

FORMATS = {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "fp32", torch.uint8: "nvfp4"}
MATRIX_PRODUCTS = ("mm", "addmm", "bmm", "matmul", "linear", "scaled_mm", "gemm")


def plain(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration as JSON, without private entries."""
    public = {key: value for key, value in config.items() if not str(key).startswith("_")}
    data: dict[str, Any] = json.loads(json.dumps(public, default=str))
    return data


def stored_format(weight: torch.Tensor) -> str:
    """Return the format of a stored weight: ``nvfp4``, ``fp8``, ``bf16``, ..."""
    return "fp8" if weight.dtype == torch.float8_e4m3fn else FORMATS.get(weight.dtype, str(weight.dtype))


class _Products(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Remembers the last matrix product that torch dispatched."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.name = ""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(func).rsplit(".", 1)[0]
        if any(part in name for part in MATRIX_PRODUCTS):
            self.name = name.replace("aten.", "aten::").replace("aten::", "torch.ops.aten.") if "aten" in name else name
        return func(*args, **(kwargs or {}))


class Receipts:
    """Counts calls of each Linear by format, method and product."""

    def __init__(self) -> None:
        self._calls: Counter[tuple[str, str, str, str]] = Counter()
        self._kernel: dict[tuple[str, str], str] = {}
        self._mode: dict[tuple[str, str], _Products] = {}

    @contextmanager
    def watching(self, linears: Mapping[str, Mapping[str, Any]]) -> Iterator[None]:
        """Hook every Linear (expert to runtime name to module). The product of a Linear is observed in its first call
        only.
        """
        handles = []
        for expert, modules in linears.items():
            for name, module in modules.items():
                handles.append(module.register_forward_pre_hook(self._before(expert, name)))
                handles.append(module.register_forward_hook(self._after(expert, name), always_call=True))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _before(self, expert: str, name: str) -> Any:
        def hook(_module: Any, _inputs: Any) -> None:
            # cleared before the call: a name found afterwards belongs to this Linear
            emulate.last.clear()
            # a dispatch mode cannot be entered while torch.compile traces the module
            if (expert, name) not in self._kernel and not torch.compiler.is_compiling():
                self._mode[expert, name] = _Products()
                self._mode[expert, name].__enter__()  # type: ignore[no-untyped-call]

        return hook

    def _after(self, expert: str, name: str) -> Any:
        def hook(module: Any, _inputs: Any, _output: Any) -> None:
            mode = self._mode.pop((expert, name), None)
            if mode is not None:
                mode.__exit__(None, None, None)  # type: ignore[no-untyped-call]
                method = type(getattr(module, "quant_method", None)).__name__
                product = emulate.last[0] if emulate.last else mode.name or "product not seen by torch"
                self._kernel[expert, name] = f"{method}: {product}" if method != "NoneType" else product
            kernel = self._kernel.get((expert, name), "not looked at")
            self._calls[expert, name, stored_format(module.weight), kernel] += 1

        return hook

    def rows(self, names: Mapping[str, Mapping[str, list[str]]]) -> list[dict[str, Any]]:
        """Return one row per stored module of the checkpoint, format and product."""
        rows = []
        for (expert, name, form, kernel), calls in sorted(self._calls.items()):
            note = "emulated" if kernel.rpartition(": ")[2] in (
                emulate.FP4_PRODUCT, emulate.FP8_PRODUCT) else ""  # fmt: skip
            for module in names[expert].get(name, [name]):
                row = {"expert": expert, "module": module, "format": form, "kernel": kernel, "calls": calls}
                rows.append({**row, "note": note})
        return rows


class Trace:
    """The trace of one generation. Changes nothing, except by a requested disturbance."""

    def __init__(
        self,
        steps: int,
        progress: Callable[[str, int, int, float], None],
        disturb: Mapping[str, torch.Tensor] | None = None,
        dtype: str = "bf16",
        condition: ConditionWatch | None = None,
    ) -> None:
        self._condition = condition
        self._count, self._progress, self._disturb, self._dtype = steps, progress, dict(disturb or {}), dtype
        self._passes: list[Pass] = []
        self._texts = Texts()
        self._embeddings: dict[str, torch.Tensor] = {}
        self._carried: torch.Tensor | None = None
        self._scales: dict[str, float] = {}
        self._last = time.perf_counter()
        self._tokens: list[torch.Tensor] = []
        self._masks: list[Any] = []
        self.initial: torch.Tensor | None = None
        self.boundary: float | None = None
        self.scheduler: dict[str, Any] = {}
        self.sigmas: list[float] = []
        self.timesteps: list[float] = []
        self.repeated_frames = 0
        self.steps: list[dict[str, Any]] = []

    @contextmanager
    def watching(
        self, experts: Mapping[str, Any], scheduler: type, denoising: Any, text_encoder: Any, vae: Any = None
    ) -> Iterator[None]:
        """Hook experts, denoising stage, with pictures the VAE's encoder, and the scheduler's class, since each request
        gets its own scheduler copy.
        """
        handles = [model.register_forward_hook(self._expert(role), with_kwargs=True) for role, model in experts.items()]
        if isinstance(text_encoder, torch.nn.Module):
            handles.append(text_encoder.register_forward_pre_hook(self._reading, with_kwargs=True))
        kind: Any = scheduler
        step, forward = kind.step, denoising.forward
        overridden = "step" in vars(kind)
        kind.step = self._stepping(step)
        denoising.forward = self._starting(forward)
        end_condition = self._condition.watch(vae) if self._condition is not None else None
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
            if end_condition is not None:
                end_condition()
            # restore an own method; delete the wrapper if the method is inherited
            if overridden:
                kind.step = step
            else:
                del kind.step
            del denoising.forward

    def _expert(self, role: str) -> Any:
        def hook(_module: Any, inputs: tuple[Any, ...], options: dict[str, Any], output: Any) -> None:
            text = options.get("encoder_hidden_states")
            if isinstance(text, list | tuple):
                options = {**options, "encoder_hidden_states": text[0]}
            calls = passes(role, inputs, options, output[0] if isinstance(output, tuple) else output)
            self._passes += calls
            if self._condition is not None:
                for call in calls:
                    self._condition.received(call)

        return hook

    def _reading(self, _module: Any, inputs: tuple[Any, ...], options: dict[str, Any]) -> None:
        ids = inputs[0] if inputs else options.get("input_ids")
        mask = inputs[1] if len(inputs) > 1 else options.get("attention_mask")
        if isinstance(ids, torch.Tensor):
            self._tokens.append(ids)
            self._masks.append(mask)

    def _starting(self, forward: Any) -> Any:
        def wrapped(batch: Any, *arguments: Any, **options: Any) -> Any:
            for name, value in (("prompt", batch.prompt_embeds), ("negative", batch.negative_prompt_embeds)):
                tensor = value[0] if isinstance(value, list | tuple) and value else value
                if isinstance(tensor, torch.Tensor):
                    self._embeddings[name] = tensor.detach().clone()
            self._texts = Texts(*(self._embeddings.get(name) for name in ("prompt", "negative")))
            second = getattr(batch, "guidance_scale_2", None)
            self._scales = {"transformer": float(batch.guidance_scale)}
            self._scales["transformer_2"] = float(batch.guidance_scale if second is None else second)
            self._carried = self.initial
            self._progress("encode", 1, 1, self._lap())
            return forward(batch, *arguments, **options)

        return wrapped

    def _stepping(self, step: Any) -> Any:
        watch = self

        @functools.wraps(step)  # SGLang inspects the signature of ``step``
        def wrapped(scheduler: Any, *arguments: Any, **options: Any) -> Any:
            named = dict(zip(("model_output", "timestep", "sample"), arguments, strict=False)) | options
            latents, velocity = named["sample"], named["model_output"]
            if not watch.steps:
                watch._first(scheduler, latents)
            before, result = latents.detach(), step(scheduler, *arguments, **options)
            after = result[0] if isinstance(result, tuple) else result.prev_sample
            watch._record(velocity, float(named["timestep"]), before, after)
            steps_of_noise = watch._disturb.get(f"step.{len(watch.steps) - 1}")
            # disturb after the record, so that the trace holds the scheduler's own result
            if steps_of_noise is not None:
                after = moved(after, steps_of_noise, watch._dtype)
                result = (after, *result[1:])
            watch._carried = after
            return result

        return wrapped

    def _first(self, scheduler: Any, latents: torch.Tensor) -> None:
        self.sigmas, self.timesteps = list(numbers(scheduler.sigmas)), list(numbers(scheduler.timesteps))
        self.scheduler = plain(dict(scheduler.config)) | {"class": type(scheduler).__name__}
        self.repeated_frames = repeated_frames(latents)

    def _record(self, velocity: torch.Tensor, timestep: float, before: torch.Tensor, after: torch.Tensor) -> None:
        expert = self._passes[-1].expert if self._passes else "transformer"
        calls = [call_facts(item, self._texts, before) for item in self._passes]
        measured = guidance(velocity, self._passes, self._texts)
        self._passes.clear()
        carried = None if self._carried is None else self._carried.to(before.device)
        if carried is not None and self._condition is not None:
            carried = self._condition.carried(carried)
        gain, apart = (None, None) if carried is None else fit(before[0], carried[0])
        norm = float(after.double().norm())
        row: dict[str, Any] = {
            "index": len(self.steps),
            "timestep": timestep,
            "expert": expert,
            "guidance_scale": self._scales[expert],
            "guidance_measured": measured,
            "latent_norm": finite(norm) if math.isfinite(norm) else 1e300,
            "latent_sketch": [finite(value) for value in sketch(after)],
            "velocity_sketch": [finite(value) for value in sketch(velocity)],
            "calls": calls,
            "carried_error": apart,
            "carried_gain": gain,
            "seconds": self._lap(),
        }
        self.steps.append(row)
        self._progress("denoise", len(self.steps), self._count, row["seconds"])

    def _lap(self) -> float:
        now = time.perf_counter()
        lap, self._last = now - self._last, now
        return lap

    def data(self) -> dict[str, Any]:
        """Return the trace, in the shape of ``harness.records.generation.Trace``."""
        texts = {name: [finite(value) for value in sketch(tensor)] for name, tensor in self._embeddings.items()}
        whole = [tensor.float() for tensor in self._embeddings.values()]
        return {
            "steps": self.steps,
            "scheduler": self.scheduler,
            "boundary_ratio": self.boundary,
            "text_embedding_sketch": [finite(value) for value in sketch(torch.cat(whole))] if whole else [],
            "text": text_facts(self._embeddings.get("prompt"), self._tokens, self._masks),
            "repeated_frames": self.repeated_frames,
            "sigmas": self.sigmas,
            "timesteps": self.timesteps,
            "alone": texts,
            "condition": None if self._condition is None else self._condition.facts(),
        }
