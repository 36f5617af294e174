"""Build a case, the evidence of a healthy run and its records. Each builder takes the fields that a test changes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from harness.definitions.case import Case, Located
from harness.judge.evidence import Evidence, GoldenEvidence
from harness.outcomes import Outcome
from harness.records.case_record import CaseRecord
from harness.records.frames import ComparisonEvidence, MetricResult, SanityCheck, SanityEvidence
from harness.records.generation import Expert, FloatStats, Generation, ModuleReceipt, Receipts, Step, Trace
from harness.records.limits import Limit, LimitCheck, LimitFile, Sample
from harness.records.verdict import Verdict

GOLDEN = "a" * 64
"""Digest of the golden of ``make_evidence`` and ``make_limits``."""
EXPERTS: tuple[Expert, Expert] = ("transformer", "transformer_2")
NVFP4 = dict.fromkeys(EXPERTS, "nvfp4")
MODULES = frozenset({"blocks.1.attn1.to_q", "blocks.1.ffn.net.2"})
PROMISED: dict[Expert, frozenset[str]] = dict.fromkeys(EXPERTS, MODULES)
"""The quantized Linears of ``make_receipts``, per expert."""


def make_case(*, sampling: dict[str, Any] | None = None, **fields: Any) -> Case:
    """Return a case of one runner, ``cpu``, with 3 frames of 96x64 in 2 steps.

    Args:
        sampling: fields of ``sampling`` that replace or extend the usual fields.
        fields: further fields of the case, as in a YAML file.

    Raises:
        pydantic.ValidationError: a field is invalid.
    """
    usual = {
        "prompt": "a red circle",
        "width": 96,
        "height": 64,
        "num_frames": 3,
        "num_inference_steps": 2,
        "guidance_scale": 3.0,
    }
    data: dict[str, Any] = {"id": "one", "runners": ("cpu",), "model": {"path": "./model"}}
    return Case.model_validate({**data, **fields, "sampling": {**usual, **(sampling or {})}})


def quantized_case(**fields: Any) -> Case:
    """Return ``make_case`` with NVFP4 weights in both experts."""
    return make_case(**{"quantization": NVFP4, **fields})


def make_evidence(**fields: Any) -> Evidence:
    """Return the evidence of a healthy run of an NVFP4 case, which the judge passes; ``fields`` replace its fields."""
    usual: dict[str, Any] = {
        "case": quantized_case(),
        "node": "cases/x.yaml::one",
        "run_dir": "runs/1",
        "golden": GoldenEvidence(GOLDEN, (), make_trace(), make_limits()),
        "generation": make_generation(),
        "promised": PROMISED,
        "sanity": make_sanity(),
        "comparison": make_comparison(),
    }
    return Evidence(**{**usual, **fields})


def planned_case(name: str, model: str = "m1", runner: str = "b200", **fields: Any) -> Located:
    """Return a resolved case of line 1 of ``cases/a.yaml``; cases of one ``model`` share an engine."""
    case = make_case(**{"id": name, "runners": [runner], "model": {"path": f"./{model}"}, **fields})
    return Located(case=case.resolved(), path=Path("cases/a.yaml"), line=1)


def bare_evidence(case: Case, **fields: Any) -> Evidence:
    """Return the evidence of ``case`` with nothing measured but ``fields``."""
    return Evidence(case=case, node="node", run_dir="runs/1", **fields)


def make_record(**fields: Any) -> CaseRecord:
    """Return the record of a red run that has nothing but its generation; ``fields`` replace its fields."""
    usual: dict[str, Any] = {
        "run": "r",
        "case": "one",
        "node": "n",
        "source": "s:1",
        "runner": "cpu",
        "started": "2026-01-01T00:00:00+00:00",
        "request": {},
        "verdict": Verdict(outcome=Outcome.REGRESSION, cause="x", summary="red"),
        "golden": GOLDEN,
        "generation": make_generation(),
    }
    return CaseRecord(**{**usual, **fields})


def make_trace() -> Trace:
    """Return a trace of two steps, the first by the first expert and the second by the second."""
    steps = (
        Step(index=0, timestep=999.0, expert="transformer", guidance_scale=3.0, latent_norm=10.0),
        Step(index=1, timestep=500.0, expert="transformer_2", guidance_scale=3.0, latent_norm=9.0),
    )
    return Trace(steps=steps, scheduler={"flow_shift": 3.0}, vae={"z_dim": 16}, initial_latents_sha256="b" * 64)


def make_receipts(number_format: str = "nvfp4") -> Receipts:
    """Return receipts that every module of ``PROMISED`` ran in ``number_format``."""
    return Receipts(
        modules=tuple(
            ModuleReceipt(expert=expert, module=name, format=number_format, kernel="dequantize+linear", calls=2)
            for expert in EXPERTS
            for name in sorted(MODULES)
        )
    )


def make_generation(**fields: Any) -> Generation:
    """Return a generation of 3 frames of 96x64 with trace and receipts; ``fields`` replace its fields."""
    usual: dict[str, Any] = {
        "clip": "clip.safetensors",
        "clip_sha256": "c" * 64,
        "shape": (3, 64, 96, 3),
        "float_stats": FloatStats(nan=0, inf=0, minimum=0.0, maximum=1.0),
        "trace": make_trace(),
        "receipts": make_receipts(),
    }
    return Generation(**{**usual, **fields})


def bare_generation(**fields: Any) -> Generation:
    """Return the generation of a runtime that returns a clip, and neither steps nor receipts."""
    return make_generation(**{"trace": Trace(steps=()), "receipts": Receipts(modules=()), **fields})


def make_metric(name: str = "ssim", worst: float | None = 0.99, **fields: Any) -> MetricResult:
    """Return a measured metric of which 1 is the best value; ``worst`` None was not computed."""
    usual: dict[str, Any] = {
        "name": name,
        "direction": "higher_is_better",
        "unit": "",
        "ideal": 1.0,
        "worst": worst,
        "worst_frame": 1,
        "mean": worst,
    }
    return MetricResult(**{**usual, **fields})


def make_comparison(*metrics: MetricResult, bit_exact: bool = False) -> ComparisonEvidence:
    """Return a comparison with the golden; without ``metrics`` an SSIM of .99."""
    return ComparisonEvidence(
        bit_exact=bit_exact,
        golden_sha256="d" * 64,
        candidate_sha256="e" * 64,
        shape=(3, 64, 96, 3),
        device="cpu",
        metrics=metrics or (make_metric(),),
    )


def make_limit(limit: float | None = 0.98, metric: str = "ssim", **fields: Any) -> Limit:
    """Return a limit that one healthy run supports; ``None`` is a metric that does not gate."""
    usual: dict[str, Any] = {
        "metric": metric,
        "direction": "higher_is_better",
        "gates": limit is not None,
        "limit": limit,
        "samples": (Sample(value=0.99, run="repeat-1", side="benign"),),
        "method": "repeats",
        "why": "" if limit is not None else "overlap",
    }
    return Limit(**{**usual, **fields})


def make_limits(limit: float | None = 0.98, **fields: Any) -> LimitFile:
    """Return limits of the case ``one`` on ``cpu``: of SSIM, unless ``fields`` name others."""
    usual: dict[str, Any] = {
        "case": "one",
        "runner": "cpu",
        "golden_digest": GOLDEN,
        "identity_digest": "f" * 64,
        "limits": (make_limit(limit),),
        "repeats": 1,
        "author": "ann",
        "reason": "measured",
        "created": "2026-01-01T00:00:00+00:00",
    }
    return LimitFile(**{**usual, **fields})


def make_sanity(ok: bool = True) -> SanityEvidence:
    """Return a check of noise, passed or failed."""
    check = SanityCheck(
        name="noise",
        value=0.7 if ok else 0.1,
        limit=0.3,
        direction="higher_is_better",
        unit="",
        ok=ok,
        frame=1,
        message="correlation of neighbouring blocks",
    )
    return SanityEvidence(checks=(check,))


PASSED = LimitCheck(metric="ssim", value=1.0, limit=0.9, direction="higher_is_better", gates=True, passed=True)


def evidence_of_a_pass() -> dict[str, Any]:
    """Return the fields of a record, but for its generation, without which a pass does not count."""
    comparison = make_comparison(make_metric(worst=1.0), bit_exact=True)
    return {"golden": "d" * 64, "comparison": comparison, "limits": (PASSED,)}
