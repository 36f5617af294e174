"""Time and memory of a run: measurements of the engine, conditions of the machine, comparison with the baseline.

Seconds and bytes throughout. ``None`` means "could not be measured here", never zero.
"""

from __future__ import annotations

from typing import Literal

from harness.records.base import Json, Record

Stage = Literal["load", "encode", "denoise", "decode"]
PROFILE_METHOD = "perf_profile"
"""Method of a backend that generates with instruments and gives a `Profile`."""
PerfState = Literal["within", "slower", "faster", "more_memory", "less_memory", "leak", "inconclusive", "unmeasured"]


class StageMemory(Record):
    """Most GPU memory of one stage."""

    stage: Stage
    allocated: int
    """Bytes of tensors, as torch's allocator counts them (multiples of 512)."""
    reserved: int
    """Bytes that the allocator took from the driver. It depends on earlier allocations, so it never gates."""


class LoadUsage(Record):
    """Time and memory of a load."""

    checkpoint_bytes: int
    """Bytes of the weight files that the case names."""
    cache_resident: float | None = None
    """Share of ``checkpoint_bytes`` that lay in the page cache before the load, in [0, 1]."""
    read_seconds: float = 0.0
    """Time to read the bytes that were not in the page cache, host clock."""
    place_seconds: float = 0.0
    """Rest of the load: building the modules and moving the weights to the device, host clock."""
    memory: StageMemory | None = None


class BlockTime(Record):
    """One transformer block of an expert, in an instrumented run."""

    block: str
    """``transformer.blocks.3``."""
    seconds: float
    """Median over the block's calls."""


class Profile(Record):
    """Times per block of a second, instrumented generation. They are not compared with those of plain runs."""

    blocks: tuple[BlockTime, ...] = ()
    kernels: int | None = None
    """Kernels that one step launches on the GPU; on a CPU the operators that the step runs."""
    synchronizations: int | None = None
    """Number of times that the host waits for the GPU in one step."""
    top: tuple[str, ...] = ()
    """Names of the kernels or operators that take the longest, the longest first."""


class CpuSpeed(Record):
    """Seconds of a fixed computation on the engine's own thread (`harness.engine.yardstick`): the CPU's speed."""

    text_encoder: float | None = None
    """Mean over all calls of the text encoder, immediately before and after each."""
    steps: tuple[float, ...] = ()
    """Immediately before each denoising step."""
    vae: float | None = None
    """Mean over all calls of the VAE's decoder, immediately before and after each."""


class Usage(Record):
    """Time and memory of one generation, as its engine measured them."""

    clock: Literal["device", "host"]
    """``device``: CUDA events on the stream. ``host``: the host's monotonic clock."""
    steps: tuple[float, ...] = ()
    """Seconds of each denoising step, from the first call of an expert to the end of its last call. The first step
    holds compilation and autotuning and is judged apart."""
    experts: tuple[str, ...] = ()
    """The expert of each step."""
    text_encoder: float | None = None
    vae: float | None = None
    total: float
    """Seconds of the whole generation, host clock."""
    memory: tuple[StageMemory, ...] = ()
    allocated_before: int | None = None
    """Bytes that were allocated on the GPU when the generation began."""
    allocated_after: int | None = None
    """Bytes that were allocated after the generation ended and its results were released."""
    ordinal: int = 1
    """Number of this generation in its engine, counted from 1."""
    compilations: int | None = None
    """Graphs that torch compiled in this generation."""
    attention: str = ""
    """Attention backend of the experts."""
    emulated: bool = False
    """Whether the matrix products were emulated: then the times are no measure of the real kernels."""
    cpu: CpuSpeed | None = None
    """Speed of the CPU beside the measured work; ``None`` on a GPU, or if the backend does not measure it."""

    @property
    def warm(self) -> tuple[float, ...]:
        """Steps without the first."""
        return self.steps[1:]

    def peak(self, stage: Stage) -> int | None:
        """Return the peak of allocated bytes in a stage; ``None`` if it was not measured."""
        return next((peak.allocated for peak in self.memory if peak.stage == stage), None)


class Conditions(Record):
    """State of the machine while a generation ran, measured by the parent process."""

    machine: str = ""
    """UUID of the GPU, or the name of the host."""
    pool: str = ""
    """Label of machines that count as alike (``QUANTGATE_POOL``); empty if none was stated."""
    samples: int = 0
    sm_clock: int | None = None
    """Median over the samples, MHz."""
    sm_clock_max: int | None = None
    power: float | None = None
    """Median, W."""
    temperature: int | None = None
    """Highest, degrees Celsius."""
    throttle: tuple[str, ...] = ()
    """All reasons for low clocks that the driver reported."""
    foreign: tuple[str, ...] = ()
    """Other processes that used the GPU meanwhile."""
    waiting: float | None = None
    """Share of the engine's runnable time in which it waited for a CPU, in [0, 1]."""
    host_before: int | None = None
    """Anonymous memory of the engine's processes when the generation began."""
    host_peak: int | None = None
    host_after: int | None = None


class PerfComparison(Record):
    """One measure compared with its baseline."""

    measure: str
    """``step``, ``first_step``, ``text_encoder``, ``vae``, ``read``, ``place``, ``denoise_memory``, ``leak``, ..."""
    unit: Literal["s", "bytes"]
    value: float
    baseline: float | None
    """Median over the runs of the baseline."""
    limit: float | None
    """Value from which on the measure counts as slower, or larger."""
    ratio: float | None = None
    p: float | None = None
    """The larger of the p values of its tests; ``None`` for memory, which has no noise to test against."""
    state: PerfState
    gates: bool
    message: str = ""


class PerfReport(Record):
    """Time and memory of a run, judged."""

    state: PerfState
    """The worst of the measures that gate."""
    pool: str = ""
    """Pool of the baseline that the run was compared with."""
    runs: int = 0
    """Runs of that baseline."""
    comparisons: tuple[PerfComparison, ...] = ()
    reasons: tuple[str, ...] = ()
    """Why nothing can be concluded, or why there is no baseline."""
    cause: str = ""
    """Stable name of the first cause that holds, if the run is slower or larger."""
    cause_message: str = ""
    confirmations: int = 0
    """Further generations that were made to confirm the finding."""
    message: str = ""
    """One sentence for a person: ``+12 % per step (p = 2e-05, pool h200-a)``."""
    profile: Profile | None = None


class PerfFacts(Record):
    """Hardware and software of a baseline's runs, to name the difference of another run."""

    receipts: dict[str, Json] = {}
    """``expert`` to number of modules by ``format/kernel``."""
    compilations: int | None = None
    attention: str = ""
    driver: str = ""
    packages: dict[str, str] = {}
    sm_clock: int | None = None
    """Median over the runs, MHz."""
    profile: Profile | None = None
