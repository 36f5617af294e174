"""What is generated: prompts, seeds, healthy runs and faults. Calibration and score share no run and no strength.

A *run* is one generation of one case (prompt and seed) by one *engine* (checkpoint, loader, kernels). Faults of
finished frames are made of a healthy, disturbed run and need no generation of their own.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Any, Literal

Side = Literal["golden", "calibration", "benign", "fault"]
DEVELOPMENT = (
    "a red circle moving right on a blue background",
    "a yellow square moving down on a purple background",
    "a white cross moving up on a green background",
    "a cyan triangle moving left on a black background",
    "a green cross moving left on a white background",
    "a blue square moving up on a yellow background",
)
"""On these the rule that places limits was developed; nothing of them is in the score."""
SCORED = (
    "a purple triangle moving down on a cyan background",
    "a black circle moving up on a white background",
    "a green square moving right on a red background",
    "a yellow cross moving left on a blue background",
    "a white triangle moving down on a purple background",
    "a red square moving up on a cyan background",
)
"""Drawn up after the rule was frozen, at the commit that `FROZEN_AT` names, and run once."""
FROZEN_AT = "a3653a8"
PROMPTS = (*DEVELOPMENT, *SCORED)
SEEDS = (0, 1)
SAMPLING: dict[str, Any] = {
    "negative_prompt": "",
    "width": 96,
    "height": 64,
    "num_frames": 17,
    "num_inference_steps": 8,
    "guidance_scale": 3.0,
    "guidance_scale_2": 3.0,
    "max_sequence_length": 64,
}
HELD_OUT = (0.35, 0.7)
"""Strengths of the score. Calibration knows .1, .25, .5 and 1."""


@dataclass(frozen=True)
class Engine:
    """How the model is loaded."""

    checkpoint: str = "healthy"
    """Key of `benchmarks.power.checkpoints.FAULTS`, or ``healthy``."""
    strength: float = 1.0
    experts: tuple[str, ...] = ("transformer", "transformer_2")
    case: tuple[tuple[str, tuple[tuple[str, Any], ...]], ...] = ()
    """Changes of ``loader``, ``execution`` or ``precision``: section, then names and values."""
    isa: str = ""
    """Instruction set, by name of the harness's perturbation; needs a process of its own."""

    def sections(self) -> dict[str, dict[str, Any]]:
        """The changes as data."""
        return {name: dict(values) for name, values in self.case}


@dataclass(frozen=True)
class Task:
    """One generation, and what is made of its frames."""

    engine: Engine
    side: Side
    name: str
    kind: str
    """Class of fault (``checkpoint``, ``loader``, ``configuration``, ``conditioning``), or of perturbation."""
    noise: tuple[tuple[str, Any], ...] = ()
    """Of `harness.engine.noise.Noise`; empty: undisturbed."""
    request: tuple[tuple[str, tuple[tuple[str, Any], ...]], ...] = ()
    """What the runtime does otherwise than the case asks: sections ``sampling`` and ``scheduler``."""
    carries: bool = False
    """Whether faults of finished frames are made of this run."""
    causes: tuple[str, ...] = ()
    """Codes that name this fault rightly; one of them is enough."""
    condition: str = ""
    """Fault of the picture's conditioning, by name in `benchmarks.faults.conditioning`."""

    def key(self, prompt: int, seed: int, weights: str, device: str) -> str:
        """Name of its result: everything that its numbers depend on."""
        task = {name: value for name, value in asdict(self).items() if name != "causes"}
        if not self.condition:
            del task["condition"]  # results of models without a picture keep their names
        body = {"task": task, "prompt": PROMPTS[prompt], "seed": seed, "weights": weights, "device": device}
        return hashlib.sha256(json.dumps(body | {"sampling": SAMPLING}, sort_keys=True).encode()).hexdigest()[:24]


def _noise(seed: int, place: str = "both", dtype: str = "bf16") -> tuple[tuple[str, Any], ...]:
    return (
        ("between", place in ("between", "both")),
        ("dtype", dtype),
        ("initial", place in ("initial", "both")),
        ("seed", seed),
    )


def _kernels(**execution: Any) -> Engine:
    return Engine(case=(("execution", tuple(sorted(execution.items()))),))


WAYS = ("initial", "between", "both")


def calibration(count: int) -> list[Task]:
    """Healthy runs that the limits may know: as ``quantgate regenerate --repeats`` makes them."""
    return [
        Task(Engine(), "calibration", f"ulp-{WAYS[index % 3]}-{1 + index}", "noise", _noise(1 + index, WAYS[index % 3]))
        for index in range(count)
    ]


def benign(device: str, count: int) -> list[Task]:
    """Healthy runs that nobody has seen, with other seeds, other kernels, and kinds that calibration does not know."""
    tasks = [
        Task(Engine(), "benign", f"ulp-{WAYS[i % 3]}-{101 + i}", "noise", _noise(101 + i, WAYS[i % 3]), carries=i == 2)
        for i in range(8)
    ]
    tasks += [
        Task(Engine(), "benign", f"ulp32-{WAYS[i]}-{201 + i}", "noise of float32", _noise(201 + i, WAYS[i], "float32"))
        for i in range(3)
    ]
    others: list[tuple[str, Engine]] = [("attention-math", _kernels(attention_backend="_native_math"))]
    if device == "cuda":
        others += [
            ("attention-efficient", _kernels(attention_backend="_native_efficient")),
            ("attention-flash", _kernels(attention_backend="_native_flash")),
            ("tf32", _kernels(tf32=True)),
            ("nondeterministic", _kernels(deterministic=False)),
        ]
    else:
        others += [(f"isa-{isa}", Engine(isa=f"isa-{isa}")) for isa in ("default", "avx2")]
    for number, (name, engine) in enumerate(others):
        tasks.append(Task(engine, "benign", name, "kernels"))
        tasks += [
            Task(engine, "benign", f"{name}+ulp-{way}", "kernels and noise", _noise(301 + 10 * number + i, way))
            for i, way in enumerate(WAYS)
        ]
    return tasks[:count]


def _checkpoint(name: str, strength: float, causes: tuple[str, ...], *experts: str) -> Task:
    chosen = experts or ("transformer", "transformer_2")
    place = "" if len(chosen) == 2 else "-high" if chosen == ("transformer",) else "-low"
    engine = Engine(checkpoint=name, strength=strength, experts=chosen)
    return Task(engine, "fault", f"{name}{place}@{strength:g}", "checkpoint", causes=causes)


def _loader(name: str, cause: str, **loader: Any) -> Task:
    engine = Engine(case=(("loader", tuple(loader.items())),))
    return Task(engine, "fault", name, "loader", causes=(cause, "module_off"))


def _config(label: str, section: str, causes: tuple[str, ...], /, **values: Any) -> Task:
    return Task(Engine(), "fault", label, "configuration", request=((section, tuple(values.items())),), causes=causes)


LAYOUT = ("nibble_order", "two_conventions")
SCALES = ("scale_layout", "row_corrupt")
GAIN = ("gain",)
"""Which codes name a fault rightly was written down before the first run, but for these two: ``gain`` and
``row_corrupt`` (the bytes fit the base under no reading) were filled in after it, when it showed what the inspector
calls a wrong gain and a shifted row of scales. Detection does not depend on them."""
GENERATED: tuple[Task, ...] = (
    _checkpoint("nibble_swap", 1.0, LAYOUT),
    _checkpoint("nibble_swap", 1.0, LAYOUT, "transformer"),
    _checkpoint("nibble_swap", 1.0, LAYOUT, "transformer_2"),
    _checkpoint("nibble_swap", 0.7, LAYOUT),
    _checkpoint("nibble_swap", 0.35, LAYOUT),
    _checkpoint("nibble_swap", 0.01, LAYOUT, "transformer_2"),
    _checkpoint("scale_roll", 1.0, SCALES),
    _checkpoint("scale_roll", 0.35, SCALES),
    _checkpoint("scale_roll", 0.01, SCALES, "transformer"),
    _checkpoint("scales_swizzled", 1.0, SCALES),
    _checkpoint("scales_swizzled", 0.35, SCALES),
    _checkpoint("gain", 1.0, GAIN),
    _checkpoint("gain", 0.35, GAIN),
    _checkpoint("gain", 0.01, GAIN, "transformer_2"),
    _checkpoint("global_scale_inverted", 1.0, ("global_scale_inverted",)),
    _checkpoint("global_scale_inverted", 0.01, ("global_scale_inverted",), "transformer"),
    _checkpoint("global_scale_ones", 1.0, ("scale_dropped",)),
    _checkpoint("global_scale_ones", 0.01, ("scale_dropped",), "transformer_2"),
    _checkpoint("block_scale_zero", 1.0, ("block_scale_zero",)),
    _checkpoint("block_scale_zero", 0.35, ("block_scale_zero",)),
    _checkpoint("codes_stale", 1.0, ("base_stale", "wrong_base")),
    _checkpoint("codes_stale", 0.35, ("base_stale", "wrong_base")),
    _checkpoint("adaln_halves", 1.0, ("adaln_halves_swapped", "excluded_differs")),
    _checkpoint("excluded_moved", 1.0, ("excluded_differs", "wrong_base")),
    _checkpoint("experts_swapped", 1.0, ("experts_swapped",)),
    _checkpoint("expert_twice", 1.0, ("experts_identical",)),
    _checkpoint("expert_unquantized", 1.0, ("unexpected_format", "quantized_path_not_run"), "transformer_2"),
    _checkpoint("expert_unquantized", 1.0, ("unexpected_format", "quantized_path_not_run"), "transformer"),
    _loader("loader-nibbles-high-first", "nibble_order", nibble_order="high_first"),
    _loader("loader-scales-swizzled", "scale_layout", scale_layout="swizzled"),
    _config("boundary-.5", "scheduler", ("boundary_ratio", "expert"), boundary_ratio=0.5),
    _config("boundary-.7", "scheduler", ("boundary_ratio", "expert"), boundary_ratio=0.7),
    _config("boundary-.95", "scheduler", ("boundary_ratio", "expert"), boundary_ratio=0.95),
    _config("flow-shift-5", "scheduler", ("timestep", "scheduler_settings"), flow_shift=5.0),
    _config("flow-shift-2", "scheduler", ("timestep", "scheduler_settings"), flow_shift=2.0),
    _config("flow-shift-3.3", "scheduler", ("timestep", "scheduler_settings"), flow_shift=3.3),
    _config("sampler-euler", "scheduler", ("scheduler_settings", "timestep"), name="FlowMatchEulerDiscreteScheduler"),
    _config("guidance-4", "sampling", ("guidance",), guidance_scale=4.0, guidance_scale_2=4.0),
    _config("guidance-low-2.5", "sampling", ("guidance",), guidance_scale_2=2.5),
    _config("guidance-high-3.3", "sampling", ("guidance",), guidance_scale=3.3),
    _config("one-step-less", "sampling", ("step_count",), num_inference_steps=7),
    _config("text-pads-128", "sampling", ("sequence_length",), max_sequence_length=128),
    _config("another-seed", "sampling", ("initial_latents",), seed=4711),
    _config("negative-prompt", "sampling", ("text_tokens",), negative_prompt="a blue circle"),
    Task(
        Engine(case=(("precision", (("vae", "bf16"),)),)),
        "fault",
        "vae-bf16",
        "configuration",
        causes=("vae_settings",),
    ),
)


@dataclass(frozen=True)
class Design:
    """One benchmark."""

    device: str = "cpu"
    prompts: tuple[int, ...] = tuple(range(len(DEVELOPMENT), len(PROMPTS)))
    seeds: tuple[int, ...] = SEEDS
    calibration_runs: int = 12
    benign_runs: int = 99
    faults: tuple[Task, ...] = GENERATED

    def cases(self) -> list[tuple[int, int]]:
        """Prompt and seed of every case."""
        return [(prompt, seed) for prompt in self.prompts for seed in self.seeds]

    def tasks(self) -> list[Task]:
        """Every task but the goldens, those of one engine together, healthy ones first."""
        healthy = [*calibration(self.calibration_runs), *benign(self.device, self.benign_runs)]
        rows = [*healthy, *self.faults]
        order = list(dict.fromkeys(task.engine for task in rows))
        return sorted(rows, key=lambda task: order.index(task.engine))


GOLDEN = Task(Engine(), "golden", "golden", "golden")
