"""The fault list of ``benchmarks.attribution`` for the models that take a picture, ``--model i2v`` and ``ti2v``.

Three parts: faults of the configuration and inside the engine, faults of the conditioning, and the broken exports of
``benchmarks.power``. Healthy runs for the count of false alarms are at the end.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from benchmarks.attribution_faults import Fault, Spec, dev_list, one
from benchmarks.faults.conditioning import CONDITIONING
from benchmarks.power.design import GENERATED

WAYS = ("initial", "between", "both")


def image_list(model: str) -> tuple[Fault, ...]:
    """Return the faults of ``model``, ``i2v`` or ``ti2v``.

    A model of one expert has no boundary and nothing to exchange; places in the low-noise expert move to its only one.
    """
    faults = [fault for fault in dev_list() if not fault.checkpoint]
    faults = [fault for fault in faults if not fault.name.startswith(("flow_shift", "boundary"))]
    faults += [
        one("flow_shift 5 -> 3", "flow_shift", to=3.0),
        one("flow_shift 5 -> 5.5", "flow_shift", to=5.5),
        one("steps 8 -> 7", "step_count", to=7),
        one("seed 0 -> 1", "initial_latents", to=1),
        one("negative_prompt given", "text_tokens", to="a blue circle"),
        one("solver_order 2 -> 1", "scheduler", "solver_order", to=1),
        one("text_encoder_gain 1.1", "text_embedding|held_weights_differ", by=1.1),
    ]
    if model == "ti2v":
        double = ("experts_swapped", "nibble both", "nibble high", "expert_bf16 high")
        faults = [_of_one_expert(fault) for fault in faults if not fault.name.startswith(double)]
    else:
        faults += [
            one("boundary .9 -> .875", "boundary_ratio", to=0.875),
            one("boundary .9 -> .5", "boundary_ratio", to=0.5),
        ]
    faults += [
        one(f"condition {name}", "image_condition_differs", condition=name)
        for name, fault in CONDITIONING.items()
        if model in fault.models
    ]
    return (*faults, *_broken_exports(model))


def _of_one_expert(fault: Fault) -> Fault:
    specs = tuple(
        {key: value.replace("transformer_2", "transformer") if isinstance(value, str) else value
         for key, value in spec.items()}
        for spec in fault.specs
    )  # fmt: skip
    place = "" if fault.place == "both experts" else fault.place.replace("transformer_2", "transformer")
    return replace(fault, specs=specs, place=place)


def _broken_exports(model: str) -> Iterator[Fault]:
    """Yield every broken export of ``benchmarks.power`` that ``model`` can have, with the codes that name it there."""
    for task in GENERATED:
        if task.kind != "checkpoint":
            continue
        one_expert = model == "ti2v"
        if one_expert and (task.engine.experts == ("transformer_2",) or task.name.startswith("expert")):
            continue
        yield Fault(f"export {task.name}", (), ("|".join(task.causes),), checkpoint=task.name)


def healthy_runs(count: int) -> Iterator[Fault]:
    """Yield ``count`` healthy runs whose latents differ in their last bit, by seeds and ways that calibration lacks.

    Every fourth one runs another attention kernel too, every fifth one is disturbed by a unit of float32.
    """
    for index in range(count):
        way, seed = WAYS[index % 3], 1001 + index
        noise = {
            "seed": seed,
            "dtype": "float32" if index % 5 == 4 else "bf16",
            "initial": way != "between",
            "between": way != "initial",
        }
        specs: list[Spec] = [{"kind": "disturbed", "to": noise}]
        if index % 4 == 3:
            specs.append({"kind": "attention_backend"})
        yield Fault(f"healthy, disturbed {seed} {way}", tuple(specs), ())
