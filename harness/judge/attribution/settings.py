"""Causes that the trace, the receipts, the identity and the inspection prove: facts, compared exactly."""

from __future__ import annotations

from collections.abc import Iterator

from harness.judge.origin_rule import MOVED
from harness.records.attribution import Cause
from harness.records.case_record import CaseRecord
from harness.records.verdict import Finding

FLOW_SHIFT = frozenset({"flow_shift", "shift"})
VAE_STATISTICS = frozenset({"latents_mean", "latents_std", "scaling_factor", "shift_factor"})
FOLLOWS: dict[str, frozenset[str]] = {
    "timestep": frozenset({"scheduler_settings", "step_count"}),
    "expert": frozenset({"scheduler_settings", "boundary_ratio", "timestep", "step_count"}),
    "attention_mask": frozenset({"text_tokens", "sequence_length"}),
    "text_tokens": frozenset({"sequence_length"}),
    "initial_latents": frozenset(),
    "guidance": frozenset({"texts_exchanged", "model_text", "not_finite"}),
    "text_embedding": frozenset({"texts_exchanged"}),
    "initial_noise": frozenset({"initial_latents"}),
    "sigmas": frozenset({"scheduler_settings", "step_count"}),
    "solver": frozenset({"scheduler_settings", "step_count", "sigmas", "timestep"}),
    "model_timestep": frozenset({"scheduler_settings", "step_count", "timestep"}),
    "vae_alone": frozenset({"vae_settings"}),
    "vae_input": frozenset({"vae_settings"}),
}
"""A difference that follows from others, and so is no cause where one of them is there too."""
IDENTITY = frozenset({"request_differs", "hardware_differs"})


def inspected(record: CaseRecord) -> Iterator[Cause]:
    """Faults that the bytes of the checkpoint prove."""
    for fault in record.inspection.faults if record.inspection is not None else ():
        where = "/".join(part for part in (fault.expert, fault.module) if part)
        yield Cause(code=fault.code, where=where, sentence=fault.message, evidence={"stage": "inspection"})


def identity(record: CaseRecord) -> Iterator[Cause]:
    """The golden was made from another request or on other hardware."""
    for finding in record.verdict.findings:
        if finding.code in IDENTITY:
            yield _cause(finding.code, finding)


def moved(record: CaseRecord) -> Iterator[Cause]:
    """Weights or environment are not those of the golden, and frames, trace or sanity fail."""
    for finding in record.verdict.findings:
        if finding.stage == "identity" and finding.code in MOVED and finding.gating:
            yield _cause(finding.code, finding, where=", ".join(sorted(finding.data)))


def receipts(record: CaseRecord) -> Iterator[Cause]:
    """The quantized path did not run, or ran where it should not."""
    for finding in record.verdict.findings:
        if finding.stage == "receipts" and finding.gating:
            yield _cause(finding.code, finding, where=str(finding.data.get("expert", "")))


def traced(record: CaseRecord) -> Iterator[Cause]:
    """Settings that differ from the golden's; what only follows from another setting is left out."""
    found = [finding for finding in record.verdict.findings if finding.stage == "trace" and finding.gating]
    codes = {finding.code for finding in found}
    for finding in found:
        if FOLLOWS.get(finding.code, frozenset()) & codes:
            continue
        if finding.code == "scheduler_settings":
            names = set(finding.data)
            yield _cause("flow_shift" if names & FLOW_SHIFT else "scheduler", finding, where=", ".join(sorted(names)))
        elif finding.code == "vae_settings":
            names = set(finding.data)
            if names & VAE_STATISTICS:
                yield _cause("vae_statistics", finding, where=", ".join(sorted(names & VAE_STATISTICS)))
            if "dtype" in names:
                yield _cause("vae_dtype", finding, where="dtype")
            if rest := names - VAE_STATISTICS - {"dtype"}:
                yield _cause("vae", finding, where=", ".join(sorted(rest)))
        else:
            step = finding.data.get("step")
            yield _cause(finding.code, finding, where="" if step is None else f"step {step}")


def _cause(code: str, finding: Finding, where: str = "") -> Cause:
    return Cause(code=code, where=where, sentence=finding.message, evidence=dict(finding.data))
