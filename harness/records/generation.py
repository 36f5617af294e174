"""What the engine brings back from one generation: trace, receipts, clip."""

from __future__ import annotations

from typing import Literal

from harness.records.base import Json, Record
from harness.records.perf import LoadUsage, Usage

Expert = Literal["transformer", "transformer_2"]
"""``transformer`` is the high-noise expert (t >= boundary_ratio * T), ``transformer_2`` the low-noise one."""

DEQUANTIZE = "dequantize+linear"
"""Kernel in receipts: the weight was dequantized and multiplied in the compute dtype."""


TextRole = Literal["prompt", "negative"]


class ModelCall(Record):
    """What an expert was given in one pass, seen at its own door. A batch of two passes is two of these."""

    timestep: float | None = None
    """The largest timestep that it was given."""
    text: TextRole | Literal[""] = ""
    """Which text of the encoder its text is nearest to."""
    text_error: float | None = None
    """Relative L2 distance to that text."""
    latents_gain: float | None = None
    """Least-squares factor from the latents that the scheduler's step was given to those that the expert was given."""
    latents_error: float | None = None
    """Relative L2 distance of the two; a cast to bfloat16 is about .002."""


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
    calls: tuple[ModelCall, ...] = ()
    """What the experts were given, pass by pass; their order means nothing."""
    carried_error: float | None = None
    """Relative L2 distance between the latents that this step was given and those that it should have been given: the
    initial latents, or the result of the step before. 0 where nothing touched them."""
    carried_gain: float | None = None
    """Least-squares factor between the same two."""
    seconds: float = 0.0


class Alone(Record):
    """Answers of components that were fed a fixed signal, so that no error of another one reaches them; sketches.

    Empty where a component was not fed alone, or in goldens of versions that did not do it.
    """

    scheduler: tuple[tuple[float, ...], ...] = ()
    """Latents after each step on seeded velocities."""
    vae: tuple[float, ...] = ()
    """The video decoded from a seeded latent."""
    rope: dict[Expert, tuple[float, ...]] = {}
    """Rotary tables of the first call of each expert."""
    dtypes: dict[str, dict[str, int]] = {}
    """Calls by ``operation:dtype`` of ``vae`` (fed alone) and ``text_encoder`` (its first call)."""
    prompt: tuple[float, ...] = ()
    """Embedding of the prompt."""
    negative: tuple[float, ...] = ()
    """Embedding of the negative prompt."""


class Condition(Record):
    """How the request's pictures reached the model. Errors are relative L2 distances from what the last stage gave."""

    kind: Literal["channels", "first_frame"]
    """``channels``: mask and latents behind the noisy latents (I2V-A14B). ``first_frame``: the first latent frame is
    the picture, and its tokens have timestep 0 (TI2V-5B)."""
    encoded: bool
    """Whether the VAE's encoder was called at all."""
    pixels_error: dict[str, float] = {}
    """By ``image`` and ``last_image``: the frame that was encoded, from the decoded and resized file."""
    pixels_cause: dict[str, str] = {}
    """The simple mistake that explains it."""
    other_frames: float = 0.0
    """Root mean square of the encoded frames that must be grey (0)."""
    encoder: tuple[float, ...] = ()
    """Sketch of the VAE's answer (the mode of its distribution)."""
    latents_error: float | None = None
    """Latents that the first pass of an expert was given, from the normalised answer of the VAE."""
    latents_cause: str = ""
    mask_error: float | None = None
    """Mean absolute difference of the mask (or of the frames with timestep 0) from what the request says."""
    mask_cause: str = ""
    given: tuple[float, ...] = ()
    """Sketch of all conditioning of the first pass."""
    drift: float = 0.0
    """Largest distance of a later pass's conditioning from the first one's."""


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
    repeated_frames: int = 0
    """Latent frames of the first step that equal the frame before."""
    sigmas: tuple[float, ...] = ()
    """Noise levels of the scheduler, as they were set for this generation."""
    timesteps: tuple[float, ...] = ()
    """Timesteps of the scheduler, as they were set for this generation."""
    alone: Alone = Alone()
    attention_scale: dict[Expert, float] = {}
    """Factor on the attention scores against 1 / sqrt(head size), worst self-attention of the expert's first call."""
    vae_input_error: float | None = None
    """Relative L2 distance of what the VAE was given from the last latents times its standard deviation plus its mean,
    as its configuration states them."""
    condition: Condition | None = None
    """Conditioning on pictures; ``None`` without one, or in traces of older versions."""
    rounding_bias: float | None = None
    """Mean of the frames' values less that of the decoded values when rounded, in 8-bit levels: -0.5 is truncation."""


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


Container = Literal["safetensors", "npy", "png", "video"]


class Delivery(Record):
    """How a program handed over its frames, and what that hides."""

    container: Container
    dtype: str
    """Of the values that came: ``uint8``, ``float16``, ``float32``."""
    codec: str = ""
    """Of a video: codec and pixel format, such as ``h264 yuv420p``."""
    costs: str = ""
    """What cannot be seen any more, as a sentence; empty where nothing is lost."""


NO_RECEIPTS = "not proven which kernels ran: the program writes no receipts"


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
    unproven: str = ""
    """Why there are no receipts; empty where the engine wrote them. Such a run does not prove which kernels ran."""
    delivery: Delivery | None = None
    """How the frames came out of a foreign program; ``None`` where the engine is quantgate's own."""
    peak_memory_bytes: int | None = None
    generate_seconds: float = 0.0
    not_available: tuple[str, ...] = ()
    """What this kind of backend cannot tell, as ``topic: sentence``; whoever reads the record must know what was not
    looked at."""
    usage: Usage | None = None
    """Time and memory by stage, if the backend measures them."""


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
    runtime: dict[str, Json] = {}
    """What a runtime in a process of its own resolved while loading: its configuration, flow shift, boundary,
    precisions, and a sentence per operator that was emulated because the machine has no GPU."""
    load: LoadUsage | None = None
    """What the load cost."""
    started: Literal["process", "fork"] = "process"
    """``fork``: of a warm process that had imported the backend's libraries and touched no GPU; ``process``: a program
    of its own, because its environment, or a variable in it, had to precede an import."""


class Progress(Record):
    """Where a load or a generation stands."""

    stage: str
    """``load``, ``encode``, ``denoise``, ``decode``, ``command``."""
    step: int = 0
    steps: int = 0
    seconds: float = 0.0
    """Duration of this step."""
