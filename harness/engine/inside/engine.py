"""Run SGLang-Diffusion in this process: its ``GPUWorker`` and stages, never its scheduler process."""

from __future__ import annotations

import gc
import importlib.metadata
import logging
import os
import platform
import resource
import socket
import time
import types
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from harness.engine.backends.wan_condition import ConditionWatch
from harness.engine.inside import emulate, probes
from harness.engine.inside.names import by_runtime_name, stored_modules
from harness.engine.inside.watch import Receipts, Trace, plain, stored_format
from harness.engine.observed import FloatRange

EXPERTS = ("transformer", "transformer_2")
PRECISION = {"bf16": "bf16", "fp16": "fp16", "fp32": "fp32"}
PACKAGES = ("sglang", "torch", "diffusers", "transformers", "safetensors", "numpy", "flashinfer-python", "sgl-kernel",
            "triton", "accelerate", "ftfy")  # fmt: skip
STATED = ("width", "height", "num_frames", "num_inference_steps", "guidance_scale", "guidance_scale_2", "seed")
"""Fields of the request that SGLang may adjust. An adjusted field is refused, since another request would run."""


class RefusedError(Exception):
    """The runtime cannot or would not run the case as stated.

    Args:
        text: one sentence.
        remedy: the change that helps.
        kind: cause of the refusal: ``case`` (the request) or ``checkpoint`` (the files).
    """

    def __init__(self, text: str, remedy: str = "", kind: str = "case") -> None:
        super().__init__(text)
        self.refused, self.remedy = kind, remedy


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Engine:
    """One model loaded by SGLang."""

    def __init__(self, channel: Any) -> None:
        self._channel = channel
        self._worker: Any = None
        self._arguments: Any = None
        self._cuda = False
        self._names: dict[str, dict[str, list[str]]] = {}
        self._version = ""
        self._refusal: RefusedError | None = None

    # ---- load

    def do_load(self, params: dict[str, Any]) -> dict[str, Any]:
        """Load the model of ``params["paths"]`` in place of the present one. Return what SGLang resolved."""
        began = time.monotonic()
        if self._version:  # imported and prepared by an earlier load
            self._worker = None
            gc.collect()
        else:
            self._prepare(params, began)
        self._channel.progress("load", 1, 3, time.monotonic() - began)
        self._arguments = self._server_args(params)
        self._check_request_of(params["case"])
        self._worker = self._make_worker()
        self._channel.progress("load", 2, 3, time.monotonic() - began)
        self._map_names(params["paths"])
        return self._facts()

    def _prepare(self, params: Mapping[str, Any], began: float) -> None:
        """Import SGLang, and replace what this machine cannot run."""
        self._cuda = params["device"] != "cpu" and torch.cuda.is_available()
        if params["device"] == "cuda" and not self._cuda:
            raise RuntimeError("no CUDA device is visible to the runtime's interpreter")
        torch.set_num_threads(int(params["threads"]))
        self._prepare_environment()
        # before the import: torchvision may need its operators declared; after it: patch the imported modules
        if not self._cuda:
            emulate.before_import()
        self._channel.progress("load", 0, 3, time.monotonic() - began)
        self._import()
        if not self._cuda:
            emulate.replace_gpu_calls()
        if not self._cuda or params["case"]["execution"]["matmul"] == "emulate":
            emulate.replace_products()
        else:
            emulate.name_fp4_product()
        self._version = importlib.metadata.version("sglang")

    def _prepare_environment(self) -> None:
        for name, value in {
            "MASTER_ADDR": "127.0.0.1",
            "RANK": "0",
            "LOCAL_RANK": "0",
            "WORLD_SIZE": "1",
            "SGLANG_DIFFUSION_LOGGING_LEVEL": "WARNING",
        }.items():
            os.environ.setdefault(name, value)

    def _import(self) -> None:
        from sglang.multimodal_gen.runtime import server_args  # noqa: F401 - imported early, so that the load reports its errors
        from sglang.multimodal_gen.runtime.managers import gpu_worker  # noqa: F401

        logging.getLogger("sglang").setLevel(logging.WARNING)

    def _server_args(self, params: Mapping[str, Any]) -> Any:
        from sglang.multimodal_gen.runtime import server_args

        paths, case = params["paths"], params["case"]
        options: dict[str, Any] = {"model_path": paths["model"], "num_gpus": 1, **params["options"]}
        overridden = [role for role in EXPERTS if role in paths]
        if overridden == ["transformer"]:
            options["transformer_weights_path"] = paths["transformer"]
        elif overridden:
            fields = getattr(server_args.ServerArgs, "__dataclass_fields__", {})
            if "component_transformer_weights_paths" not in fields:
                raise RefusedError(
                    f"sglang {self._version} lays weights over the high-noise expert only, and the case names "
                    f"{' and '.join(overridden)}",
                    "name `transformer` only, or a repository that holds both experts",
                )
            options["component_transformer_weights_paths"] = {role: paths[role] for role in overridden}
        precision = case["precision"]
        arguments = server_args.ServerArgs.from_kwargs(**options)
        getattr(server_args, "set_global_server_args", lambda _: None)(arguments)
        config = arguments.pipeline_config
        # set the precisions that SGLang's pipeline configuration has; `_check_request_of` compares other settings
        for field, wanted in (
            ("precision", precision["transformer"]),
            ("vae_precision", precision["vae"]),
            ("vae_decode_precision", precision["vae"]),
        ):
            if hasattr(config, field):
                setattr(config, field, PRECISION[wanted])
        if getattr(config, "text_encoder_precisions", None):
            config.text_encoder_precisions = tuple(
                PRECISION[precision["text_encoder"]] for _ in config.text_encoder_precisions
            )
        return arguments

    def _check_request_of(self, case: Mapping[str, Any]) -> None:
        """Refuse a request that SGLang would ignore or change, before the model is loaded."""
        config, scheduler = self._arguments.pipeline_config, case["scheduler"]
        shift = getattr(config, "flow_shift", None)
        name = f"sglang {self._version} ({type(config).__name__})"
        if scheduler["name"] != "UniPCMultistepScheduler":
            raise RefusedError(f"{name} samples with UniPC whatever is asked, and the case states {scheduler['name']}",
                          "scheduler: {name: UniPCMultistepScheduler}")  # fmt: skip
        if shift is not None and abs(float(shift) - float(scheduler["flow_shift"])) > 1e-9:
            raise RefusedError(
                f"{name} computes with flow_shift {float(shift):g} whatever a request says, and the case states "
                f"{float(scheduler['flow_shift']):g}",
                f"scheduler: {{flow_shift: {float(shift):g}}}",
            )
        length = self.text_length()
        if length is not None and length != case["sampling"]["max_sequence_length"]:
            raise RefusedError(
                f"{name} pads every prompt to {length} tokens, and the case states "
                f"{case['sampling']['max_sequence_length']}",
                f"sampling: {{max_sequence_length: {length}}}",
            )
        self._check_pictures_of(case, name)

    def _check_pictures_of(self, case: Mapping[str, Any], name: str) -> None:
        """Refuse a picture that this configuration would not read, and a request without the picture that it needs."""
        sampling, task = case["sampling"], self.task()
        if sampling.get("last_image") is not None:
            raise RefusedError(f"{name} takes a first frame only", "take `sampling.last_image` out of the case")
        if sampling.get("image") is not None and task not in ("I2V", "TI2V"):
            raise RefusedError(
                f"{name} is made for {task or 'text'} and would ignore sampling.image",
                "runtime_args: {model_id: Wan2.2-I2V-A14B-Diffusers}, if the checkpoint is one of I2V",
            )
        if sampling.get("image") is None and task == "I2V":
            raise RefusedError(f"{name} begins with a picture, and the case states none", "state sampling.image")

    def task(self) -> str:
        """Return SGLang's name for the kind of pipeline: ``T2V``, ``I2V``, ``TI2V``; empty if it states none."""
        task = getattr(self._arguments.pipeline_config, "task_type", None)
        return str(getattr(task, "name", task or ""))

    def text_length(self) -> int | None:
        """Return the number of tokens that every prompt is padded to; ``None`` if the configuration has none."""
        for encoder in getattr(self._arguments.pipeline_config, "text_encoder_configs", None) or ():
            length = getattr(getattr(encoder, "arch_config", encoder), "text_len", None)
            if length:
                return int(length)
        return None

    def _make_worker(self) -> Any:
        from sglang.multimodal_gen.runtime.managers import gpu_worker

        kind = gpu_worker.GPUWorker
        if not self._cuda:
            torch.get_device_module("cpu")
        return kind(local_rank=0, rank=0, master_port=_free_port(), server_args=self._arguments)

    def _map_names(self, paths: Mapping[str, str]) -> None:
        from sglang.multimodal_gen.runtime.loader.utils import get_param_names_mapping

        for role, model in self.experts.items():
            folder = Path(paths.get(role, paths["model"]))
            # an override may be a whole repository or a bare transformer folder
            places = (folder / role, folder / "transformer", folder) if role in paths else (folder / role,)
            stored = next((names for place in places if place.is_dir() and (names := stored_modules(place))), [])
            mapping = get_param_names_mapping(model.param_names_mapping)
            self._names[role] = by_runtime_name(stored, mapping, (name for name, _ in model.named_modules()))

    @property
    def experts(self) -> dict[str, Any]:
        """The loaded transformers by role."""
        modules = self._worker.pipeline.modules
        return {role: modules[role] for role in EXPERTS if modules.get(role) is not None}

    def linears(self) -> dict[str, dict[str, Any]]:
        """Return expert to runtime name to module, for every stored module whose weight is a matrix."""
        linears: dict[str, dict[str, Any]] = {}
        for role, model in self.experts.items():
            modules = dict(model.named_modules())
            linears[role] = {
                name: module
                for name in self._names[role]
                if (module := modules.get(name)) is not None
                and getattr(getattr(module, "weight", None), "dim", lambda: 0)() == 2
                and not isinstance(module, torch.nn.Embedding)
            }
        return linears

    def _facts(self) -> dict[str, Any]:
        config = self._arguments.pipeline_config
        formats: dict[str, dict[str, int]] = {}
        for role, modules in self.linears().items():
            for module in modules.values():
                counts = formats.setdefault(role, {})
                counts[stored_format(module.weight)] = counts.get(stored_format(module.weight), 0) + 1
        return {
            "runtime": f"sglang=={self._version}",
            "pipeline": type(self._worker.pipeline).__name__,
            "configuration": type(config).__name__,
            "task": self.task(),
            "flow_shift": getattr(config, "flow_shift", None),
            "boundary_ratio": getattr(config.dit_config, "boundary_ratio", None),
            "text_length": self.text_length(),
            "precision": {
                name: str(getattr(config, name, None))
                for name in ("precision", "vae_precision", "vae_decode_precision", "text_encoder_precisions")
                if hasattr(config, name)
            },
            "linears": formats,
            "attention": self._attention(),
            "emulated": list(emulate.emulated),
        }

    def _attention(self) -> str:
        names = {
            str(getattr(backend, "name", backend)).lower()
            for model in self.experts.values()
            for module in model.modules()
            if (backend := getattr(module, "backend", None)) is not None
        }
        return ", ".join(sorted(names))

    # ---- fingerprint

    def do_fingerprint(self, _params: dict[str, Any]) -> dict[str, Any]:
        """Return packages and device of this interpreter."""
        packages = {}
        for name in PACKAGES:
            try:
                packages[name] = importlib.metadata.version(name)
            except importlib.metadata.PackageNotFoundError:
                continue
        data: dict[str, Any] = {
            "packages": packages,
            "python": platform.python_version(),
            "threads": torch.get_num_threads(),
            "cpu_capability": torch.backends.cpu.get_cpu_capability(),
            "cuda": torch.version.cuda if self._cuda else None,
            "device": None,
        }
        if self._cuda:
            properties = torch.cuda.get_device_properties(0)
            data["device"] = {
                "kind": "cuda",
                "name": properties.name,
                "compute_capability": f"{properties.major}.{properties.minor}",
                "uuid": f"GPU-{properties.uuid}",
                "memory_bytes": properties.total_memory,
            }
        return data

    # ---- generate

    def do_generate(self, params: dict[str, Any]) -> dict[str, Any]:
        """Run one case. Write the frames to ``params["out"]`` as float32 [T, H, W, 3]."""
        case = params["case"]
        self._check_request_of(case)
        disturb = load_file(params["disturb"]) if params.get("disturb") else None
        trace = Trace(
            case["sampling"]["num_inference_steps"],
            self._channel.progress,
            disturb,
            params.get("disturb_dtype", "bf16"),
            self._condition(case, params),
        )
        receipts, floats = Receipts(), FloatRange()
        if self._cuda:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
        began = time.perf_counter()
        with self._watching(trace, receipts, floats, load_file(params["latents"])["latents"]):
            output = self._run(case, trace, params)
        seconds = time.perf_counter() - began
        frames = self._frames(output, case)
        save_file({"frames": frames}, params["out"])
        peak = torch.cuda.max_memory_allocated() if self._cuda else 1024 * _resident_peak()
        vae = self._worker.pipeline.modules["vae"]
        parameter = next(iter(vae.parameters()), None)
        data = trace.data()
        data["vae"] = _config_of(vae) | {"class": type(vae).__name__, "dtype": str(getattr(parameter, "dtype", ""))}
        return {
            "trace": data,
            "receipts": receipts.rows(self._names),
            "float_stats": floats.facts() if floats.frames else _stats_of(frames),
            "seconds": seconds,
            "peak_memory_bytes": int(peak),
        }

    def _condition(self, case: Mapping[str, Any], params: Mapping[str, Any]) -> ConditionWatch:
        """Return the watch that compares the conditioning with the pictures of the request."""
        from PIL import Image

        config = self._arguments.pipeline_config
        vae = self._worker.pipeline.modules["vae"]
        arch = getattr(vae.config, "arch_config", vae.config)
        pipe = types.SimpleNamespace(
            vae=types.SimpleNamespace(config=arch),
            vae_scale_factor_temporal=getattr(arch, "scale_factor_temporal", 4),
            config={"expand_timesteps": self.task() == "TI2V" and bool(getattr(config, "expand_timesteps", False))},
        )
        images: dict[str, Any] = {}
        for role, path in (params.get("pictures") or {}).items():
            with Image.open(path) as image:
                images[role] = image.convert("RGB")
        return ConditionWatch(pipe, images, case["sampling"]["num_frames"])

    def _refuse_another_size(self, case: Mapping[str, Any], batch: Any) -> None:
        """Refuse a size that SGLang chose by the picture in place of the case's, before anything is encoded."""
        sampling = case["sampling"]
        size, stated = (int(batch.width), int(batch.height)), (sampling["width"], sampling["height"])
        if size == stated:
            return
        self._refusal = RefusedError(
            f"sglang {self._version} ({type(self._arguments.pipeline_config).__name__}) would make a video of "
            f"{size[0]}x{size[1]} for this picture, and the case states {stated[0]}x{stated[1]}",
            f"sampling: {{width: {size[0]}, height: {size[1]}}}",
        )
        raise self._refusal

    @contextmanager
    def _checking_size(self, case: Mapping[str, Any]) -> Iterator[None]:
        validation: Any = _stage(list(self._worker.pipeline.stages), "InputValidation")
        forward = validation.forward

        def checked(batch: Any, server_args: Any) -> Any:
            result = forward(batch, server_args)
            self._refuse_another_size(case, result)
            return result

        validation.forward = checked
        try:
            yield
        finally:
            vars(validation).pop("forward", None)

    @contextmanager
    def _watching(self, trace: Trace, receipts: Receipts, floats: FloatRange, latents: torch.Tensor) -> Iterator[None]:
        pipeline = self._worker.pipeline
        stages = list(pipeline.stages)
        denoising = _stage(stages, "Denoising")
        preparing = _stage(stages, "LatentPreparation")
        modules = pipeline.modules
        decoder = getattr(modules["vae"], "decoder", None)
        with ExitStack() as stack:
            stack.enter_context(
                trace.watching(
                    self.experts, type(modules["scheduler"]), denoising, modules.get("text_encoder"), modules["vae"]
                )
            )
            stack.enter_context(receipts.watching(self.linears()))
            if isinstance(decoder, torch.nn.Module):
                handle = decoder.register_forward_hook(floats)
                stack.callback(handle.remove)
            forward = preparing.forward

            def replaced(batch: Any, server_args: Any) -> Any:
                """Start from the case's latents, in the dtype in which this stage would draw its own."""
                dtype = preparing._get_latent_dtype(batch, server_args)
                batch.latents = latents.to(dtype)
                trace.initial = latents
                return forward(batch, server_args)

            preparing.forward = replaced
            stack.callback(lambda: vars(preparing).pop("forward"))
            yield

    def _request(self, case: Mapping[str, Any], trace: Trace | None, pictures: Mapping[str, str]) -> Any:
        from sglang.multimodal_gen.configs.sample.sampling_params import SamplingParams
        from sglang.multimodal_gen.runtime.entrypoints.utils import prepare_request

        sampling = case["sampling"]
        second = sampling["guidance_scale_2"]
        asked = {name: sampling[name] for name in STATED}
        asked["guidance_scale_2"] = sampling["guidance_scale"] if second is None else second
        boundary = case["scheduler"]["boundary_ratio"]
        configured = getattr(self._arguments.pipeline_config.dit_config, "boundary_ratio", None)
        more: dict[str, Any] = {}
        if len(self.experts) == 2 and configured is not None and abs(float(configured) - boundary) > 1e-9:
            if "boundary_ratio" not in getattr(SamplingParams, "__dataclass_fields__", {}):
                raise RefusedError(
                    f"sglang {self._version} switches experts at {configured}, as model_index.json says, and the "
                    f"case states {boundary}",
                    f"scheduler: {{boundary_ratio: {configured}}}",
                )
            more["boundary_ratio"] = boundary
        if trace is not None:
            trace.boundary = boundary if len(self.experts) == 2 else None
        if "image" in pictures:
            more["image_path"] = pictures["image"]
        parameters = SamplingParams.from_user_sampling_params_args(
            self._arguments.model_path,
            server_args=self._arguments,
            prompt=sampling["prompt"],
            negative_prompt=sampling["negative_prompt"],
            fps=sampling["fps"],
            save_output=False,
            **asked,
            **more,
        )
        request = prepare_request(server_args=self._arguments, sampling_params=parameters)
        for name, wanted in asked.items():
            value = getattr(request, name, None)
            if value != wanted and not (isinstance(value, list) and value == [wanted]):
                raise RefusedError(
                    f"sglang {self._version} would run {name} {value!r}, and the case states {wanted!r}",
                    f"change sampling.{name}",
                )
        return request

    def _run(self, case: Mapping[str, Any], trace: Trace | None, params: Mapping[str, Any]) -> Any:
        pictures = params.get("pictures") or {}
        self._refusal = None
        with self._checking_size(case) if pictures else nullcontext():
            result = self._worker.execute_forward([self._request(case, trace, pictures)])
        # SGLang turns an exception of a stage into text, so the refusal is kept beside it
        if self._refusal is not None:
            raise self._refusal
        if getattr(result, "error", None):
            raise RuntimeError(f"sglang {self._version}: {result.error}")
        if result.output is None:
            raise RuntimeError(f"sglang {self._version} gave no frames")
        return result.output

    def _frames(self, output: Any, case: Mapping[str, Any]) -> torch.Tensor:
        video = output[0] if isinstance(output, list | tuple) else output
        video = torch.as_tensor(video)
        while video.dim() > 4:
            video = video[0]
        sampling = case["sampling"]
        wanted = (3, sampling["num_frames"], sampling["height"], sampling["width"])
        if not video.dtype.is_floating_point:
            raise RuntimeError(f"sglang {self._version} gave {video.dtype}, asked for floats")
        if tuple(video.shape) != wanted:
            # some versions round silently what others refuse
            raise RefusedError(
                f"sglang {self._version} gave a video of {list(video.shape)} (channels, num_frames, height, width), "
                f"asked for {list(wanted)}",
                f"sampling: {{num_frames: {video.shape[1]}, height: {video.shape[2]}, width: {video.shape[3]}}}",
            )
        return video.permute(1, 2, 3, 0).float().cpu().contiguous()

    # ---- probes

    def do_record_probes(self, params: dict[str, Any]) -> dict[str, Any]:
        """Run the case, keep inputs of each expert, and write them with this engine's outputs for them."""
        case, watch, began = params["case"], probes.InputWatch(), time.perf_counter()
        latents = load_file(params["latents"])["latents"]
        trace = Trace(case["sampling"]["num_inference_steps"], self._channel.progress)
        with watch.watching(self.experts), self._watching(trace, Receipts(), FloatRange(), latents):
            self._run(case, trace, params)
        inputs = watch.chosen()
        index, tensors = self._observe(inputs, None)
        for number, item in enumerate(inputs):
            tensors[f"latents.{number}"], tensors[f"text.{number}"] = item.latents, item.text
        probes.write(Path(params["out"]), index, tensors)
        return {"seconds": index["seconds"], "probes": len(inputs), "denoise_seconds": time.perf_counter() - began}

    def do_probe(self, params: dict[str, Any]) -> dict[str, Any]:
        """Feed the inputs of a recording into the experts, and write the observed sketches."""
        recorded, inputs = probes.read_inputs(Path(params["inputs"]))
        index, tensors = self._observe(inputs, recorded["amplitudes"])
        probes.write(Path(params["out"]), index, tensors)
        return {"seconds": index["seconds"], "probes": len(inputs)}

    def _observe(
        self, inputs: list[probes.Recorded], amplitudes: Any
    ) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
        from sglang.multimodal_gen.runtime.managers.forward_context import set_forward_context

        device = torch.device("cuda") if self._cuda else torch.device("cpu")
        dtype = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}[
            self._arguments.pipeline_config.dit_precision
            if hasattr(self._arguments.pipeline_config, "dit_precision")
            else self._arguments.pipeline_config.precision
        ]
        # the denoising stage calls its experts under the same autocast setting
        enabled = dtype != torch.float32 and not getattr(self._arguments, "disable_autocast", False)

        def call(model: Any, arguments: dict[str, Any]) -> Any:
            # hooks in functions that SGLang compiles would trigger a new trace each, so probes run uncompiled
            with (
                torch.no_grad(),
                torch.compiler.set_stance("force_eager"),
                torch.autocast(device.type, dtype=dtype, enabled=enabled),
                set_forward_context(current_timestep=0, attn_metadata=None),
            ):
                return model(**arguments)

        return probes.observe(self.experts, self.linears(), self._names, inputs, device, call, amplitudes)


def _stage(stages: list[Any], part: str) -> Any:
    matching = [stage for stage in stages if part in type(stage).__name__]
    if not matching:
        raise RuntimeError(f"the pipeline has no stage {part}: {[type(stage).__name__ for stage in stages]}")
    return matching[0]


def _resident_peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _config_of(module: Any) -> dict[str, Any]:
    config = getattr(module, "config", None)
    arch = getattr(config, "arch_config", config)
    values = dict(vars(arch)) if arch is not None and hasattr(arch, "__dict__") else {}
    settings = {name: value for name, value in values.items() if not isinstance(value, torch.Tensor)}
    return {name: value for name, value in plain(settings).items() if not isinstance(value, dict)}


def _stats_of(frames: torch.Tensor) -> dict[str, Any]:
    """Return counts and range of finished frames, as a fallback if the decoder could not be watched."""
    bad = ~torch.isfinite(frames)
    first = int(bad.flatten(1).any(1).to(torch.int8).argmax()) if bool(bad.any()) else None
    good = frames[~bad]
    return {
        "nan": int(torch.isnan(frames).sum()),
        "inf": int(torch.isinf(frames).sum()),
        "minimum": float(good.min()) if good.numel() else 0.0,
        "maximum": float(good.max()) if good.numel() else 0.0,
        "first_bad_frame": first,
    }
