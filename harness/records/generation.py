"""The results that an engine returns from one generation: trace, receipts, clip."""

from __future__ import annotations

from typing import Literal

from harness.records.base import Json, Record
from harness.records.inspection import StoredFormat
from harness.records.perf import LoadUsage, Usage

Expert = Literal["transformer", "transformer_2"]
"""``transformer`` is the high-noise expert (t >= boundary_ratio * T), ``transformer_2`` the low-noise one."""

SCALE_ROUNDING = 0.003
"""Distance from 1 within which a factor on the attention scores is 1: rounding of query and key to bfloat16 moves it by
less than .0005."""
DEQUANTIZE = "dequantize+linear"
"""Kernel in receipts: the weight was dequantized and multiplied in the compute dtype."""


TextRole = Literal["prompt", "negative"]


class ModelCall(Record):
    """The inputs of an expert in one pass, recorded at its own forward. A batch of two passes gives two records."""

    timestep: float | None = None
    """The largest timestep that the expert received."""
    text: TextRole | Literal[""] = ""
    """The encoder's text that is nearest to the received text."""
    text_error: float | None = None
    """Relative L2 distance to that text."""
    latents_gain: float | None = None
    """Least-squares factor from the latents that the scheduler's step received to those that the expert received."""
    latents_error: float | None = None
    """Relative L2 distance of the two; a cast to bfloat16 is about .002."""


class Step(Record):
    """One denoising step."""

    index: int
    timestep: float
    expert: Expert
    guidance_scale: float
    """The scale that was set in the pipeline for this expert."""
    guidance_measured: float | None = None
    """The scale solved from the predictions that were really combined; ``None`` without guidance."""
    velocity_error: float | None = None
    """Relative L2 distance of the velocity that the scheduler got from the best combination of this step's predictions:
    0 if guidance combined them and no code changed the result; ``None`` if it cannot be determined."""
    velocity_of: int | None = None
    """Index of the earlier step whose predictions make the velocity, if it was kept from there."""
    latent_norm: float
    """L2 norm of the latents after the step."""
    latent_sketch: tuple[float, ...] = ()
    """Seeded random projection of the latents after the step (unit-variance projections)."""
    velocity_sketch: tuple[float, ...] = ()
    calls: tuple[ModelCall, ...] = ()
    """Inputs of the experts, pass by pass; the order has no meaning."""
    carried_error: float | None = None
    """Relative L2 distance between the latents that this step received and the latents that it should have received:
    the initial latents, or the result of the step before. 0 if no code changed them in between."""
    carried_gain: float | None = None
    """Least-squares factor between the same two."""
    seconds: float = 0.0


class Alone(Record):
    """Sketches of the outputs of components that were fed a fixed signal, so that errors of other components stay out.

    Empty if a component was not fed alone, or in goldens of versions that did not do it.
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
    held: dict[str, dict[str, str]] = {}
    """Digests of the weights that each component holds in memory, by kind of tensor: see `harness.engine.held`."""


class Condition(Record):
    """How the request's pictures reached the model. Errors are relative L2 distances from the stage before."""

    kind: Literal["channels", "first_frame"]
    """``channels``: mask and latents behind the noisy latents (I2V-A14B). ``first_frame``: the first latent frame is
    the picture, and its tokens have timestep 0 (TI2V-5B)."""
    encoded: bool
    """Whether the VAE's encoder was called at all."""
    pixels_error: dict[str, float] = {}
    """Per ``image`` and ``last_image``: distance of the encoded frame from the decoded and resized file."""
    pixels_cause: dict[str, str] = {}
    """The simple mistake that explains the error."""
    other_frames: float = 0.0
    """Root mean square of the encoded frames that must be grey (0)."""
    encoder: tuple[float, ...] = ()
    """Sketch of the VAE's output (the mode of its distribution)."""
    latents_error: float | None = None
    """Distance of the latents in the first pass of an expert from the normalised output of the VAE."""
    latents_cause: str = ""
    mask_error: float | None = None
    """Mean absolute difference of the mask (or of the frames with timestep 0) from the request."""
    mask_cause: str = ""
    given: tuple[float, ...] = ()
    """Sketch of all conditioning of the first pass."""
    drift: float = 0.0
    """Largest distance of a later pass's conditioning from the first one's."""


class Trace(Record):
    """The measured course of a generation, step by step."""

    steps: tuple[Step, ...]
    scheduler: dict[str, Json] = {}
    vae: dict[str, Json] = {}
    boundary_ratio: float | None = None
    text_embedding_sketch: tuple[float, ...] = ()
    text: dict[str, Json] = {}
    """The encoded prompt: ``length`` and ``dtype`` of the embedding, digests of ``tokens`` and ``mask``."""
    initial_latents_sha256: str = ""
    repeated_frames: int = 0
    """Number of latent frames in the first step that equal the frame before."""
    sigmas: tuple[float, ...] = ()
    """Noise levels of the scheduler, as they were set for this generation."""
    timesteps: tuple[float, ...] = ()
    """Timesteps of the scheduler, as they were set for this generation."""
    alone: Alone = Alone()
    attention_scale: dict[Expert, float] = {}
    """Factor on the attention scores against 1 / sqrt(head size), worst self-attention of the expert's first call."""
    attention_error: dict[Expert, float] = {}
    """Relative L2 distance of the first self-attention's result from the same computed in float64, by expert."""
    vae_input_error: float | None = None
    """Relative L2 distance of the VAE's input from the last latents times the standard deviation plus the mean that its
    configuration states."""
    condition: Condition | None = None
    """Conditioning on pictures; ``None`` without one, or in traces of older versions."""
    rounding_bias: float | None = None
    """Mean of the frames' values less that of the decoded values when rounded, in 8-bit levels: -0.5 is truncation."""


class ModuleReceipt(Record):
    """The kernel and format that one quantized Linear really used, recorded inside its forward."""

    expert: Expert
    module: str
    format: StoredFormat
    """From the dtype and shape of the stored weight that was used."""
    kernel: str
    """The operation that was called: ``torch._scaled_mm``, ``dequantize+linear``, ``linear``."""
    calls: int
    note: str = ""
    """Why the native kernel did not run, if it was requested and refused."""
    fallback: Literal["", "module", "device"] = ""
    """The reason of ``note``. ``module``: the kernel does not take this module (its shape, its scales). ``device``: the
    device refused the kernel for all modules."""


class Receipts(Record):
    """Every Linear of the transformer blocks that ran, with its kernel and its number of calls."""

    modules: tuple[ModuleReceipt, ...]

    def count(self, expert: Expert) -> dict[str, int]:
        """Return the number of modules of ``expert`` per ``format/kernel``."""
        counts: dict[str, int] = {}
        for module in self.modules:
            if module.expert == expert:
                key = f"{module.format}/{module.kernel}"
                counts[key] = counts.get(key, 0) + 1
        return dict(sorted(counts.items()))


class FloatStats(Record):
    """Statistics of the decoded video before rounding and clipping; healthy values lie in [0, 1]."""

    nan: int
    inf: int
    minimum: float
    maximum: float
    first_bad_frame: int | None = None


Container = Literal["safetensors", "npy", "png", "video"]


class Delivery(Record):
    """How a program delivered its frames, and which evidence that loses."""

    container: Container
    dtype: str
    """Type of the delivered values: ``uint8``, ``float16``, ``float32``."""
    codec: str = ""
    """Codec and pixel format of a video, such as ``h264 yuv420p``."""
    costs: str = ""
    """The evidence that is lost, as a sentence; empty if nothing is lost."""


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
    """Why there are no receipts; empty if the engine wrote them. A run without receipts does not prove its kernels."""
    delivery: Delivery | None = None
    """How a foreign program delivered the frames; ``None`` for quantgate's own engine."""
    peak_memory_bytes: int | None = None
    generate_seconds: float = 0.0
    not_available: tuple[str, ...] = ()
    """Evidence that this kind of backend cannot give, as ``topic: sentence``, so that a reader knows the checks that
    were not made."""
    usage: Usage | None = None
    """Time and memory by stage, if the backend measures them."""


class EngineStart(Record):
    """The report of an engine after it loaded its model."""

    engine: str
    """Engine key: digest over the settings that two cases must have in common to share a process."""
    process: int
    load_seconds: float
    loads: int
    """Number of loads of a model in this process: 1, for any number of cases."""
    quantized_modules: dict[Expert, dict[str, str]] = {}
    """Formats that the checkpoints store, read from tensors: expert to module to format (``fp8`` ...)."""
    runtime: dict[str, Json] = {}
    """Settings that a runtime in its own process resolved while loading: its configuration, flow shift, boundary,
    precisions, and a sentence per operator that was emulated because the machine has no GPU."""
    load: LoadUsage | None = None
    """Time and memory of the load."""
    started: Literal["process", "fork"] = "process"
    """``fork``: forked from a warm process that had imported the backend's libraries and touched no GPU. ``process``: a
    new program, because its environment, or a variable in it, had to precede an import."""
    not_forked: str = ""
    """Why the warm process could not be forked, if that is why the engine is a new program."""


class Progress(Record):
    """Progress of a load or a generation."""

    stage: str
    """``load``, ``encode``, ``denoise``, ``decode``, ``command``."""
    step: int = 0
    steps: int = 0
    seconds: float = 0.0
    """Duration of this step."""
