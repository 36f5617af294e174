"""What the engine brings back from one generation: trace, receipts, clip."""

from __future__ import annotations

from typing import Literal

from harness.records.base import Json, Record

Expert = Literal["transformer", "transformer_2"]
"""``transformer`` is the high-noise expert (t >= boundary_ratio * T), ``transformer_2`` the low-noise one."""

DEQUANTIZE = "dequantize+linear"
"""Kernel in receipts: the weight was dequantized and multiplied in the compute dtype."""


class Step(Record):
    """One denoising step."""

    index: int
    timestep: float
    expert: Expert
    guidance_scale: float
    """The scale that the pipeline was told to use with this expert."""
    guidance_measured: float | None = None
    """The scale solved from the predictions that were really combined; ``None`` where there was no guidance."""
    latent_norm: float
    """L2 norm of the latents after the step."""
    latent_sketch: tuple[float, ...] = ()
    """Seeded random projection of the latents after the step (unit-variance projections)."""
    velocity_sketch: tuple[float, ...] = ()
    seconds: float = 0.0


class Trace(Record):
    """How a generation went, step by step."""

    steps: tuple[Step, ...]
    scheduler: dict[str, Json] = {}
    vae: dict[str, Json] = {}
    boundary_ratio: float | None = None
    text_embedding_sketch: tuple[float, ...] = ()
    text: dict[str, Json] = {}
    """What the prompt became: ``length`` and ``dtype`` of the embedding, digests of ``tokens`` and ``mask``."""
    initial_latents_sha256: str = ""


class ModuleReceipt(Record):
    """What one quantized Linear really did, written inside its forward."""

    expert: Expert
    module: str
    format: Literal["bf16", "fp16", "fp32", "fp8", "nvfp4"]
    """From the dtype and shape of the stored weight that was used."""
    kernel: str
    """The operation that was called: ``torch._scaled_mm``, ``dequantize+linear``, ``linear``."""
    calls: int
    note: str = ""
    """Why not the native kernel, where it was asked for and refused."""
    fallback: Literal["", "module", "device"] = ""
    """Whose doing ``note`` is: the kernel does not take this module (its shape, its scales), or the device refused the
    kernel for all of them."""


class Receipts(Record):
    """Every Linear of the transformer blocks that ran, with how often and on which kernel."""

    modules: tuple[ModuleReceipt, ...]

    def count(self, expert: Expert) -> dict[str, int]:
        """Number of modules of ``expert`` by ``format/kernel``."""
        counts: dict[str, int] = {}
        for module in self.modules:
            if module.expert == expert:
                key = f"{module.format}/{module.kernel}"
                counts[key] = counts.get(key, 0) + 1
        return dict(sorted(counts.items()))


class FloatStats(Record):
    """The decoded video before rounding and clipping, in [0, 1] where healthy."""

    nan: int
    inf: int
    minimum: float
    maximum: float
    first_bad_frame: int | None = None


class Generation(Record):
    """The result of one generation, as the engine writes it beside the clip file."""

    clip: str
    """The clip file (uint8 RGB frames [T, H, W, 3]), relative to the folder that the generation was to write to."""
    clip_sha256: str
    """Digest of the frames (shape and pixels), as ``harness.frames.clip.Clip.digest`` gives it."""
    shape: tuple[int, int, int, int]
    """Frames, height, width, channels."""
    float_stats: FloatStats
    trace: Trace
    receipts: Receipts
    peak_memory_bytes: int | None = None
    generate_seconds: float = 0.0


class EngineStart(Record):
    """What an engine says of itself once the model stands in memory."""

    engine: str
    """Engine key: the digest over everything that makes two cases share a process."""
    process: int
    load_seconds: float
    loads: int
    """How many times a model was loaded in this process: 1, however many cases it served."""
    quantized_modules: dict[Expert, dict[str, str]] = {}
    """What the checkpoints promise: expert to module name to format (``fp8``, ``nvfp4``), read from their tensors."""


class Progress(Record):
    """Where a load or a generation stands."""

    stage: str
    """``load``, ``encode``, ``denoise``, ``decode``, ``command``."""
    step: int = 0
    steps: int = 0
    seconds: float = 0.0
    """Duration of this step."""
