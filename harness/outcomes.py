"""All outcomes of a case, with exit code, retry and JUnit result of each."""

from __future__ import annotations

from enum import StrEnum
from typing import Literal, NamedTuple


class Outcome(StrEnum):
    """How a case ended. Only ``pass`` and ``waived`` are green."""

    PASS = "pass"  # noqa: S105 - the word is the verdict
    WAIVED = "waived"
    REGRESSION = "regression"
    CHECKPOINT_FAULT = "checkpoint_fault"
    UNEXPECTED_PASS = "unexpected_pass"  # noqa: S105 - the word is the verdict
    INCONCLUSIVE = "inconclusive"
    GOLDEN_MISSING = "golden_missing"
    GOLDEN_STALE = "golden_stale"
    ENVIRONMENT_MISMATCH = "environment_mismatch"
    INVALID_CASE = "invalid_case"
    INFRA = "infra"
    NO_RUNNER = "no_runner"
    NOT_RUN = "not_run"


class OutcomeRule(NamedTuple):
    """Consequences of an outcome for the process, the lane and JUnit."""

    exit_code: int
    """Process exit code when this is the worst outcome of a run (1-5 belong to pytest)."""
    retry: bool
    """Whether the lane may run the case once more, on another engine."""
    junit: Literal["passed", "failure", "error", "skipped"]
    meaning: str


RULES: dict[Outcome, OutcomeRule] = {
    Outcome.PASS: OutcomeRule(0, False, "passed", "everything asked for was measured and lies inside its limits"),
    Outcome.WAIVED: OutcomeRule(0, False, "skipped", "it failed exactly as its unexpired waiver expects"),
    Outcome.REGRESSION: OutcomeRule(10, False, "failure", "a gating measurement lies outside its limit"),
    Outcome.CHECKPOINT_FAULT: OutcomeRule(
        11, False, "failure", "the bytes of the checkpoint are wrong, or wrong for the runtime that will read them"
    ),
    Outcome.UNEXPECTED_PASS: OutcomeRule(
        12, False, "failure", "a negative control or a waived case did not fail as it must"
    ),
    Outcome.INCONCLUSIVE: OutcomeRule(13, False, "failure", "the evidence supports neither a pass nor a fault"),
    Outcome.GOLDEN_MISSING: OutcomeRule(
        14, False, "failure", "there is no golden; everything that needs none ran, and the candidate was kept"
    ),
    Outcome.GOLDEN_STALE: OutcomeRule(
        15, False, "failure", "the golden was made from another request, or from other weights or environment"
    ),
    Outcome.ENVIRONMENT_MISMATCH: OutcomeRule(
        16, False, "failure", "the golden or the limits belong to another class of hardware"
    ),
    Outcome.INVALID_CASE: OutcomeRule(17, False, "error", "a case, runner or threshold file cannot be used as written"),
    Outcome.INFRA: OutcomeRule(
        18, True, "error", "out of memory, hang, crash, download, device lost: no statement about the checkpoint"
    ),
    Outcome.NO_RUNNER: OutcomeRule(19, False, "error", "no device of the asked runner is in this machine"),
    Outcome.NOT_RUN: OutcomeRule(20, False, "error", "the case was planned, and no result of it exists"),
}


GREEN = frozenset({Outcome.PASS, Outcome.WAIVED})


SEVERITY: tuple[Outcome, ...] = (
    Outcome.CHECKPOINT_FAULT,
    Outcome.REGRESSION,
    Outcome.UNEXPECTED_PASS,
    Outcome.INVALID_CASE,
    Outcome.INCONCLUSIVE,
    Outcome.ENVIRONMENT_MISMATCH,
    Outcome.GOLDEN_STALE,
    Outcome.GOLDEN_MISSING,
    Outcome.INFRA,
    Outcome.NO_RUNNER,
    Outcome.NOT_RUN,
    Outcome.WAIVED,
    Outcome.PASS,
)
"""Worst first: the exit code of a run is that of its worst case."""
