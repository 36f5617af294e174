"""Where no cause is proven: exactly what remains, and exactly what is ruled out, situation by situation."""

from __future__ import annotations

from typing import Any

import pytest
from builders import make_record

from harness.judge.attribution import attribute
from harness.outcomes import Outcome
from harness.records.attribution import Experiment, ExperimentResult
from harness.records.base import Json
from harness.records.case_record import CaseRecord
from harness.records.identity import FieldChange
from harness.records.inspection import InspectionOutcome, InspectionReport
from harness.records.probe import ProbeEvidence
from harness.records.verdict import Finding, Verdict

BYTES, PASSES = "the bytes of the checkpoint", "single forward passes of the experts"
NOISE, STATE, BASE = "noise", "engine state", "the base in this build"
NO_PROBES = "weights or kernels (no probes were recorded)"
NO_RUN = "settings (the generation was not run)"
NO_RERUN, LEFT = "noise (no time to run again)", "state left in the engine"
NO_BASE = "code or environment (the base was not run)"
BASE_TOO = "code or environment (the base diverges in this build too)"
FRAMES = Finding(stage="frames", code="ssim_below_limit", gating=True, message="too low")


def did(kind: str, *, done: bool = True, **data: Json) -> ExperimentResult:
    return ExperimentResult(experiment=Experiment(kind=kind), done=done, data=data)  # type: ignore[arg-type]


SAME, FRESH = did("rerun_same", equal=True), did("rerun_fresh", equal=True)
RIGHT, WRONG = did("base_probe", differs=False), did("base_probe", differs=True)
ALL = (SAME, FRESH, RIGHT)


def shown(code: str, **data: Json) -> Finding:
    return Finding(stage="trace", code=code, gating=False, message="x", data=data)


def inspected(outcome: InspectionOutcome) -> dict[str, Any]:
    return {"inspection": InspectionReport(reference="r", base=None, outcome=outcome, summary="s")}


def changes(*names: str) -> dict[str, Any]:
    return {"changes": tuple(FieldChange(identity_class="subject", field=name, golden=1, run=2) for name in names)}


@pytest.fixture
def record() -> Any:
    def build(*findings: Finding, **more: Any) -> CaseRecord:
        verdict = Verdict(outcome=Outcome.REGRESSION, cause="x", summary="red", findings=(FRAMES, *findings))
        probe = ProbeEvidence(steps=(), modules=(), golden_anchor=True)
        return make_record(verdict=verdict, **{"probe": probe, **more})

    return build


FAR = Finding(stage="probe", code="probe_golden_error_above_limit", gating=True, message="off")
SITUATIONS: tuple[
    tuple[str, tuple[Finding, ...], dict[str, Any], tuple[Any, ...], tuple[str, ...], tuple[str, ...]], ...
]
SITUATIONS = (
    ("nothing was tried", (), {}, (), (NO_RERUN, NO_BASE), (PASSES,)),
    ("no probes", (), {"probe": None}, (), (NO_PROBES, NO_RERUN, NO_BASE), ()),
    ("no generation", (), {"generation": None}, (), (NO_RUN, NO_RERUN, NO_BASE), (PASSES,)),
    ("a probe is off", (FAR,), {}, (), (NO_RERUN, NO_BASE), ()),
    ("clean bytes", (), inspected("clean"), (), (NO_RERUN, NO_BASE), (BYTES, PASSES)),
    ("bytes unproven", (), inspected("inconclusive"), (), (NO_RERUN, NO_BASE), (PASSES,)),
    ("bytes unread", (), inspected("infra"), (), (NO_RERUN, NO_BASE), (PASSES,)),
    ("no time", (), {}, (did("rerun_same", done=False),), (NO_RERUN, NO_BASE), (PASSES,)),
    ("repeats itself", (), {}, (SAME,), (LEFT, NO_BASE), (PASSES, NOISE)),
    ("a fresh engine too", (), {}, (SAME, FRESH), (NO_BASE,), (PASSES, NOISE, STATE)),
    ("the base is right", (), {}, (SAME, RIGHT), (LEFT,), (PASSES, NOISE, BASE)),
    ("the base is wrong", (), {}, (SAME, FRESH, WRONG), (BASE_TOO,), (PASSES, NOISE, STATE)),
    ("base not finished", (), {}, (did("base_probe", done=False),), (NO_RERUN, NO_BASE), (PASSES,)),
    ("everything", (), inspected("clean"), ALL, (), (BYTES, PASSES, NOISE, STATE, BASE)),
    (
        "a step diverges",
        (shown("first_diverging_step", step=3),),
        {},
        ALL,
        ("sampler, from step 3 on",),
        (PASSES, NOISE, STATE, BASE),
    ),
    (
        "velocities drift",
        (shown("trajectory_error", error=0.0051),),
        {},
        ALL,
        ("numerical drift (velocities within 0.0051, as in healthy runs), or the VAE",),
        (PASSES, NOISE, STATE, BASE),
    ),
    ("velocities stand", (shown("trajectory_error", error=0.005),), {}, (), (NO_RERUN, NO_BASE), (PASSES,)),
    (
        "things changed",
        (),
        changes("g", "a", "f", "b", "e", "c", "d"),
        ALL,
        ("what changed since the golden: a, b, c, d, e, f",),
        (PASSES, NOISE, STATE, BASE),
    ),
)


@pytest.mark.parametrize(
    ("findings", "more", "results", "remaining", "ruled_out"),
    [row[1:] for row in SITUATIONS],
    ids=[r[0] for r in SITUATIONS],
)
def test_what_remains_and_what_is_ruled_out(
    record: Any,
    findings: tuple[Finding, ...],
    more: dict[str, Any],
    results: tuple[ExperimentResult, ...],
    remaining: tuple[str, ...],
    ruled_out: tuple[str, ...],
) -> None:
    found = attribute(record(*findings, **more), results)
    assert found.cause is None
    assert (found.remaining, found.ruled_out) == (remaining, ruled_out)
    left = f"no cause is proven; what remains: {', '.join(remaining) or 'nothing that is known'}"
    assert found.summary == left + (f" (not: {', '.join(ruled_out)})" if ruled_out else "")


def test_a_proven_cause_leaves_nothing_and_says_what_it_is_not(record: Any) -> None:
    guided = Finding(stage="trace", code="guidance", gating=True, message="other guidance", data={"step": 0})
    found = attribute(record(guided, **inspected("inconclusive")), (SAME,))
    assert found.cause is not None
    assert (found.remaining, found.ruled_out) == ((), (PASSES, NOISE))


@pytest.mark.parametrize(
    ("more", "message"),
    [({}, False), (inspected("clean"), True), (inspected("inconclusive"), False), (inspected("infra"), False)],
)
@pytest.mark.parametrize("reading", ["nibble_swapped", "scale_swizzled", "scale_missing"])
def test_bytes_are_called_right_only_where_they_were_proven(
    record: Any, more: dict[str, Any], message: bool, reading: str
) -> None:
    name = "blocks.1.attn1.to_q"
    off = Finding(stage="probe", code="module_off", gating=True, message="x", data={"modules": [f"transformer/{name}"]})
    read = ExperimentResult.model_validate(
        {
            "experiment": {"kind": "readings", "expert": "transformer", "module": name},
            "done": True,
            "readings": [{"name": reading, "error": 0.003, "gain": 1.0}],
        }
    )
    found = attribute(record(off, **more), (read,))
    assert found.cause is not None
    assert ("the bytes on disk are right" in found.cause.sentence) is message
    assert ("the bytes of the checkpoint" in found.ruled_out) is message
