"""Run Wan2.2 in this process, through diffusers."""

from __future__ import annotations

import hashlib
import inspect
import math
import resource
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ftfy  # noqa: F401 - diffusers cleans prompts only if it is installed: its absence must fail
import torch

from harness.definitions.case import Case
from harness.engine import pictures
from harness.engine.backend import Emit, Method
from harness.engine.backends import wan_loading
from harness.engine.backends.wan_alone import decode_latents, save_latents, scheduler_alone, vae_alone
from harness.engine.backends.wan_attention import AttentionCheck, AttentionScales, measured_scales
from harness.engine.backends.wan_condition import ConditionWatch
from harness.engine.backends.wan_loading import DTYPES, EXPERTS, load_pipeline
from harness.engine.backends.wan_recorder import FloatWatch, Recorder, rounded
from harness.engine.dtypes import DtypeWatch, first_call
from harness.engine.held import HeldWeights
from harness.engine.meter import Meter
from harness.engine.noise import Disturber, Noise, initial_noise, noise_methods
from harness.engine.probes.methods import probe_methods
from harness.engine.profile import profile_methods
from harness.engine.receipts import keep_receipts
from harness.errors import InvalidCaseError
from harness.frames.clip import write_clip
from harness.reading import as_json
from harness.records.base import Json
from harness.records.generation import Condition, Generation, Trace
from harness.records.run_folder import CLIP_FILE, LATENTS_FILE

if TYPE_CHECKING:
    from PIL.Image import Image


class DiffusersBackend:
    """Loads a Wan pipeline (T2V, I2V or TI2V) once, then generates cases with it."""

    def __init__(self) -> None:
        self._pipe: Any = None
        self._pictures: dict[str, Path] = {}
        self._takes: wan_loading.Takes = "text"
        self._device = torch.device("cpu")
        self._dtype = torch.bfloat16
        self._promised: dict[str, dict[str, str]] = {}
        self._scheduler_config: dict[str, Any] = {}
        self._generations = 0

    def load(self, case: Case, paths: Mapping[str, Path], device: str, emit: Emit) -> None:
        """See ``Backend``."""
        wan_loading.apply(case.execution)
        self._device = wan_loading.pick_device(device)
        self._dtype = DTYPES[case.precision.transformer]
        folders, self._pictures = pictures.split(paths)
        self._held = HeldWeights()
        self._pipe, self._promised = load_pipeline(case, folders, self._device, emit)
        config = {"_class_name": type(self._pipe).__name__, **self._pipe.config}
        self._takes = wan_loading.takes(config)
        if self._takes == "either":
            self._choose_pipeline(case, with_image=case.sampling.image is not None)
        # keep the checkpoint's settings: each case gets a fresh scheduler made of them
        self._scheduler_config = dict(self._pipe.scheduler.config)

    @property
    def pipe(self) -> Any:
        """The loaded pipeline."""
        return self._pipe

    @property
    def experts(self) -> dict[str, torch.nn.Module]:
        """The loaded transformers by expert."""
        return {role: model for role in EXPERTS if (model := getattr(self._pipe, role)) is not None}

    def generate(self, case: Case, out_dir: Path, emit: Emit) -> Generation:
        """See ``Backend``. Writes ``clip.safetensors`` below ``out_dir``.

        Raises:
            InvalidCaseError: a size or frame count that the model would round without an error.
        """
        return self.generate_with(case, out_dir, emit, None)

    def generate_with(self, case: Case, out_dir: Path, emit: Emit, noise: Noise | None) -> Generation:
        """Generate with disturbed latents if ``noise`` is given. The trace names the undisturbed latents."""
        sampling = case.sampling
        inputs = self._prepare(case)
        pipe = self._pipe
        latents = self.initial_latents(case)
        # the digest covers the undisturbed latents, because a disturbance is not part of the request
        digest = hashlib.sha256(latents.numpy().tobytes()).hexdigest()
        if noise is not None:
            disturber = Disturber(noise)
            latents = disturber.initial(latents)
            disturber.hook(pipe.scheduler, sampling.num_inference_steps)
        meter = self._meter(case)
        began = time.perf_counter()
        condition, watch = ConditionWatch(pipe, inputs, sampling.num_frames), FloatWatch()
        recorder = Recorder(pipe, sampling.num_inference_steps, emit, latents, condition)
        scales, check = AttentionScales(), AttentionCheck()
        handle = pipe.vae.decoder.register_forward_hook(watch)
        try:
            with (
                first_call(pipe.text_encoder) as encoded,
                keep_receipts(self.experts) as book,
                recorder.watching(),
                scales.watching(self.experts),
                check.watching(self.experts),
                # innermost, so that the work of the other watchers is not timed
                meter.watching(pipe),
            ):
                clip = rounded(self._run(case, latents, "pt", inputs))
        finally:
            handle.remove()
        seconds = time.perf_counter() - began
        write_clip(out_dir / CLIP_FILE, clip, "raw")
        save_latents(out_dir / LATENTS_FILE, recorder.last_latents)
        # outside the timed part: VAE and scheduler run once more alone, which is no part of the generation
        with DtypeWatch() as decoded:
            vae = vae_alone(pipe.vae, self._device)
        alone = recorder.alone.model_copy(
            update={
                "scheduler": scheduler_alone(self.scheduler(case), sampling.num_inference_steps, self._device),
                "vae": vae,
                "dtypes": {"vae": decoded.counts, "text_encoder": encoded.counts},
                "held": self._held.read({**self.experts, "text_encoder": pipe.text_encoder, "vae": pipe.vae}),
            }
        )
        emit({"stage": "decode", "step": 1, "steps": 1})
        return Generation(
            clip=CLIP_FILE,
            clip_sha256=clip.digest,
            shape=clip.shape,
            float_stats=watch.stats(),
            trace=Trace(
                steps=tuple(recorder.steps),
                scheduler=_plain(pipe.scheduler.config) | {"class": type(pipe.scheduler).__name__},
                vae=_plain(pipe.vae.config) | {"class": type(pipe.vae).__name__, "dtype": str(pipe.vae.dtype)},
                boundary_ratio=pipe.config.boundary_ratio,
                text_embedding_sketch=recorder.text_embedding_sketch,
                text=recorder.text,
                initial_latents_sha256=digest,
                repeated_frames=recorder.repeated_frames,
                sigmas=recorder.sigmas,
                timesteps=recorder.timesteps,
                alone=alone,
                attention_scale=measured_scales(scales, check),
                attention_error={expert: attention.error for expert, attention in check.samples.items()},
                vae_input_error=recorder.vae_input_error,
                condition=None if (facts := condition.facts()) is None else Condition.model_validate(facts),
                rounding_bias=watch.rounding_bias(clip),
            ),
            receipts=book.receipts(),
            peak_memory_bytes=meter.peak or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            generate_seconds=seconds,
            usage=meter.usage(),
        )

    def denoise(self, case: Case) -> Any:
        """Run the case up to its last latents [1, C, T, H, W], without trace and without decoding."""
        inputs = self._prepare(case)
        return self._run(case, self.initial_latents(case), "latent", inputs)

    @property
    def compute(self) -> tuple[torch.device, torch.dtype]:
        """Device and compute dtype of the transformers."""
        return self._device, self._dtype

    def _prepare(self, case: Case) -> dict[str, Image]:
        """Set the pipeline up for a case. Return the decoded pictures of its request by role.

        Raises:
            InvalidCaseError: a size, a frame count or a picture that the model cannot take.
        """
        self._check_size(case)
        wan_loading.require_takes(case, self._takes, "the loaded model")
        images = pictures.pictures_of(case, self._pictures)
        if self._takes == "either":
            self._choose_pipeline(case, with_image=bool(images))
        self._pipe.scheduler = self.scheduler(case)
        self._pipe.register_to_config(boundary_ratio=case.scheduler.boundary_ratio if len(self.experts) == 2 else None)
        return images

    def _choose_pipeline(self, case: Case, *, with_image: bool) -> None:
        """Select the class: TI2V uses one class with a picture and another without, around the same components."""
        import diffusers

        kind: Any = diffusers.WanImageToVideoPipeline if with_image else diffusers.WanPipeline
        if isinstance(self._pipe, kind):
            return
        accepted = {name for name in inspect.signature(kind.__init__).parameters if name != "self"}
        components = {name: part for name, part in self._pipe.components.items() if name in accepted}
        self._pipe = kind(**components, expand_timesteps=True)
        self._pipe.set_progress_bar_config(disable=True)
        if case.execution.offload == "model" and self._device.type == "cuda":
            self._pipe.enable_model_cpu_offload(device=self._device)

    def _run(self, case: Case, latents: torch.Tensor, output_type: str, inputs: Mapping[str, Image]) -> Any:
        sampling = case.sampling
        return self._pipe(
            prompt=sampling.prompt,
            negative_prompt=sampling.negative_prompt,
            height=sampling.height,
            width=sampling.width,
            num_frames=sampling.num_frames,
            num_inference_steps=sampling.num_inference_steps,
            guidance_scale=sampling.guidance_scale,
            guidance_scale_2=sampling.guidance_scale_2 if len(self.experts) == 2 else None,
            latents=latents.to(self._device),
            output_type=output_type,
            max_sequence_length=sampling.max_sequence_length,
            **inputs,
        ).frames[0]

    def scheduler(self, case: Case) -> Any:
        """Return a fresh scheduler with the checkpoint's settings, overridden by the settings of the case."""
        import diffusers

        kind = getattr(diffusers, case.scheduler.name)
        shift = case.scheduler.flow_shift
        if case.scheduler.name == "UniPCMultistepScheduler":
            stated: dict[str, Any] = {
                "flow_shift": shift,
                "use_flow_sigmas": True,
                "prediction_type": "flow_prediction",
            }
        else:
            stated = {"shift": shift, "use_dynamic_shifting": False}
        settings = {key: value for key, value in self._scheduler_config.items() if not key.startswith("_")}
        return kind.from_config(settings, **stated)

    def initial_latents(self, case: Case) -> torch.Tensor:
        """Return seeded noise [1, C, T, H, W], float32 on the CPU, equal on every machine and for every device."""
        pipe, sampling = self._pipe, case.sampling
        shape = (
            1,
            # not in_channels: I2V's transformer takes mask and image latents beside the noise
            int(pipe.vae.config.z_dim),
            (sampling.num_frames - 1) // pipe.vae_scale_factor_temporal + 1,
            sampling.height // pipe.vae_scale_factor_spatial,
            sampling.width // pipe.vae_scale_factor_spatial,
        )
        return initial_noise(shape, sampling.seed)

    def close(self) -> None:
        """Release the model."""
        self._pipe = None

    def quantized_modules(self) -> dict[str, dict[str, str]]:
        """See ``Backend``."""
        return self._promised

    def methods(self) -> Mapping[str, Method]:
        """Return the additional methods by name."""
        return {
            **probe_methods(self),
            **noise_methods(self),
            **profile_methods(self),
            "decode_latents": self._decode_latents,
        }

    def _decode_latents(self, params: dict[str, Json], _emit: Emit) -> Json:
        """Decode the latents of the file ``latents`` with the VAE alone, and write the clip to ``out``."""
        out = Path(str(params["out"]))
        clip = rounded(decode_latents(self._pipe, Path(str(params["latents"])), self._device))
        out.parent.mkdir(parents=True, exist_ok=True)
        write_clip(out, clip, "raw")
        return {"clip": str(out)}

    def _check_size(self, case: Case) -> None:
        pipe, sampling = self._pipe, case.sampling
        _, patch_high, patch_wide = pipe.transformer.config.patch_size
        space, frames = pipe.vae_scale_factor_spatial, pipe.vae_scale_factor_temporal
        wrong = [
            f"{name} {value} is no multiple of {unit}"
            for name, value, unit in (
                ("height", sampling.height, max(16, space * patch_high)),
                ("width", sampling.width, max(16, space * patch_wide)),
                ("num_frames - 1 =", sampling.num_frames - 1, frames),
            )
            if value % unit
        ]
        if wrong:
            raise InvalidCaseError(
                "; ".join(wrong) + ": the pipeline would round it silently", place=case.id, remedy="change `sampling`"
            )

    def _meter(self, case: Case) -> Meter:
        """Return the meter of the next generation."""
        self._generations += 1
        emulated = case.execution.matmul == "emulate"
        return Meter(self._device, self._generations, case.execution.attention_backend, emulated=emulated)


def _plain(config: Mapping[str, Any]) -> dict[str, Json]:
    """Return a diffusers configuration as JSON, without private entries. Numbers that JSON lacks become text."""
    plain = as_json({k: v for k, v in config.items() if not k.startswith("_")}, default=str)
    # DPMSolver's default for `lambda_min_clipped` is -inf
    return {name: _finite(value) for name, value in plain.items()}


def _finite(value: Json) -> Json:
    if isinstance(value, dict):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
