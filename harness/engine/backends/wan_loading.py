"""Load a Wan pipeline from a Diffusers repository, with overrides, quantized or not."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch

from harness.definitions.case import Case, DType, Execution
from harness.engine.backend import Emit
from harness.engine.failures import shortage
from harness.engine.quantized.build import build_transformer
from harness.engine.quantized.headers import override_folder
from harness.errors import CheckpointFaultError, InvalidCaseError, QuantgateError
from harness.reading import UnreadableError, read_foreign, reason

EXPERTS = ("transformer", "transformer_2")
COMPONENTS: dict[str, frozenset[tuple[str, str]]] = {
    "transformer": frozenset({("diffusers", "WanTransformer3DModel")}),
    "transformer_2": frozenset({("diffusers", "WanTransformer3DModel")}),
    "vae": frozenset({("diffusers", "AutoencoderKLWan")}),
    "text_encoder": frozenset({("transformers", "UMT5EncoderModel"), ("transformers", "T5EncoderModel")}),
    "tokenizer": frozenset({("transformers", "T5Tokenizer"), ("transformers", "T5TokenizerFast")}),
    "scheduler": frozenset(
        ("diffusers", f"{name}Scheduler")
        for name in ("UniPCMultistep", "FlowMatchEulerDiscrete", "FlowMatchHeunDiscrete", "DPMSolverMultistep")
    ),
}
"""Allowed library and class per component. ``model_index.json`` comes with the weights: without this list it could
choose which function of two large libraries is called on this machine."""
PIPELINES = ("WanPipeline", "WanImageToVideoPipeline")
DTYPES: dict[DType, torch.dtype] = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


def load_pipeline(
    case: Case, paths: Mapping[str, Path], device: torch.device, emit: Emit
) -> tuple[Any, dict[str, dict[str, str]]]:
    """Build the pipeline of ``case`` on ``device``.

    Returns:
        The pipeline class that the repository names, and the format of every quantized module by expert.

    Raises:
        CheckpointFaultError: the folder is no Wan pipeline, or an expert's tensors are wrong.
        InvalidCaseError: the case requests a feature that this backend does not have.
    """
    from harness.engine.backends.needs import diffusers

    if case.loader.packed_qkv:
        raise InvalidCaseError(
            "loader.packed_qkv: Wan in diffusers has separate q, k and v, nothing is packed",
            place=case.id,
            remedy="set packed_qkv: false",
        )
    root = paths["model"]
    index = _model_index(root)
    _check_components(root, index)
    require_takes(case, takes(index), str(root / "model_index.json"))
    promised: dict[str, dict[str, str]] = {}
    parts: dict[str, Any] = dict.fromkeys(EXPERTS)
    present = [role for role in EXPERTS if role in paths or _names_component(index, role)]
    if "transformer" not in present:
        raise CheckpointFaultError("has no transformer", place=str(root), code="weights_missing")
    for step, role in enumerate(present, start=1):
        folder = override_folder(paths[role], role) if role in paths else root / role
        parts[role], promised[role] = build_transformer(
            folder,
            dtype=DTYPES[case.precision.transformer],
            device=device if case.execution.offload == "none" else torch.device("cpu"),
            loader=case.loader,
            policy=case.execution.matmul,
            compute=device,
        )
        _set_attention(parts[role], case)
        emit({"stage": "load", "step": step, "steps": len(present) + 1})
    parts["vae"] = load_component(root, index, "vae", DTYPES[case.precision.vae])
    parts["text_encoder"] = load_component(root, index, "text_encoder", DTYPES[case.precision.text_encoder])
    for name in ("tokenizer", "scheduler"):
        parts[name] = _load_plain(root, index, name)
    # `_model_index` lets only the names of `PIPELINES` pass
    kind: Any = getattr(diffusers, index["_class_name"])
    pipe = kind.from_pretrained(str(root), **parts, local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    # the case states where the experts switch, whatever the repository states
    pipe.register_to_config(boundary_ratio=case.scheduler.boundary_ratio if "transformer_2" in present else None)
    if case.execution.offload == "model" and device.type == "cuda":
        pipe.enable_model_cpu_offload(device=device)
    else:
        pipe.to(device)
    emit({"stage": "load", "step": len(present) + 1, "steps": len(present) + 1})
    return pipe, {role: modules for role, modules in promised.items() if modules}


def load_component(root: Path, index: Mapping[str, Any], name: str, dtype: torch.dtype) -> Any:
    """Load one component of a Diffusers repository, in eval mode on the CPU.

    The libraries only warn of absent weights and leave them random, so this function raises an error for them.

    Raises:
        CheckpointFaultError: the component cannot be loaded, or it lacks weights.
        InfraError: memory, disk or device were not available to load it.
    """
    folder = root / name
    try:
        library, kind = index[name]
        _check_component(root, name, library, kind)
        model, info = getattr(importlib.import_module(library), kind).from_pretrained(
            str(folder),
            **{"torch_dtype" if library == "diffusers" else "dtype": dtype},
            local_files_only=True,
            use_safetensors=True,
            output_loading_info=True,
        )
    except (ImportError, CheckpointFaultError):
        raise
    except Exception as error:
        raise _load_error(name, folder, error) from error
    missing = sorted(map(str, [*info["missing_keys"], *info.get("mismatched_keys", ())]))
    if missing:
        raise CheckpointFaultError(f"lacks {', '.join(missing[:5])}", place=str(folder), code="tensor_missing")
    return model.eval()


def _load_plain(root: Path, index: Mapping[str, Any], name: str) -> Any:
    """Load a component without weights here, because the pipeline's own error would not name the broken file."""
    folder = root / name
    try:
        library, kind = index[name]
        _check_component(root, name, library, kind)
        return getattr(importlib.import_module(library), kind).from_pretrained(str(folder), local_files_only=True)
    except (ImportError, CheckpointFaultError):
        raise
    except Exception as error:
        raise _load_error(name, folder, error) from error


def _load_error(name: str, folder: Path, error: Exception) -> QuantgateError:
    """Return a fault of the checkpoint, or an infra error if memory, disk or device were short."""
    short = shortage(error, f"{name} could not be loaded", str(folder))
    if short is not None:
        return short
    # the library's message rarely names the file that it could not parse
    broken = next((path for path in sorted(folder.glob("*.json")) if not _is_json(path)), folder)
    return CheckpointFaultError(f"{name} cannot be loaded: {error}", place=str(broken), code="component_broken")


def _is_json(path: Path) -> bool:
    try:
        read_foreign(path)
    except (OSError, UnreadableError):
        return False
    return True


def _set_attention(model: Any, case: Case) -> None:
    try:
        model.set_attention_backend(case.execution.attention_backend)
    except (ValueError, RuntimeError, ImportError) as error:
        raise InvalidCaseError(
            f"execution.attention_backend {case.execution.attention_backend!r}: {error}",
            place=case.id,
            remedy="name a backend that diffusers has here, such as `native`",
        ) from error


def _model_index(root: Path) -> dict[str, Any]:
    path = root / "model_index.json"
    try:
        index = read_foreign(path)
    except (OSError, UnreadableError) as error:
        raise CheckpointFaultError(
            f"cannot be read: {reason(error)}", place=str(path), code="config_invalid"
        ) from error
    if not isinstance(index, dict) or index.get("_class_name") not in PIPELINES:
        name = index.get("_class_name") if isinstance(index, dict) else type(index).__name__
        raise CheckpointFaultError(
            f"_class_name is {name}, this backend runs {' and '.join(PIPELINES)}",
            place=str(path),
            remedy="name a checkpoint of one of these, or run the model by a program of its own (backend command)",
            code="unsupported_layout",
        )
    return index


Takes = Literal["text", "image", "either"]
"""Conditioning beside the prompt: none (T2V), a first frame (I2V), a first frame if given (TI2V)."""


def takes(index: Mapping[str, Any]) -> Takes:
    """Return the conditioning that a pipeline takes, from its ``model_index.json`` or its configuration."""
    if index.get("expand_timesteps"):
        return "either"
    return "image" if index.get("_class_name") == "WanImageToVideoPipeline" else "text"


def require_takes(case: Case, taken: Takes, place: str) -> None:
    """Refuse a request that the model cannot serve.

    Raises:
        InvalidCaseError: a picture for a model that takes none, no picture for a model that needs one, or a last frame
            for TI2V.
    """
    sampling = case.sampling
    if taken == "text" and sampling.image is not None:
        wrong, remedy = "sampling.image: this model takes text alone", "remove it, or name an I2V or TI2V model"
    elif taken == "image" and sampling.image is None:
        wrong, remedy = "this model begins with a picture, and the case has no sampling.image", "add sampling.image"
    elif taken == "either" and sampling.last_image is not None:
        wrong, remedy = "sampling.last_image: a model with expand_timesteps takes a first frame only", "remove it"
    else:
        return
    raise InvalidCaseError(f"{wrong} ({place})", place=case.id, remedy=remedy)


def _check_components(root: Path, index: Mapping[str, Any]) -> None:
    """Refuse an index with a component or class that Wan does not have. An absent component reads ``[null, null]``.

    Raises:
        CheckpointFaultError: the index names such a component. Nothing was imported.
    """
    for name, entry in index.items():
        if isinstance(entry, list) and any(part is not None for part in entry):
            library, kind = entry if len(entry) == 2 else (entry[0], None)
            _check_component(root, name, library, kind)


def _check_component(root: Path, name: str, library: object, kind: object) -> None:
    allowed = COMPONENTS.get(name, frozenset())
    # an entry may hold anything that JSON can, also what no set takes
    if not (isinstance(library, str) and isinstance(kind, str) and (library, kind) in allowed):
        names = ", ".join(sorted(f"{module}.{cls}" for module, cls in allowed)) or "absent: Wan has no such component"
        raise CheckpointFaultError(
            f"{name} is {library}.{kind}, and it may be {names}",
            place=str(root / "model_index.json"),
            remedy="take model_index.json from the checkpoint's base",
            code="unsupported_layout",
        )


def _names_component(index: Mapping[str, Any], role: str) -> bool:
    """Return whether ``model_index.json`` names a component. An absent component reads ``[null, null]``."""
    entry = index.get(role)
    return isinstance(entry, list) and len(entry) == 2 and entry[0] is not None


# Global settings of torch, to be set before a model is loaded.


def pick_device(name: str) -> torch.device:
    """Return the device of the engine.

    Args:
        name: ``cpu``, ``cuda``, or ``auto``: cuda if there is one.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    # with an index, as CUDA's own functions return it: torch.device("cuda") and cuda:0 are not equal
    return torch.device("cuda", 0) if name == "cuda" else torch.device(name)


def apply(execution: Execution) -> None:
    """Set threads, TF32 and determinism.

    An operation without a deterministic form only causes a warning (in the log): repeating a run measures determinism,
    a flag would only promise it.
    """
    torch.set_num_threads(execution.threads)
    # torch refuses to set this number twice, and a second load comes here again
    if torch.get_num_interop_threads() != 1:
        torch.set_num_interop_threads(1)
    torch.backends.cuda.matmul.allow_tf32 = execution.tf32
    torch.backends.cudnn.allow_tf32 = execution.tf32
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = execution.deterministic
    torch.use_deterministic_algorithms(execution.deterministic, warn_only=True)
    # deterministic mode would fill fresh memory with NaN, which costs time and changes nothing
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.set_grad_enabled(False)
