"""Probes: recorded inputs of an expert, observations inside it, and their distance from base and golden."""

from __future__ import annotations

from typing import Literal

from harness.records.base import Record
from harness.records.generation import Expert

PROBES = "probes"
"""Golden part: inputs recorded from the BF16 base, and the base's outputs for them."""
SKETCHES = "sketches"
"""Golden part: outputs of the golden's own configuration for the same inputs."""
METADATA_KEY = "quantgate.probe"
"""Key of the safetensors header that holds the index as JSON."""

PointKind = Literal["linear", "norm", "attention", "block", "other"]
BROKEN = 1e9
"""Replaces an error that is not finite, since a record is JSON and holds no NaN or infinity."""


class Point(Record):
    """One place inside an expert at which a tensor was sketched."""

    name: str
    kind: PointKind


class ProbeInput(Record):
    """One recorded forward pass of an expert."""

    expert: Expert
    step: int
    """Denoising step of the base's generation at which the input was taken."""
    timestep: float
    timestep_dtype: str
    tokens: int
    """Rows of the text embedding; trailing rows of zeros are not stored."""


class ObservationIndex(Record):
    """Index of an observation file. Tensors: ``velocity.I`` float32 [C, T, H, W] of probe I, ``points.I`` float32
    [points, 64] in order of execution, ``modules.EXPERT`` float32 [modules, 64]; in a recording also the inputs
    ``latents.I`` and ``text.I``, and ``timesteps.I`` [1, tokens] if each token has its own timestep."""

    schema_version: Literal[1] = 1
    probes: tuple[ProbeInput, ...]
    points: tuple[tuple[Point, ...], ...]
    """Points per probe; empty for a probe without observation inside."""
    modules: dict[Expert, tuple[str, ...]]
    """Linears that were fed alone, in the order of the rows of ``modules.EXPERT``."""
    formats: dict[Expert, dict[str, str]]
    """Stored format of each Linear of ``modules``."""
    amplitudes: dict[Expert, dict[str, float]]
    """Root mean square of each Linear's input in the base's forward pass: amplitude of its test signal."""
    dtypes: dict[Expert, dict[str, int]] = {}
    """Calls per ``operation:dtype`` in the observed pass; empty in recordings of older versions."""
    held: dict[str, dict[str, str]] = {}
    """Digests of the weights that each expert holds in memory: see `harness.engine.held`."""
    input_ranges: dict[Expert, dict[str, float]] = {}
    """Per quantized Linear with a static input scale: the largest input that it can represent, over the root mean
    square of the input that the base's Linear gets."""
    in_parts: dict[Expert, tuple[str, ...]] = {}
    """Points that were computed in several calls, and so are not comparable with a point of one call."""
    seconds: float = 0.0
    """Host seconds that the passes took."""


class PointEvidence(Record):
    """Distance of the tensor at one point from base and golden: relative L2 error, estimated from sketches."""

    name: str
    kind: PointKind
    base_error: float | None = None
    golden_error: float | None = None


class ProbeStep(Record):
    """Result of one probe. Errors are relative L2 errors of the predicted velocity, over all its values."""

    expert: Expert
    step: int
    timestep: float
    base_error: float
    base_cosine: float
    golden_error: float | None = None
    golden_cosine: float | None = None
    points: tuple[PointEvidence, ...] = ()


class ModuleEvidence(Record):
    """One Linear, fed alone with a fixed signal, so that no error of another module reaches it."""

    expert: Expert
    module: str
    format: str
    base_error: float | None = None
    golden_error: float | None = None
    golden_gain: float | None = None
    """Least-squares factor between the golden's output and this run's: 1.01 is a weight that grew by one percent."""


class ProbeEvidence(Record):
    """Evidence of stage 2 of a case: all probes."""

    steps: tuple[ProbeStep, ...]
    modules: tuple[ModuleEvidence, ...]
    golden_anchor: bool
    """Whether the golden holds sketches of its own configuration."""
    missing: tuple[str, ...] = ()
    """``expert/module`` that the recording has and this engine lacks."""
    missing_steps: tuple[str, ...] = ()
    """``expert at step N`` that the recording or the golden has a result for and this engine has not."""
    lowered: tuple[str, ...] = ()
    """Sentences: operations that computed in a narrower dtype than the golden's, with their expert."""
    held: dict[str, dict[str, str]] = {}
    """Per expert the kinds of tensors that hold other values in memory than in the golden's run: ``rounded`` (to
    bfloat16) or ``other``."""
    input_ranges: dict[Expert, dict[str, float]] = {}
    """See ``ObservationIndex.input_ranges``."""
    unanchored: tuple[str, ...] = ()
    """Modules of the golden that this run lacks, and steps that the golden lacks: they were not compared."""
    not_passed: tuple[str, ...] = ()
    """Points of the golden that this run did not pass, in probes that both answered: the runtime kept a result, or
    computed it elsewhere."""
    seconds: float = 0.0
