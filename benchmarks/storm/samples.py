"""Sound files of every kind that quantgate reads, small, made with the record classes."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from harness.frames.clip import Clip, write_clip
from harness.goldens.pending import leave
from harness.goldens.workspace import Workspace
from harness.lane.plan import Plan, PlannedCase
from harness.outcomes import Outcome
from harness.records.candidate import SHOWN_FILE
from harness.records.case_record import CaseRecord
from harness.records.frames import SanityCheck, SanityEvidence
from harness.records.generation import EngineStart, FloatStats, Generation, Receipts, Trace
from harness.records.identity import Device, FieldChange, Fingerprint, Identity
from harness.records.inspection import InspectionFinding, InspectionReport, LayerEvidence
from harness.records.limits import Limit, LimitCheck, LimitFile, Sample
from harness.records.perf_file import PerfFile, PerfPool, PerfRun
from harness.records.verdict import Finding, Verdict

ROOT = Path(__file__).resolve().parents[2]
RUNNER, CASE = "b200", "nvfp4"
IDENTITY = Identity(
    request={"sampling.seed": 0, "sampling.prompt": "a red ball"},
    hardware={"device": "NVIDIA B200"},
    weights={"model": "a" * 40},
    env={"SGLANG_X": "1"},
    subject={"code": "c0"},
)


@cache
def record() -> CaseRecord:
    """A record of a red case with a value in most of its fields."""
    return CaseRecord(
        run="20260102-030405-abcd",
        case=CASE,
        node=f"cases/tiny.yaml::{CASE}",
        source="cases/tiny.yaml:27",
        runner=RUNNER,
        started="2026-01-02T03:04:05+00:00",
        request={"id": CASE, "sampling": {"prompt": "a red circle", "seed": 0}, "env": {"MODE": "fast"}},
        verdict=Verdict(
            outcome=Outcome.REGRESSION,
            cause="ssim_below_limit",
            summary="ssim is 0.5 at frame 3, outside its limit of 0.9",
            findings=(Finding(stage="frames", code="ssim_limit", gating=True, message="ssim is outside"),),
            next_command="quantgate report runs/20260102-030405-abcd",
        ),
        fingerprint=Fingerprint(
            runner=RUNNER,
            device=Device(kind="cuda", name="NVIDIA B200", uuid="GPU-1"),
            python="3.11",
            packages={"torch": "2.13.0"},
            code="0123abcd",
        ),
        identity=IDENTITY,
        golden="ab" * 32,
        changes=(FieldChange(identity_class="subject", field="code", golden="4567ffff", run="0123abcd"),),
        inspection=InspectionReport(
            reference="./export",
            base="./base",
            outcome="fault",
            cause="nibble_order",
            summary="the first expert reads with its nibbles swapped",
            findings=(
                InspectionFinding(
                    code="nibble_order",
                    severity="fault",
                    message="the bytes pack the even column low",
                    expert="transformer",
                    next_command="quantgate inspect --case nvfp4",
                ),
            ),
            layers=(
                LayerEvidence(
                    expert="transformer",
                    block=0,
                    module="blocks.0.attn1.to_q",
                    format="nvfp4",
                    hypothesis="low_first/linear",
                    declared="high_first/linear",
                    cosine=0.6,
                    gain=0.7,
                    relative_error=0.8,
                    gap=0.5,
                    runner_up="high_first/linear",
                    state="contradicted",
                ),
            ),
            done=("nibble order of 24 tensors",),
            not_done=("activation scales: none are stored",),
            bytes_read=1234,
            seconds=0.4,
        ),
        engine=EngineStart(engine="e1", process=1, load_seconds=1.0, loads=1),
        generation=Generation(
            clip="clip.safetensors",
            clip_sha256="0" * 64,
            shape=(5, 8, 8, 3),
            float_stats=FloatStats(nan=0, inf=0, minimum=0.0, maximum=1.0),
            trace=Trace(steps=()),
            receipts=Receipts(modules=()),
            generate_seconds=7.5,
        ),
        sanity=SanityEvidence(
            checks=(
                SanityCheck(
                    name="nan",
                    value=0.0,
                    limit=0.0,
                    direction="lower_is_better",
                    unit="",
                    ok=True,
                    message="no value is NaN",
                ),
            )
        ),
        limits=(
            LimitCheck(metric="ssim", value=0.5, limit=0.9, direction="higher_is_better", gates=True, passed=False),
        ),
        log_tail=("loading the pipeline", "Traceback (most recent call last):"),
        artifacts={"log": "engine.log"},
    )


def limits(**changes: Any) -> LimitFile:
    """Sealed limits of the case."""
    sample = Sample(value=0.99, run="repeat-1", side="benign")
    entry = Limit(
        metric="ssim",
        direction="higher_is_better",
        gates=True,
        limit=0.9,
        samples=(sample,),
        method="repeats",
    )
    values: dict[str, Any] = {
        "case": CASE,
        "runner": RUNNER,
        "golden_digest": "0" * 64,
        "identity_digest": IDENTITY.digest(),
        "limits": (entry,),
        "repeats": 1,
        "author": "Ada",
        "reason": "measured",
        "created": "2026-01-01T00:00:00+00:00",
    }
    return LimitFile(**{**values, **changes})


def output(folder: Path, fill: int, made: CaseRecord) -> dict[str, Path]:
    """Write what a run leaves of a case, and return the file per part."""
    folder.mkdir(parents=True, exist_ok=True)
    clip, trace = folder / "clip.safetensors", folder / "trace.json"
    write_clip(clip, Clip(np.full((5, 8, 8, 3), fill, np.uint8)), codec="raw")
    Trace(steps=()).write(trace)
    return {"clip": clip, "trace": trace, "record": made.write(folder / "record.json")}


def runs_golden_missing() -> CaseRecord:
    """The record of a run that leaves a first candidate."""
    missing = Verdict(outcome=Outcome.GOLDEN_MISSING, cause="none", summary="there is no golden")
    return record().model_copy(update={"verdict": missing, "golden": None, "changes": (), "inspection": None})


def pending(
    workspace: Workspace, fill: int = 1, limit_file: LimitFile | None = None, golden: str | None = None
) -> Path:
    """Leave a candidate in a project, shown by a report, and return its folder."""
    made = runs_golden_missing().model_copy(update={"golden": golden})
    files = output(workspace.root / "runs" / f"r{fill}" / CASE, fill, made)
    folder = leave(workspace, made, files, limits=limit_file)
    seal = json.loads((folder / "candidate.json").read_text())["seal"]
    shown = workspace.state / "report" / SHOWN_FILE
    shown.parent.mkdir(parents=True, exist_ok=True)
    shown.write_text(json.dumps({seal: "cases/nvfp4.html"}))
    return folder


def plan(request: str = "r") -> Plan:
    """Return a plan of the case alone, in one shard; ``request`` is the digest of what the case asks for."""
    planned = PlannedCase(
        case=CASE, node=f"cases/a.yaml::{CASE}", engine="e", request=request, shard=1, seconds=1, load=1, measured=True
    )
    made = Plan(
        id="-", nonce="n", runner=RUNNER, labels=(RUNNER,), shards=1, makespan=1.0, lower_bound=1.0, cases=(planned,)
    )
    return made.model_copy(update={"id": made.digest()})


def baseline() -> PerfFile:
    """A sealed baseline of times of the case."""
    run = PerfRun(run="r1", started="2026-01-01T00:00:00+00:00", machine="m", fresh=True, steps=(1.0, 1.0))
    return PerfFile(
        case=CASE,
        runner=RUNNER,
        request={"sampling.seed": 0},
        pools=(PerfPool(label="p", machines=("m",), runs=(run,)),),
        covers="1 run",
        author="Ada",
        reason="measured",
        created="2026-01-01T00:00:00+00:00",
    )
