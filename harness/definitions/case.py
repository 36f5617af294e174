"""A resolved case: one generation to run and judge, with every setting that moves its output."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, WithJsonSchema

from harness.formats.registry import built_in_names, runnable_formats
from harness.records.run_folder import FILE_ENDINGS, TAKEN
from harness.text import has_words


def _names_no_other_file(case_id: str) -> str:
    """Refuse an id whose limit file or folder would have the name of something else that is written there."""
    if case_id.endswith(".perf"):
        raise ValueError("must not end in .perf: thresholds/<runner>/<case>.perf.json holds the times of <case>")
    if case_id in TAKEN:
        raise ValueError(f"must not be {case_id!r}: runs/<run>/{case_id}/ is not the folder of a case")
    if ending := next((ending for ending in FILE_ENDINGS if case_id.endswith(ending)), ""):
        raise ValueError(f"must not end in {ending}: a run has files of such names beside the folders of its cases")
    return case_id


def _visible(text: str) -> str:
    """Refuse text without a letter or a digit: blanks, a zero-width space or ``...`` are no reason."""
    if not has_words(text):
        raise ValueError("must hold a word")
    return text


Visible = Annotated[str, AfterValidator(_visible)]
CaseId = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_.-]{0,79}$"), AfterValidator(_names_no_other_file)]
EnvName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
DType = Literal["bf16", "fp16", "fp32"]


def _runnable(name: str) -> str:
    """Refuse a format that the engine cannot run. Formats of other distributions are among the names."""
    if name not in BUILT_IN_FORMATS and name not in runnable_formats():
        *first, last = (repr(each) for each in runnable_formats())
        raise ValueError(f"must be {', '.join(first)} or {last}")
    return name


BUILT_IN_FORMATS: Final = ("bf16", *built_in_names(runs=True))
_NOT_RUN: Final = [*built_in_names(runs=False), "fp16", "fp32"]
_OTHERS: Final = {"type": "string", "pattern": "^[a-z0-9_]{1,32}$", "not": {"enum": _NOT_RUN}}
Format = Annotated[
    str,
    AfterValidator(_runnable),
    # editors complete the built-in names, and accept those of installed distributions
    WithJsonSchema({"anyOf": [{"enum": list(BUILT_IN_FORMATS)}, _OTHERS]}),
]
UNRESOLVED = "unresolved"


class Frozen(BaseModel):
    """A frozen value in which an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class CheckpointRef(Frozen):
    """The place of weights: a folder in the repository (``./...``) or on this machine's disk (``/models/...``,
    ``~/...``), or a Hugging Face repository at a commit.
    """

    path: str = Field(
        min_length=1,
        description="./folder relative to the repository root, /folder or ~/folder on this machine, or owner/name on "
        "the hub",
    )
    revision: str | None = Field(
        default=None,
        pattern=r"^([0-9a-f]{40}|unresolved)$",
        description="full commit of a hub repository; a run refuses `unresolved` until `quantgate resolve` has "
        "replaced it",
    )
    made_by: str | None = Field(
        default=None, description="command that makes a local folder; shown if the folder is absent"
    )

    @property
    def is_local(self) -> bool:
        """Whether this is a folder on this machine."""
        return self.path.startswith(("./", "/", "~/"))


class ImageRef(Frozen):
    """A picture of the request: a file in the repository (``./...``), or one of a hub repository at a commit."""

    path: str = Field(min_length=1, description="./file relative to the repository root, or owner/name on the hub")
    file: str | None = Field(default=None, min_length=1, description="path of the file inside a hub repository")
    revision: str | None = Field(
        default=None,
        pattern=r"^([0-9a-f]{40}|unresolved)$",
        description="full commit of a hub repository; `unresolved` is collected and refused by a run",
    )
    sha256: str | None = Field(
        default=None,
        pattern=r"^[0-9a-f]{64}$",
        description="of the file's bytes. Stated for a hub file; a file in the repository is digested when the case is "
        "read, and must have it where it is stated",
    )

    @property
    def is_local(self) -> bool:
        """Whether this is a file on this machine."""
        return self.path.startswith(("./", "/"))

    @property
    def name(self) -> str:
        """Name in messages: the path, or ``owner/name/file``."""
        return self.path if self.file is None else f"{self.path}/{self.file}"


class Sampling(Frozen):
    """The request: prompt, size, length, steps, guidance, seed."""

    prompt: str
    negative_prompt: str = ""
    image: ImageRef | None = Field(
        default=None,
        description="first frame, for models that take one: PNG, JPEG or WebP, resized to width x height with Lanczos",
    )
    last_image: ImageRef | None = Field(default=None, description="last frame, beside `image`, for I2V models")
    width: int = Field(ge=16, le=8192, multiple_of=8, description="pixels")
    height: int = Field(ge=16, le=8192, multiple_of=8, description="pixels")
    num_frames: int = Field(ge=1, le=1025)
    num_inference_steps: int = Field(ge=1, le=1000)
    guidance_scale: float = Field(ge=0, description="guidance scale of the high-noise expert")
    guidance_scale_2: float | None = Field(
        default=None, ge=0, description="guidance scale of the low-noise expert; null: the same as guidance_scale"
    )
    max_sequence_length: int = Field(default=512, ge=1, le=4096, description="text tokens, pads included")
    seed: int = Field(default=0, ge=0, lt=2**63)
    fps: int = Field(default=16, ge=1, le=240, description="frames per second of the preview; no comparison uses it")

    def images(self) -> dict[str, ImageRef]:
        """Return the pictures of the request, by field."""
        named = {"image": self.image, "last_image": self.last_image}
        return {field: image for field, image in named.items() if image is not None}


class SchedulerSettings(Frozen):
    """The sampler, stated so that a library's new default cannot change the output unnoticed."""

    name: Literal["UniPCMultistepScheduler", "FlowMatchEulerDiscreteScheduler"] = "UniPCMultistepScheduler"
    flow_shift: float = Field(default=3.0, gt=0)
    boundary_ratio: float = Field(
        default=0.875,
        ge=0,
        le=1,
        description="experts switch at t = boundary_ratio * 1000 (T2V-A14B .875, I2V-A14B .9); a model of one "
        "expert ignores it",
    )


class Precision(Frozen):
    """Compute dtype by component."""

    transformer: DType = "bf16"
    text_encoder: DType = "bf16"
    vae: DType = "fp32"


class Quantization(Frozen):
    """Number format in which each expert's quantized Linears must run; the receipts of a run are compared with it."""

    transformer: Format = "bf16"
    transformer_2: Format = "bf16"


class Loader(Frozen):
    """How packed weights are read. A runtime decides this silently; a case states it."""

    nibble_order: Literal["low_first", "high_first"] = Field(
        default="low_first", description="which nibble of a packed byte holds the even column (ModelOpt: the low one)"
    )
    scale_layout: Literal["linear", "swizzled"] = Field(default="linear", description="layout of block scales on disk")
    packed_qkv: bool = False


class Execution(Frozen):
    """How the engine computes: kernels, precision, threads."""

    attention_backend: str = Field(default="native", description="a diffusers attention backend name")
    matmul: Literal["auto", "dequantize", "emulate"] = Field(
        default="auto",
        description="auto: the native kernel if the device has one; dequantize: weights are decoded and "
        "activations are not quantized; emulate: activations are quantized as for the native kernel, "
        "and multiplied in float32 on any device",
    )
    tf32: bool = False
    deterministic: bool = True
    threads: int = Field(default=1, ge=1, le=1024, description="CPU threads of the engine")
    offload: Literal["none", "model"] = "none"


PerfMeasure = Literal[
    "step", "first_step", "text_encoder", "vae", "read", "place", "total", "load_memory", "encode_memory",
    "denoise_memory", "decode_memory", "host_memory", "growth", "host_growth",
]  # fmt: skip


class PerfSettings(Frozen):
    """How much slower or larger a run may be than its baseline; see docs/perf.md."""

    effect: float = Field(
        default=0.05, ge=0.01, le=1, description="smallest relative change of a time that is worth red: 0.05 is 5 %"
    )
    memory_effect: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="smallest relative change of a peak of memory that is worth red; 0: any change beyond "
        "the allocator's granularity",
    )
    gates: tuple[PerfMeasure, ...] = Field(
        default=(
            "step", "text_encoder", "vae", "load_memory", "encode_memory", "denoise_memory", "decode_memory",
            "host_memory", "growth", "host_growth",
        ),
        description="measures that can turn the case red; the others are only shown",
    )  # fmt: skip
    improvement: Literal["report", "red"] = Field(
        default="report",
        description="a run that is faster or smaller than the limit: report it, or fail until a new baseline is "
        "accepted",
    )
    generations: int = Field(
        default=1,
        ge=1,
        le=50,
        description="generations per run; with 5 or more, memory that grows with each generation is detected",
    )


class Timeouts(Frozen):
    """Deadlines that the parent enforces, in seconds."""

    load: float = Field(default=1800, gt=0)
    generate: float = Field(default=1800, gt=0)


class Server(Frozen):
    """A server with the OpenAI-style video API: started by the engine, or given by URL."""

    dialect: Literal["sglang", "vllm-omni"] = "sglang"
    command: tuple[str, ...] = Field(
        default=(),
        description="program and arguments that start the server; no shell runs it; {port}, {model}, {transformer}, "
        "{transformer_2} and {device} are replaced",
    )
    url: str = Field(default="", pattern=r"^(https?://[^\s]+)?$", description="address of a server that runs already")
    health: str = Field(default="/health", pattern=r"^/", description="path that responds once the model is loaded")


class Waiver(Frozen):
    """A known failure that is tolerated until a date."""

    expect: str = Field(
        pattern=r"^(regression|checkpoint_fault|inconclusive):[a-z0-9_]+(,[a-z0-9_]+)*$",
        description="`outcome:cause` of the known failure, several causes with commas; anything else stays red",
        examples=["regression:flicker_above_limit"],
    )
    owner: Visible = Field(min_length=1)
    reason: Visible = Field(min_length=1)
    issue: str = Field(
        pattern=r"^https?://[^\s/]+[^\s]*$",
        description="address of the issue, such as https://github.com/owner/name/issues/12",
    )
    expires: date

    @property
    def outcome(self) -> str:
        """The outcome that is waived."""
        return self.expect.partition(":")[0]

    @property
    def causes(self) -> frozenset[str]:
        """The causes that are waived."""
        return frozenset(self.expect.partition(":")[2].split(","))


class Case(Frozen):
    """One entry of ``cases/*.yaml`` after defaults and matrix."""

    id: CaseId
    description: str = ""
    runners: tuple[str, ...] = Field(min_length=1)
    backend: str = "diffusers"
    command: tuple[str, ...] = Field(
        default=(), description="program and arguments of the `command` backend; no shell runs it"
    )
    program_files: tuple[str, ...] = Field(
        default=(),
        description="globs, relative to the root, of files that belong to `command`'s program beside its script and "
        "the modules of the repository that the script imports: an edited one is named in `what changed`",
        examples=[["runtimes/kernels/*.cu"]],
    )
    runtime: str = Field(
        default="",
        pattern=r"^([a-z0-9][a-z0-9_-]*==[0-9][0-9A-Za-z.+!-]*)?$",
        description="runtime and version that the backend runs, such as sglang==0.5.23; "
        "`quantgate runtime install sglang==0.5.23` makes its environment, or the runner names an interpreter",
        examples=["sglang==0.5.23"],
    )
    runtime_args: dict[EnvName, bool | int | float | str] = Field(
        default={},
        description="further arguments of the runtime, under its own names",
        examples=[{"model_id": "Wan2.2-T2V-A14B-Diffusers"}],
    )
    server: Server | None = Field(default=None, description="server that the backend openai-video talks to")
    model: CheckpointRef
    base: CheckpointRef | None = Field(
        default=None,
        description="the BF16 checkpoint that the model was quantized from; proves encodings and anchors the probes",
    )
    transformer: CheckpointRef | None = Field(default=None, description="override of the high-noise expert")
    transformer_2: CheckpointRef | None = Field(default=None, description="override of the low-noise expert")
    contracts: tuple[str, ...] = Field(
        default=(),
        description="runtimes that will serve the checkpoint, such as sglang==0.5.23; the inspector checks how "
        "each would read it",
    )
    env: dict[EnvName, str] = Field(
        default={}, description="environment variables of the engine, set before its first import"
    )
    pass_env: tuple[EnvName, ...] = Field(
        default=(),
        description="names of environment variables that the engine inherits; their values are never recorded",
    )
    sampling: Sampling
    scheduler: SchedulerSettings = SchedulerSettings()
    precision: Precision = Precision()
    quantization: Quantization = Quantization()
    loader: Loader = Loader()
    execution: Execution = Execution()
    timeouts: Timeouts = Timeouts()
    perf: PerfSettings = PerfSettings()
    metrics: tuple[str, ...] = Field(
        default=(), description="metrics that gate this case; empty: all metrics that gate by default"
    )
    inspection: Literal["gate", "report"] = Field(
        default="gate",
        description="report: the inspector's faults are shown but do not decide, and no probe stops the "
        "generation; only for a negative control that must fail by its frames",
    )
    golden_of: CaseId | None = Field(
        default=None,
        description="case whose golden and limits are used; a negative control has none of its own",
    )
    expect: str = Field(
        default="pass",
        pattern=r"^(pass|(regression|checkpoint_fault):([a-z]+/)?[a-z0-9_]+(,([a-z]+/)?[a-z0-9_]+)*)$",
        description="`pass`, or the failure by which a negative control must be detected: `regression:cause` or "
        "`checkpoint_fault:cause`, several causes with commas, each with its stage if that matters "
        "(`regression:frames/ssim_below_limit`); an outcome alone would match any breakage",
        examples=["regression:ssim_below_limit", "checkpoint_fault:nibble_order"],
    )
    waiver: Waiver | None = None

    def must_be_seen(self) -> tuple[tuple[str, str], ...]:
        """Return stage and cause of each finding that a negative control must have; an empty stage means any stage.

        For example, ``regression:frames/flat,noise`` gives ``(("frames", "flat"), ("", "noise"))``.
        """
        named = [part for part in self.expect.partition(":")[2].split(",") if part]
        return tuple(
            (stage, cause)
            for stage, _, cause in (("", "", entry) if "/" not in entry else entry.partition("/") for entry in named)
        )

    def checkpoints(self) -> dict[str, CheckpointRef]:
        """Return every checkpoint that the case names, by role."""
        roles = {
            "model": self.model,
            "base": self.base,
            "transformer": self.transformer,
            "transformer_2": self.transformer_2,
        }
        return {role: ref for role, ref in roles.items() if ref is not None}

    def resolved(self) -> Case:
        """Return the case with the second guidance scale stated, which is the first guidance scale if it is left out.

        After this, ``model_dump`` of a loaded case is total: it names every setting that moves the output.
        """
        if self.sampling.guidance_scale_2 is not None:
            return self
        sampling = self.sampling.model_copy(update={"guidance_scale_2": self.sampling.guidance_scale})
        return self.model_copy(update={"sampling": sampling})


class Located(Frozen):
    """A case and where it was written."""

    case: Case
    path: Path
    line: int = Field(ge=1)

    @property
    def place(self) -> str:
        """``file:line``."""
        return f"{self.path}:{self.line}"
