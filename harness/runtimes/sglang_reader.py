"""Load checkpoints with an installed SGLang on a CPU and report the weights that it makes of them.

Runs under that runtime's own interpreter:

    python sglang_reader.py JOBS.json ANSWERS.jsonl

``JOBS.json`` holds ``{"base": FOLDER, "checkpoints": [{"name", "folder", "role"}]}``; the role ``repository`` asks for
the schedule of a repository without weights. Every answer is a line of JSON
and is flushed at once, so that a loader that kills the process loses one answer. Checkpoints whose names are in
``ANSWERS.jsonl`` already are skipped.

SGLang's own configuration, loader and weight processing run unchanged. Only operations that need a GPU are replaced;
``STUBS`` lists them all, and the contract that is learned from the answers contains the list.

This file imports the standard library, numpy, torch, torchvision, safetensors and sglang: nothing of the harness.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
import traceback
import types
import warnings
from pathlib import Path
from typing import Any

warnings.filterwarnings("ignore")
STUBS = [
    "torchvision::nms and qnms are declared, not implemented (a CUDA build of torchvision beside a CPU torch)",
    "torch.Tensor.cuda returns the tensor where it is",
    "modelopt_quant._get_fp4_gemm_op names the trtllm backend, whose preparation keeps codes and scales in rows",
    "modelopt_quant._get_fp4_quantize_op and _require_flashinfer: the shuffles are identities",
    "modelopt_quant.requantize_with_max_scale uses a product and a cast in torch as scaled_fp8_quant",
    "modelopt_quant.cutlass_fp8_supported is true",
]
TAIL = 300
"""Characters of an error that are kept."""


def _environment() -> None:
    for name, value in {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(20000 + os.getpid() % 20000),
        "RANK": "0",
        "LOCAL_RANK": "0",
        "WORLD_SIZE": "1",
        "SGLANG_DIFFUSION_LOGGING_LEVEL": "ERROR",
        "HF_HUB_OFFLINE": "1",
    }.items():
        os.environ.setdefault(name, value)


class _Torchvision:
    """Declare the two operators before torchvision registers their meta functions: its CUDA build lacks both here."""

    def find_spec(self, name: str, path: Any, target: Any = None) -> None:
        if name == "torchvision":
            sys.meta_path.remove(self)
            import torch

            make: Any = torch.library.Library
            library = make("torchvision", "FRAGMENT")
            for operator in ("nms", "qnms"):
                library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
            keep.append(library)


keep: list[Any] = []


def _stub(torch: Any, mq: Any) -> None:
    """Replace the operations that need a GPU, and nothing else. ``STUBS`` must list every replacement."""
    torch.Tensor.cuda = lambda self, *args, **kwargs: self
    mq._get_fp4_gemm_op = lambda: ((lambda *args, **kwargs: None), "trtllm")
    mq._get_fp4_quantize_op = lambda: lambda *args, **kwargs: None
    mq._require_flashinfer = lambda: types.SimpleNamespace(
        shuffle_matrix_a=lambda x, tile: x, shuffle_matrix_sf_a=lambda x, tile, *args, **kwargs: x
    )

    def scaled_fp8_quant(x: Any, scale: Any = None, *args: Any, **kwargs: Any) -> Any:
        return (x.float() / scale).clamp(-448, 448).to(torch.float8_e4m3fn), scale

    mq.requantize_with_max_scale.__globals__["scaled_fp8_quant"] = scaled_fp8_quant
    mq.cutlass_fp8_supported = lambda: True


def effective(torch: Any, layer: Any) -> tuple[str, Any]:
    """Return the layer's method and the weight ``[N, K]`` that its kernel would use, from the loaded parameters."""
    method = type(layer.quant_method).__name__ if getattr(layer, "quant_method", None) is not None else "none"
    weight = layer.weight.data
    if weight.dtype == torch.uint8 and hasattr(layer, "weight_scale_interleaved"):
        rows, columns = layer.output_size_per_partition, layer.input_size_per_partition
        table = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6])
        packed = weight[:rows, : columns // 2]
        codes = torch.stack([table[(packed & 15).long()], table[(packed >> 4).long()]], -1).reshape(rows, columns)
        scales = layer.weight_scale_interleaved.data.view(torch.float8_e4m3fn).float()[:rows, : columns // 16]
        second = float(layer.alpha.float().max() * layer.input_scale_inv.float().max())
        return method, codes * scales.repeat_interleave(16, 1) * second
    if weight.dtype == torch.float8_e4m3fn:
        scale = layer.weight_scale.data.float()
        scale = scale.reshape(-1, 1) if scale.numel() > 1 else scale.reshape(())
        # the loader leaves a transposed view of the stored [N, K] bytes, as the product takes it
        return method, (weight.float().t() if weight.stride(0) == 1 else weight.float()) * scale
    return method, weight.float()


def _input_scale(layer: Any) -> float | None:
    if hasattr(layer, "input_scale_inv"):
        return 1.0 / float(layer.input_scale_inv.float().max())
    scale = getattr(layer, "input_scale", None)
    return float(scale.float().max()) if scale is not None and hasattr(scale, "float") else None


def _config(config: Any) -> dict[str, Any] | None:
    """Return the quantization configuration that the runtime resolved, as plain values."""
    if config is None:
        return None
    names = ("swap_weight_nibbles", "checkpoint_weight_scale_layout", "checkpoint_uses_packed_qkv", "group_size")
    view = {name: getattr(config, name) for name in names if hasattr(config, name)}
    return {"class": type(config).__name__, **{name: _plain(value) for name, value in view.items()}}


def _plain(value: Any) -> Any:
    return value if isinstance(value, bool | int | float | str) or value is None else str(value)


def compare(torch: Any, module: Any, reference: Any) -> list[Any]:
    """Return method, cosine with the base's weight, ratio of norms, and the input scale of a layer.

    Numbers are ``None`` if the shapes differ.
    """
    method, weight = effective(torch, module)
    if tuple(weight.shape) != tuple(reference.shape):
        return [method, None, None, None]
    a, b = weight.flatten().double(), reference.flatten().double()
    norm = float(a.norm() * b.norm())
    ratio = float(a.norm() / b.norm())
    good = norm > 0 and norm < float("inf")
    return [
        method,
        round(float(a @ b) / norm, 6) if good else None,
        round(ratio, 6) if ratio == ratio else None,
        _input_scale(module),
    ]


def _ask(job: dict[str, Any], base: str, references: dict[str, Any], runtime: Any) -> dict[str, Any]:
    """Load one checkpoint as the runtime would and compare every Linear with the base's."""
    resolved: dict[str, Any] = {}
    runtime.kept.clear()
    model = base if job["role"] == "override" else job["folder"]
    more = {"transformer_weights_path": job["folder"]} if job["role"] == "override" else {}
    try:
        arguments = runtime.ServerArgs.from_kwargs(
            model_path=model, model_id="Wan2.2-T2V-A14B-Diffusers", num_gpus=1, **more
        )
        (getattr(runtime.server_args, "set_global_server_args", None) or (lambda value: None))(arguments)
        try:
            loaded = runtime.TransformerLoader().load_customized(f"{model}/transformer", arguments, "transformer")
        finally:
            resolved = {"config": runtime.kept.get("config", "not resolved")}
        mapping = runtime.get_param_names_mapping(arguments.pipeline_config.dit_config.arch_config.param_names_mapping)
        architecture = arguments.pipeline_config.dit_config.arch_config
        runtime.names = {
            key: value for key, value in architecture.param_names_mapping.items() if isinstance(value, str)
        }
        modules = dict(loaded.named_modules())
        linears: dict[str, Any] = {}
        for name, reference in references.items():
            target = modules.get(mapping(f"{name}.weight")[0][: -len(".weight")])
            linears[name] = (
                compare(runtime.torch, target, reference) if hasattr(target, "weight") else ["absent", None, None, None]
            )
        return {"loaded": True, **resolved, "linears": linears}
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        places = [f"{Path(frame.filename).name}:{frame.name}" for frame in traceback.extract_tb(error.__traceback__)][
            -3:
        ]
        text = f"{type(error).__name__}: {str(error)[:TAIL]}"
        return {"loaded": False, **resolved, "error": text, "places": places}


def _runtime() -> Any:
    """Import the runtime, replace GPU operations, and record the quantization configuration that it resolves."""
    import torch

    try:
        import torchvision  # noqa: F401
    except (ImportError, OSError, RuntimeError):  # its build does not fit the torch beside it
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
        sys.meta_path.insert(0, _Torchvision())
    from sglang.multimodal_gen.runtime import server_args
    from sglang.multimodal_gen.runtime.distributed.parallel_state import (
        maybe_init_distributed_environment_and_model_parallel,
    )
    from sglang.multimodal_gen.runtime.layers.quantization import QUANTIZATION_METHODS, modelopt_quant
    from sglang.multimodal_gen.runtime.loader import transformer_load_utils
    from sglang.multimodal_gen.runtime.loader.component_loaders.transformer_loader import TransformerLoader
    from sglang.multimodal_gen.runtime.loader.utils import get_param_names_mapping

    logging.disable(logging.ERROR)
    _stub(torch, modelopt_quant)
    maybe_init_distributed_environment_and_model_parallel(tp_size=1, sp_size=1)
    settings: dict[str, Any] = {}
    original = transformer_load_utils._resolve_quant_config

    def watched(**arguments: Any) -> Any:
        config = original(**arguments)
        settings["config"] = _config(config)
        return config

    transformer_load_utils._resolve_quant_config = watched
    return types.SimpleNamespace(
        torch=torch, server_args=server_args, ServerArgs=server_args.ServerArgs, TransformerLoader=TransformerLoader,
        get_param_names_mapping=get_param_names_mapping, kept=settings, names={}, methods=QUANTIZATION_METHODS,
    )  # fmt: skip


def _ask_repository(job: dict[str, Any], runtime: Any) -> dict[str, Any]:
    """Build the pipeline of a repository without its weights. Return experts, boundary and flow shift."""
    from sglang.multimodal_gen.runtime.pipelines.wan_pipeline import WanPipeline

    class Bare(WanPipeline):  # type: ignore[misc]
        def __post_init__(self) -> None:
            """Nothing: the stages need the modules' weights."""

        # a list of its own: some versions append to the class's
        _required_config_modules = list(WanPipeline._required_config_modules)

    try:
        named = {"model_id": job["model_id"]} if job["model_id"] else {}
        arguments = runtime.ServerArgs.from_kwargs(model_path=job["folder"], num_gpus=1, **named)
        (getattr(runtime.server_args, "set_global_server_args", None) or (lambda value: None))(arguments)
        # every module but the scheduler counts as loaded already
        parts = ("text_encoder", "tokenizer", "vae", "transformer", "transformer_2")
        pipeline = Bare(job["folder"], arguments, None, {name: object() for name in parts}, object())
        loaded = pipeline.modules
        pipeline.initialize_pipeline(arguments)
        boundary: Any = getattr(arguments.pipeline_config.dit_config, "boundary_ratio", None)
        if "transformer_2" in loaded:
            # the denoising stage compares timesteps with this product
            boundary = float(runtime.torch.tensor([boundary * 1000], dtype=runtime.torch.float64)[0]) / 1000
        return {
            "loaded": True,
            "experts": [name for name in ("transformer", "transformer_2") if name in loaded],
            "boundary_ratio": boundary,
            "flow_shift": float(pipeline.modules["scheduler"].config.shift),
        }
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        return {"loaded": False, "error": f"{type(error).__name__}: {str(error)[:TAIL]}"}


SCHEDULERS = ("UniPCMultistepScheduler", "FlowMatchEulerDiscreteScheduler", "FlowUniPCMultistepScheduler",
              "DPMSolverMultistepScheduler", "EulerDiscreteScheduler", "LCMScheduler")  # fmt: skip
"""Classes to look up in the runtime's registry of schedulers."""


def schedulers() -> dict[str, Any]:
    """Return, per scheduler class that the runtime has, the keys that it takes; ``None``: any."""
    import inspect

    from sglang.multimodal_gen.runtime.loader.component_loaders import scheduler_loader
    from sglang.multimodal_gen.runtime.models.registry import ModelRegistry

    rows: dict[str, Any] = {}
    for name in SCHEDULERS:
        try:
            kind, _ = ModelRegistry.resolve_model_cls(name)
        except Exception:  # noqa: S112 - the runtime has no such class, which is the answer
            continue
        parameters = inspect.signature(kind.__init__).parameters
        takes_all = any(item.kind == inspect.Parameter.VAR_KEYWORD for item in parameters.values())
        # later versions leave out the keys that a class does not take
        filtered = hasattr(scheduler_loader, "_supported_init_kwargs")
        rows[name] = None if takes_all or filtered else sorted(key for key in parameters if key != "self")
    return rows


REPOSITORIES = (
    "Wan-AI/Wan2.2-T2V-A14B-Diffusers", "nvidia/Wan2.2-T2V-A14B-Diffusers-NVFP4",
    "nvidia/Wan2.2-T2V-A14B-Diffusers-FP8",
    "nvidia/Wan2.2-T2V-A14B-NVFP4", "mycorp/Wan2.2-T2V-A14B-Diffusers", "mycorp/my-Wan2.2-T2V-A14B-Diffusers-ours",
    "mycorp/wan2.2-t2v-a14b-diffusers", "Wan-AI/Wan2.2-I2V-A14B-Diffusers", "Wan-AI/Wan2.2-TI2V-5B-Diffusers",
    "/models/Wan2.2-T2V-A14B-Diffusers", "/models/nvfp4",
    "/root/.cache/huggingface/hub/models--nvidia--Wan2.2-T2V-A14B-Diffusers-NVFP4/snapshots/abc",
)  # fmt: skip
"""Names to look up in the runtime's registry: exact, contained, with other case, local and cached."""


def registry() -> dict[str, Any]:
    """Return, per repository name or path: pipeline configuration, flow shift, boundary and guidance scales."""
    from sglang.multimodal_gen import registry as sglang_registry

    # both ask the hub for files of the repository; the reader answers from the names alone
    replies = {"maybe_download_model_index": {"_class_name": "WanPipeline"}, "get_non_diffusers_pipeline_name": None}
    for function, reply in replies.items():
        if hasattr(sglang_registry, function):
            setattr(sglang_registry, function, lambda path, *args, reply=reply, **kwargs: reply)
    rows: dict[str, Any] = {}
    for name in REPOSITORIES:
        try:
            info = sglang_registry._get_config_info(name)
            pipeline = info.pipeline_config_cls()
            sampling = info.sampling_param_cls()
            rows[name] = {
                "pipeline": info.pipeline_config_cls.__name__,
                "flow_shift": getattr(pipeline, "flow_shift", None),
                "boundary_ratio": getattr(pipeline, "boundary_ratio", None),
                "guidance_scale": getattr(sampling, "guidance_scale", None),
                "guidance_scale_2": getattr(sampling, "guidance_scale_2", None),
            }
        except Exception as error:
            rows[name] = {"error": f"{type(error).__name__}: {str(error)[:TAIL]}"}
    return rows


def main(jobs_file: str, answers_file: str) -> None:
    """Load every checkpoint that has no answer yet, and append its answer."""
    _environment()
    began = time.time()
    jobs = json.loads(Path(jobs_file).read_text(encoding="utf-8"))
    answers = Path(answers_file)
    lines = answers.read_text(encoding="utf-8").splitlines() if answers.exists() else []
    finished = {json.loads(line)["name"] for line in lines}
    runtime = _runtime()
    from safetensors import safe_open

    with safe_open(f"{jobs['base']}/transformer/diffusion_pytorch_model.safetensors", "pt") as file:
        weights = [name for name in file.keys() if name.endswith(".weight")]  # noqa: SIM118 - no mapping
        references = {name[: -len(".weight")]: file.get_tensor(name).float() for name in weights}
    references = {name: value for name, value in references.items() if value.ndim == 2}
    with answers.open("a", encoding="utf-8") as out:

        def write(row: dict[str, Any]) -> None:
            out.write(json.dumps(row) + "\n")
            out.flush()

        for number, job in enumerate(jobs["checkpoints"], 1):
            if job["name"] in finished:
                continue
            print(f"{number} of {len(jobs['checkpoints'])} {job['name']}", file=sys.stderr, flush=True)
            if job["role"] == "repository":
                write({"name": job["name"], **_ask_repository(job, runtime)})
            else:
                write({"name": job["name"], **_ask(job, jobs["base"], references, runtime)})
        if "_runtime" not in finished:
            write(
                {
                    "name": "_runtime",
                    "stubs": STUBS,
                    "registry": registry(),
                    "schedulers": schedulers(),
                    "names": runtime.names,
                    "methods": sorted(map(str, runtime.methods)),
                    "torch": runtime.torch.__version__,
                    "seconds": round(time.time() - began, 1),
                }
            )
    os._exit(0)  # the runtime's background threads keep an ordinary exit waiting


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
