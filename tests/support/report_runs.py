"""Runs made up from the real record classes and from clips that are drawn, for tests of the report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from builders import make_record

from harness.frames.clip import Clip, write_clip
from harness.outcomes import Outcome
from harness.records.case_record import CaseRecord, Timing
from harness.records.frames import ComparisonEvidence, MetricResult, SanityCheck, SanityEvidence, Tile
from harness.records.generation import EngineStart, FloatStats, Generation, ModuleReceipt, Receipts, Step, Trace
from harness.records.identity import Device, FieldChange, Fingerprint
from harness.records.inspection import (
    ContractAssumption,
    ContractReport,
    InspectionFinding,
    InspectionReport,
    LayerEvidence,
)
from harness.records.limits import LimitCheck
from harness.records.probe import ModuleEvidence, PointEvidence, ProbeEvidence, ProbeStep
from harness.records.verdict import Finding, Verdict

Bytes = npt.NDArray[np.uint8]
TILE = 16
HOSTILE = (
    "</script><script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"
    "\"'><svg onload=alert(1)> {{7*7}} @octocat #1 [x](javascript:alert(1)) **b** `code` | \u202egnp.exe \x1b[31mred"
)


def drawn_clip(frames: int = 9, height: int = 64, width: int = 96, hue: int = 0) -> Bytes:
    """A disc that moves over a gradient, uint8 [T, H, W, 3]."""
    y, x = np.mgrid[0:height, 0:width]
    out = np.empty((frames, height, width, 3), dtype=np.uint8)
    for index in range(frames):
        ground = np.stack([x * 200 // width, y * 200 // height, np.full_like(x, 90 + hue)], axis=-1)
        centre = (width * (index + 1) / (frames + 1), height / 2)
        disc = (x - centre[0]) ** 2 + (y - centre[1]) ** 2 < (height / 5) ** 2
        ground[disc] = (240, 220 - hue, 40 + hue)
        out[index] = ground.astype(np.uint8)
    return out


def broken_clip(golden: Bytes, from_frame: int = 3, seed: int = 0) -> Bytes:
    """The clip with green noise that grows from ``from_frame`` on, worst at the lower right."""
    rng = np.random.default_rng(seed)
    out = golden.astype(np.int16)
    _, height, width, _ = golden.shape
    for index in range(from_frame, len(golden)):
        strength = 30 + 20 * (index - from_frame)
        part = (slice(height // 2, None), slice(width // 2, None))
        out[index][part] += rng.integers(-strength, strength, size=out[index][part].shape, dtype=np.int16)
        out[index][part][..., 1] += strength
    return np.clip(out, 0, 255).astype(np.uint8)


def measured(golden: Bytes, candidate: Bytes) -> tuple[MetricResult, ...]:
    """Mean absolute difference and its worst tile, and PSNR capped at 100, by numpy."""
    gap = np.abs(golden.astype(np.float64) - candidate.astype(np.float64))
    mad = gap.mean(axis=(1, 2, 3)) / 255
    mse = (gap**2).mean(axis=(1, 2, 3))
    psnr = np.minimum(100.0, 10 * np.log10(255**2 / np.maximum(mse, 1e-12)))
    count, height, width, _ = golden.shape
    tiles = gap[:, : height // TILE * TILE, : width // TILE * TILE].mean(axis=3)
    tiles = tiles.reshape(count, height // TILE, TILE, width // TILE, TILE).mean(axis=(2, 4))
    _, row, column = np.unravel_index(int(tiles.argmax()), tiles.shape)
    tile = Tile(x=int(column) * TILE, y=int(row) * TILE, width=TILE, height=TILE)
    by_tile = tiles.reshape(count, -1).max(axis=1) / 255

    def result(name: str, values: Any, better: Any, ideal: float, unit: str, **more: Any) -> MetricResult:
        worst = int(values.argmin() if better == "higher_is_better" else values.argmax())
        return MetricResult(
            name=name,
            direction=better,
            unit=unit,
            ideal=ideal,
            worst=float(values[worst]),
            worst_frame=worst,
            mean=float(values.mean()),
            per_frame=tuple(float(value) for value in values),
            **more,
        )

    return (
        result("mad", mad, "lower_is_better", 0.0, "of full range"),
        result("psnr", psnr, "higher_is_better", 100.0, "dB"),
        result("tile_mad", by_tile, "lower_is_better", 0.0, "of full range", worst_tile=tile),
    )


LIMITS = {
    "mad": ("lower_is_better", 0.01, 0.0),
    "psnr": ("higher_is_better", 35.0, 100.0),
    "tile_mad": ("lower_is_better", 0.05, 0.0),
}


def checks(metrics: tuple[MetricResult, ...]) -> tuple[LimitCheck, ...]:
    """The metrics against ``LIMITS``."""
    rows = []
    for metric in metrics:
        direction, limit, ideal = LIMITS[metric.name]
        value = metric.worst if metric.worst is not None else 0.0
        rows.append(
            LimitCheck(
                metric=metric.name,
                value=value,
                limit=limit,
                direction=direction,  # type: ignore[arg-type]
                gates=True,
                passed=value >= limit if direction == "higher_is_better" else value <= limit,
                frame=metric.worst_frame,
                margin_consumed=abs(value - ideal) / abs(limit - ideal),
            )
        )
    return tuple(rows)


def trace(noise: float = 0.0, steps: int = 8, boundary: int = 3) -> Trace:
    """A trace whose latents leave the undisturbed one by ``noise``, growing from step 2 on."""
    rng = np.random.default_rng(7)
    other = np.random.default_rng(8)
    rows = []
    for index in range(steps):
        sketch = rng.normal(size=16)
        moved = sketch + other.normal(size=16) * noise * max(0, index - 1) ** 2
        rows.append(
            Step(
                index=index,
                timestep=1000.0 * (1 - index / steps),
                expert="transformer" if index < boundary else "transformer_2",
                guidance_scale=3.0,
                latent_norm=float(np.linalg.norm(moved)),
                latent_sketch=tuple(float(value) for value in moved),
            )
        )
    return Trace(steps=tuple(rows), boundary_ratio=0.875)


def generation(clip: Clip, noise: float = 0.0) -> Generation:
    """What an engine would have said of ``clip``."""
    modules = tuple(
        ModuleReceipt(
            expert=expert, module=f"blocks.{block}.{name}", format="nvfp4", kernel="dequantize+linear", calls=16
        )
        for expert in ("transformer", "transformer_2")
        for block in range(4)
        for name in ("attn1.to_q", "attn1.to_k", "ffn.net.2")
    )
    return Generation(
        clip="clip.safetensors",
        clip_sha256=clip.digest,
        shape=clip.shape,
        float_stats=FloatStats(nan=0, inf=0, minimum=0.0, maximum=1.0),
        trace=trace(noise),
        receipts=Receipts(modules=modules),
        peak_memory_bytes=3 << 30,
        generate_seconds=7.5,
    )


def inspection(fault: bool) -> InspectionReport:
    """An inspector's report; with a fault the first expert reads right only with its nibbles swapped."""
    layers = tuple(
        LayerEvidence(
            expert=expert,
            block=block,
            module=f"blocks.{block}.{name}",
            format="nvfp4",
            hypothesis="low_first/linear",
            declared="high_first/linear" if (bad := fault and expert == "transformer") else "low_first/linear",
            cosine=0.62 + 0.01 * block if bad else 0.9951,
            gain=0.7 if bad else 1.001,
            relative_error=0.8 if bad else 0.1,
            gap=0.5 if bad else 0.9,
            runner_up="high_first/linear",
            state="contradicted" if bad else "proven",
        )
        for expert in ("transformer", "transformer_2")
        for block in range(4)
        for name in ("attn1.to_q", "attn1.to_k", "ffn.net.2")
    )
    finding = InspectionFinding(
        code="nibble_order",
        severity="fault",
        message="the bytes pack the even column low, and sglang==0.5.12 reads it high",
        expert="transformer",
        contract="sglang==0.5.12",
        next_command="quantgate inspect --case incident",
    )
    return InspectionReport(
        reference="./tiny/exports/nvfp4",
        base="./tiny/weights",
        outcome="fault" if fault else "clean",
        cause="nibble_order" if fault else "none",
        summary=finding.message if fault else "the bytes and what is declared agree",
        findings=(finding,) if fault else (),
        layers=layers,
        contracts=(
            ContractReport(
                contract="sglang==0.5.12",
                expert="transformer",
                assumptions=(ContractAssumption(field="nibble_order", value="high_first", rule="default"),),
                agrees=not fault,
            ),
        ),
        done=("nibble order of 24 tensors",),
        not_done=("activation scales: none are stored",),
        bytes_read=123456,
        seconds=0.4,
    )


def probe(break_at: int | None = None) -> ProbeEvidence:
    """One probe an expert, eight points in four blocks; from point ``break_at`` on the first expert is 30 % off."""
    steps = tuple(
        ProbeStep(
            expert=expert,
            step=step,
            timestep=900.0 - 400 * step,
            base_error=0.08,
            base_cosine=0.997,
            golden_error=0.3 if (bad := expert == "transformer" and break_at is not None) else 1e-4,
            golden_cosine=0.95 if bad else 1.0,
            points=tuple(
                PointEvidence(
                    name=f"blocks.{place // 2}.{('attn1', 'ffn')[place % 2]}",
                    kind="other",
                    base_error=0.05,
                    golden_error=0.3 if bad and break_at is not None and place >= break_at else 1e-4,
                )
                for place in range(8)
            ),
        )
        for step, expert in enumerate(("transformer", "transformer_2"))
    )
    modules = tuple(
        ModuleEvidence(
            expert="transformer", module=f"blocks.{block}.ffn.net.2", format="nvfp4", base_error=0.08,
            golden_error=0.3 if block == 2 and break_at is not None else 0.0, golden_gain=1.0,
        )
        for block in range(4)
    )  # fmt: skip
    return ProbeEvidence(steps=steps, modules=modules, golden_anchor=True)


def record(case: str, outcome: Outcome = Outcome.PASS, /, **changes: Any) -> CaseRecord:
    """A record without pictures."""
    data: dict[str, Any] = {
        "run": "20260102-030405-abcd",
        "case": case,
        "node": f"cases/tiny.yaml::{case}",
        "source": "cases/tiny.yaml:27",
        "runner": "cpu",
        "started": "2026-01-02T03:04:05+00:00",
        "request": {"id": case, "sampling": {"prompt": "a red circle", "seed": 0}, "env": {}},
        "verdict": Verdict(
            outcome=outcome,
            cause="none" if outcome is Outcome.PASS else "some_cause",
            summary="bit-exact: every frame equals the golden's"
            if outcome is Outcome.PASS
            else f"it ended as {outcome.value}",
            next_command="" if outcome is Outcome.PASS else f"quantgate inspect --case {case}",
        ),
        "timing": Timing(total=3.5, generate=2.5, load=1.0),
    }
    return make_record(**{"golden": None, "generation": None} | data | changes)


def measured_record(case: str, golden: Bytes, candidate: Bytes, /, **changes: Any) -> CaseRecord:
    """A record with everything in it, judged by ``LIMITS``."""
    metrics = measured(golden, candidate)
    limits = checks(metrics)
    failed = [check for check in limits if not check.passed]
    same = np.array_equal(golden, candidate)
    outcome = Outcome.REGRESSION if failed else Outcome.PASS
    cause = f"{failed[0].metric}_above_limit" if failed else "none"
    first = failed[0] if failed else None
    summary = (
        f"{first.metric} is {first.value:.4g} at frame {first.frame}, outside its limit of {first.limit:.4g}"
        if first
        else "3 gating metrics inside their limits"
    )
    data: dict[str, Any] = {
        "verdict": Verdict(
            outcome=outcome,
            cause=cause,
            summary=summary,
            findings=tuple(
                Finding(stage="frames", code=f"{check.metric}_limit", gating=True, message=f"{check.metric} is outside")
                for check in failed
            ),
            next_command=f"pytest cases/tiny.yaml::{case} --runner cpu" if failed else "",
        ),
        "fingerprint": Fingerprint(
            runner="cpu",
            device=Device(kind="cpu", name="x86_64", model="Some CPU"),
            cpu_capability="AVX2",
            python="3.11",
            packages={"torch": "2.13.0", "diffusers": "0.42.1", "quantgate": "0.1.0"},
            code="0123abcd",
        ),
        "golden": "ab" * 32,
        "changes": (FieldChange(identity_class="subject", field="code", golden="4567ffff", run="0123abcd"),)
        if failed
        else (),
        "inspection": inspection(fault=False),
        "engine": EngineStart(
            engine="e1",
            process=1,
            load_seconds=1.0,
            loads=1,
            quantized_modules={"transformer": {f"blocks.{i}.attn1.to_q": "nvfp4" for i in range(4)}},
        ),
        "generation": generation(Clip(candidate), noise=0.05 if failed else 0.0),
        "probe": probe(5 if failed else None),
        "sanity": SanityEvidence(
            checks=(
                SanityCheck(
                    name="noise",
                    value=0.1,
                    limit=0.5,
                    direction="lower_is_better",
                    unit="",
                    ok=True,
                    message="no noise",
                ),
            )
        ),
        "comparison": ComparisonEvidence(
            bit_exact=same,
            golden_sha256=Clip(golden).digest,
            candidate_sha256=Clip(candidate).digest,
            shape=Clip(golden).shape,
            device="cpu",
            metrics=metrics,
        ),
        "limits": limits,
        "artifacts": {"golden": "golden.safetensors", "candidate": "clip.safetensors"},
        "log_tail": ("loading", "done"),
    }
    return record(case, **(data | changes))


def write_case(run: Path, found: CaseRecord, golden: Bytes | None = None, candidate: Bytes | None = None) -> Path:
    """Write a record and its clips as the session does."""
    folder = run / found.case
    found.write(folder / "record.json")
    if golden is not None:
        write_clip(folder / "golden.safetensors", Clip(golden))
        trace().write(folder / "golden-trace.json")
    if candidate is not None:
        write_clip(folder / "clip.safetensors", Clip(candidate))
    return folder


def sample_run(run: Path) -> Path:
    """Seven cases: regression, checkpoint fault, negative control, exact, near, golden missing, infra."""
    golden = drawn_clip()
    broken = broken_clip(golden)
    near = golden.copy()
    near[4, 10:14, 10:14] ^= 8
    write_case(run, measured_record("broken", golden, broken), golden, broken)
    fault = record(
        "fault",
        Outcome.CHECKPOINT_FAULT,
        inspection=inspection(fault=True),
        verdict=Verdict(
            outcome=Outcome.CHECKPOINT_FAULT,
            cause="nibble_order",
            summary="the bytes pack the even column low, and sglang==0.5.12 reads it high",
            next_command="quantgate inspect --case fault",
        ),
    )
    write_case(run, fault)
    control = measured_record("control", golden, broken)
    verdict = control.verdict.model_copy(
        update={
            "outcome": Outcome.PASS,
            "observed": Outcome.REGRESSION,
            "summary": "negative control failed as it must",
        }
    )
    write_case(run, control.model_copy(update={"verdict": verdict}), golden, broken)
    write_case(run, measured_record("exact", golden, golden), golden, golden)
    write_case(run, measured_record("near", golden, near), golden, near)
    new = record(
        "new", Outcome.GOLDEN_MISSING, artifacts={"candidate": "clip.safetensors"}, generation=generation(Clip(broken))
    )
    write_case(run, new, candidate=broken)
    write_case(run, record("crashed", Outcome.INFRA, log_tail=("Traceback", "RuntimeError: out of memory")))
    return run
