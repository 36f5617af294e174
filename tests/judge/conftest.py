"""Healthy evidence, from which every test takes one thing away."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import pytest

from harness.definitions.case import Case
from harness.definitions.causes import check_cause, names_nothing
from harness.frames.registry import metric_names
from harness.judge.evidence import Evidence, GoldenEvidence
from harness.records.frames import ComparisonEvidence, MetricResult, SanityCheck, SanityEvidence
from harness.records.generation import FloatStats, Generation, ModuleReceipt, Receipts, Step, Trace
from harness.records.limits import Limit, LimitFile, Sample
from harness.records.verdict import Finding

GOLDEN = "a" * 64
NEVER_EXPECTED = {"golden_missing", "hardware_differs", "invalid_case", "request_differs", "waiver_expired"}
"""Causes of outcomes for which no negative control may wait."""


@pytest.fixture(scope="session", autouse=True)
def only_known_causes() -> Iterator[None]:
    """A gating finding of a rule whose code no case could wait for fails the test in which it is made."""
    plain = Finding.__init__

    def checked(self: Finding, **fields: Any) -> None:
        plain(self, **fields)
        if self.gating and sys._getframe(1).f_globals["__name__"].startswith("harness.judge"):
            problem = check_cause(self.code, metric_names())
            known = problem is None or names_nothing(self.code) or self.code in NEVER_EXPECTED
            assert known, f"{problem}; add it to harness/definitions/causes.py"

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Finding, "__init__", checked)
        yield


def case(**more: Any) -> Case:
    fields: dict[str, Any] = {
        "id": "one",
        "runners": ("cpu",),
        "model": {"path": "./model"},
        "quantization": {"transformer": "nvfp4", "transformer_2": "nvfp4"},
        "sampling": {
            "prompt": "a red circle",
            "width": 96,
            "height": 64,
            "num_frames": 3,
            "num_inference_steps": 2,
            "guidance_scale": 3.0,
        },
    }
    return Case.model_validate({**fields, **more})


def trace() -> Trace:
    steps = (
        Step(index=0, timestep=999.0, expert="transformer", guidance_scale=3.0, latent_norm=10.0),
        Step(index=1, timestep=500.0, expert="transformer_2", guidance_scale=3.0, latent_norm=9.0),
    )
    return Trace(steps=steps, scheduler={"flow_shift": 3.0}, vae={"z_dim": 16}, initial_latents_sha256="b" * 64)


def receipts(fmt: str = "nvfp4") -> Receipts:
    return Receipts(
        modules=tuple(
            ModuleReceipt(expert=expert, module=name, format=fmt, kernel="dequantize+linear", calls=2)  # type: ignore[arg-type]
            for expert in ("transformer", "transformer_2")
            for name in ("blocks.1.attn1.to_q", "blocks.1.ffn.net.2")
        )
    )


def generation(**more: Any) -> Generation:
    fields: dict[str, Any] = {
        "clip": "clip.safetensors",
        "clip_sha256": "c" * 64,
        "shape": (3, 64, 96, 3),
        "float_stats": FloatStats(nan=0, inf=0, minimum=0.0, maximum=1.0),
        "trace": trace(),
        "receipts": receipts(),
    }
    return Generation(**{**fields, **more})


def metric(name: str = "ssim", worst: float | None = 0.99, **more: Any) -> MetricResult:
    fields: dict[str, Any] = {
        "name": name,
        "direction": "higher_is_better",
        "unit": "",
        "ideal": 1.0,
        "worst": worst,
        "worst_frame": 1,
        "mean": worst,
    }
    return MetricResult(**{**fields, **more})


def comparison(*metrics: MetricResult, bit_exact: bool = False) -> ComparisonEvidence:
    return ComparisonEvidence(
        bit_exact=bit_exact,
        golden_sha256="d" * 64,
        candidate_sha256="e" * 64,
        shape=(3, 64, 96, 3),
        device="cpu",
        metrics=metrics or (metric(),),
    )


def limits(limit: float = 0.98, **more: Any) -> LimitFile:
    one = Limit(
        metric="ssim",
        direction="higher_is_better",
        gates=True,
        limit=limit,
        samples=(Sample(value=0.99, run="repeat-1", side="benign"),),
        method="repeats",
    )
    fields: dict[str, Any] = {
        "case": "one",
        "runner": "cpu",
        "golden_digest": GOLDEN,
        "identity_digest": "f" * 64,
        "limits": (one,),
        "repeats": 1,
        "author": "somebody",
        "reason": "measured",
        "created": "2026-01-01T00:00:00+00:00",
    }
    return LimitFile(**{**fields, **more})


def sanity(ok: bool = True) -> SanityEvidence:
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


PROMISED = {
    "transformer": frozenset({"blocks.1.attn1.to_q", "blocks.1.ffn.net.2"}),
    "transformer_2": frozenset({"blocks.1.attn1.to_q", "blocks.1.ffn.net.2"}),
}


def healthy(**more: Any) -> Evidence:
    evidence = Evidence(
        case=case(),
        node="cases/x.yaml::one",
        run_dir="runs/1",
        golden=GoldenEvidence(GOLDEN, (), trace(), limits()),
        generation=generation(),
        promised=PROMISED,  # type: ignore[arg-type]
        sanity=sanity(),
        comparison=comparison(),
    )
    return evidence.plus(**more)


@pytest.fixture
def make() -> Any:
    """The builders of this file, since test modules cannot import each other."""
    import types

    names = ("case", "trace", "receipts", "generation", "metric", "comparison", "limits", "sanity", "healthy")
    return types.SimpleNamespace(**{name: globals()[name] for name in names}, GOLDEN=GOLDEN, PROMISED=PROMISED)
