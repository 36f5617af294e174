"""Generate repositories, one per way in which ``model_index.json`` and the scheduler's file can state a schedule.

They hold no weights. A runtime's own pipeline loads the index and the scheduler and ends with a flow shift, a boundary
and a set of experts; ``benchmarks.contracts`` compares these with the prediction.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from harness.inspector.contracts.model import Rules
from harness.inspector.contracts.sampling import SamplingPrediction, predict_sampling
from harness.runtimes.kinds import ABSENT, INDEX, WEIGHTS, without_absent

MODEL_ID = "Wan2.2-T2V-A14B-Diffusers"
UNIPC: dict[str, Any] = {
    "_class_name": "UniPCMultistepScheduler", "_diffusers_version": "0.33.0.dev0", "beta_end": 0.02,
    "beta_schedule": "linear", "beta_start": 0.0001, "disable_corrector": [], "dynamic_thresholding_ratio": 0.995,
    "final_sigmas_type": "zero", "flow_shift": 3.0, "lower_order_final": True, "num_train_timesteps": 1000,
    "predict_x0": True, "prediction_type": "flow_prediction", "rescale_betas_zero_snr": False,
    "sample_max_value": 1.0, "solver_order": 2, "solver_p": None, "solver_type": "bh2", "steps_offset": 0,
    "thresholding": False, "timestep_spacing": "linspace", "trained_betas": None, "use_beta_sigmas": False,
    "use_exponential_sigmas": False, "use_flow_sigmas": True, "use_karras_sigmas": False,
}  # fmt: skip
"""UniPC's configuration as diffusers 0.33 writes it."""
EULER: dict[str, Any] = {
    "_class_name": "FlowMatchEulerDiscreteScheduler", "_diffusers_version": "0.35.0", "base_image_seq_len": 256,
    "base_shift": 0.5, "invert_sigmas": False, "max_image_seq_len": 4096, "max_shift": 1.15,
    "num_train_timesteps": 1000, "shift": 5.0, "shift_terminal": None, "stochastic_sampling": False,
    "time_shift_type": "exponential", "use_beta_sigmas": False, "use_dynamic_shifting": False,
    "use_exponential_sigmas": False, "use_karras_sigmas": False,
}  # fmt: skip


FOLDERS = ("scheduler", "text_encoder", "tokenizer", "transformer", "transformer_2", "vae")


@dataclass(frozen=True)
class Repository:
    """One generated repository: changes of the index and of the scheduler's file, and the name that it is served as."""

    name: str
    index: Mapping[str, Any] = field(default_factory=dict)
    """Keys of ``model_index.json`` that differ from ``INDEX``."""
    scheduler: Mapping[str, Any] = field(default_factory=dict)
    """Keys of ``scheduler_config.json`` that differ from ``base``."""
    base: Mapping[str, Any] = field(default_factory=lambda: UNIPC)
    model_id: str | None = MODEL_ID

    def index_body(self) -> dict[str, Any]:
        """Return ``model_index.json``."""
        return without_absent({**INDEX, **self.index})

    def scheduler_body(self) -> dict[str, Any]:
        """Return ``scheduler_config.json``."""
        return without_absent({**self.base, **self.scheduler})


def repositories() -> tuple[Repository, ...]:
    """Return every repository, in a fixed order. Names are unique."""
    boundaries = {
        "half": 0.5, "i2v": 0.9, "one": 1.0, "whole_one": 1, "zero": 0, "null": None, "absent": ABSENT,
        "text": "0.875", "true": True, "false": False, "list": [0.875], "above_one": 875,
    }  # fmt: skip
    kinds = [Repository("sampling_as_published")]
    kinds += [Repository(f"boundary_{name}", {"boundary_ratio": value}) for name, value in boundaries.items()]
    kinds += [
        Repository("index_no_diffusers_version", {"_diffusers_version": ABSENT}),
        Repository("index_other_diffusers_version", {"_diffusers_version": "0.99"}),
        Repository("index_note", {"_name_or_path": "somewhere", "note": "a text"}),
        Repository("index_null_component", {"image_encoder": [None, None], "image_processor": [None, None]}),
        Repository("index_folder_missing", {"image_encoder": ["transformers", "CLIPVisionModel"]}),
        Repository("index_expand_timesteps", {"expand_timesteps": True}),
        Repository("index_one_expert", {"transformer_2": ABSENT}),
        Repository("index_second_expert_null", {"transformer_2": [None, None]}),
        Repository("index_one_expert_no_boundary", {"transformer_2": ABSENT, "boundary_ratio": ABSENT}),
        Repository("index_one_expert_null_boundary", {"transformer_2": [None, None], "boundary_ratio": None}),
        Repository("local_folder", model_id=None),
        Repository("local_folder_no_boundary", {"boundary_ratio": None}, model_id=None),
        Repository("local_folder_shift_8", scheduler={"flow_shift": 8.0}, model_id=None),
    ]
    kinds += [
        Repository(f"shift_{name}", scheduler={"flow_shift": value})
        for name, value in {
            "1": 1.0,
            "5": 5.0,
            "8": 8.0,
            "12": 12.0,
            "text": "12.0",
            "null": None,
            "absent": ABSENT,
        }.items()
    ]
    keys: dict[str, dict[str, Any]] = {
        "of_diffusers_037": {
            "shift_terminal": None,
            "sigma_min": None,
            "sigma_max": None,
            "time_shift_type": "exponential",
            "use_dynamic_shifting": False,
        },
        "terminal_shift": {"shift_terminal": 0.02},
        "smallest_sigma": {"sigma_min": 0.01, "sigma_max": 0.99},
        "dynamic_shift": {"use_dynamic_shifting": True, "time_shift_type": "linear"},
        "karras": {"use_karras_sigmas": True},
        "epsilon": {"prediction_type": "epsilon", "use_flow_sigmas": False},
        "unknown": {"made_up_by_a_trainer": 7},
        "unknown_private": {"_made_up_by_a_trainer": 7},
        "trailing": {"timestep_spacing": "trailing", "final_sigmas_type": "sigma_min"},
        "train_steps": {"num_train_timesteps": 500},
        "third_order": {"solver_order": 3},
        "corrector_off": {"disable_corrector": [0, 1]},
        "shift_of_euler": {"shift": 5.0},
    }
    kinds += [Repository(f"scheduler_{name}", scheduler=body) for name, body in keys.items()]
    for name in (
        "FlowUniPCMultistepScheduler", "DPMSolverMultistepScheduler", "EulerDiscreteScheduler", "LCMScheduler",
        "FlowMatchHeunDiscreteScheduler", "unipcmultistepscheduler",
    ):  # fmt: skip
        plain = {"_class_name": name, "num_train_timesteps": 1000}
        kinds.append(Repository(f"scheduler_class_{name}", {"scheduler": ["diffusers", name]}, base=plain))
    kinds += [
        Repository("scheduler_class_FlowMatchEuler", {"scheduler": ["diffusers", EULER["_class_name"]]}, base=EULER),
        Repository(
            "scheduler_FlowMatchEuler_unknown",
            {"scheduler": ["diffusers", EULER["_class_name"]]},
            {"made_up_by_a_trainer": 7},
            EULER,
        ),
        Repository("scheduler_index_says_another", {"scheduler": ["diffusers", "LCMScheduler"]}),
        Repository("scheduler_no_class", scheduler={"_class_name": ABSENT}),
        Repository("scheduler_empty", base={"_class_name": "UniPCMultistepScheduler"}),
    ]
    return tuple(kinds)


def write_repository(repository: Repository, folder: Path) -> Path:
    """Write a repository as a folder: two JSON files, and a placeholder per other component. Return the folder."""
    shutil.rmtree(folder, ignore_errors=True)
    for component in FOLDERS:
        (folder / component).mkdir(parents=True)
        (folder / component / "config.json").write_text("{}", encoding="utf-8")
        # later versions look for weights, and the pipeline is built without reading them
        save_file({"none": np.zeros(1, dtype=np.float32)}, folder / component / WEIGHTS)
    (folder / "model_index.json").write_text(json.dumps(repository.index_body(), indent=1), encoding="utf-8")
    (folder / "scheduler" / "scheduler_config.json").write_text(
        json.dumps(repository.scheduler_body(), indent=1), encoding="utf-8"
    )
    for name in ("config.json", WEIGHTS):
        (folder / "scheduler" / name).unlink()
    return folder


def predicted_sampling(rules: Rules, repository: Repository) -> str:
    """Return the predicted result in the words of ``answered_sampling``."""
    index, scheduler = repository.index_body(), repository.scheduler_body()
    return _words(predict_sampling(rules, index, scheduler, repository.model_id, FOLDERS))


def answered_sampling(answer: Mapping[str, Any]) -> str:
    """Return the result that a runtime's answer shows: ``refused``, or experts, boundary and flow shift."""
    if not answer["loaded"]:
        return "refused"
    two = "transformer_2" in answer["experts"]
    return _words(SamplingPrediction("", two, answer["boundary_ratio"] if two else None, answer["flow_shift"]))


def _words(result: SamplingPrediction) -> str:
    if result.refused:
        return "refused"
    experts = f"switch at {float(result.boundary_ratio or 0):g}" if result.two_experts else "one expert"
    return f"{experts}, shift {float(result.flow_shift):g}"
