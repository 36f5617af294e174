"""The class of the verdict decides whether a case runs again, and every attempt keeps its record."""

from __future__ import annotations

from pathlib import Path

import pytest
from builders import planned_case

from harness.definitions.case import Located
from harness.errors import InfraError, NoRunnerError, QuantgateError
from harness.outcomes import Outcome
from harness.records.case_record import CaseRecord
from harness.records.identity import Device, Fingerprint
from harness.records.run_folder import RECORD_FILE
from harness.records.verdict import Verdict
from harness.session.attempts import ATTEMPTS, attempt_number, lost_record, next_attempt, put_aside


@pytest.fixture
def located() -> Located:
    """Any case."""
    return planned_case("a")


def lost(located: Located, attempt: int = 1, error: str | QuantgateError = "worker 'gw0' crashed") -> CaseRecord:
    """The record of a case without a session."""
    node = "cases/a.yaml::a"
    return lost_record(located, node, run="r", runner="b200", attempt=attempt, error=error, next_command="doctor")


@pytest.mark.parametrize("outcome", Outcome)
def test_infra_once_and_everything_else_never(outcome: Outcome, located: Located) -> None:
    device = Device(kind="cuda", name="NVIDIA B200", uuid="GPU-1")
    verdict = Verdict(outcome=outcome, cause="oom", summary="out of memory, hang, retry me")
    fingerprint = Fingerprint(runner="b200", device=device)
    record = lost(located).model_copy(update={"verdict": verdict, "fingerprint": fingerprint})
    retry = next_attempt(record)
    assert (retry is not None) == (outcome is Outcome.INFRA)
    if retry is not None:
        assert retry.attempt == 2
        assert retry.avoid == ("GPU-1",)
        assert next_attempt(record.model_copy(update={"attempt": ATTEMPTS})) is None


def test_a_control_that_expects_infra_is_not_run_again(located: Located) -> None:
    verdict = Verdict(outcome=Outcome.PASS, cause="none", summary="as expected", observed=Outcome.INFRA)
    assert next_attempt(lost(located).model_copy(update={"verdict": verdict})) is None


def test_a_dead_worker_leaves_infra_with_a_name_and_a_next_command(located: Located) -> None:
    record = lost(located)
    assert record.verdict.outcome is Outcome.INFRA
    assert record.verdict.cause == "worker_died"
    assert record.verdict.next_command == "doctor"
    assert record.source == "cases/a.yaml:1"
    retry = next_attempt(record)
    assert retry is not None
    assert retry.avoid == ()


@pytest.mark.parametrize(
    ("error", "outcome", "cause"),
    [
        (InfraError("in use", kind="device", remedy="wait"), Outcome.INFRA, "device"),
        (NoRunnerError("none here", remedy="wait"), Outcome.NO_RUNNER, "error"),
    ],
)
def test_an_error_of_ours_brings_its_own_class(
    located: Located, error: QuantgateError, outcome: Outcome, cause: str
) -> None:
    record = lost(located, error=error)
    assert (record.verdict.outcome, record.verdict.cause, record.verdict.next_command) == (outcome, cause, "wait")


def test_attempts_are_counted_on_disk(tmp_path: Path, located: Located) -> None:
    assert attempt_number(tmp_path / "absent") == 1
    lost(located).write(tmp_path / RECORD_FILE)
    assert attempt_number(tmp_path) == 1
    put_aside(tmp_path, 1)
    assert attempt_number(tmp_path) == 2
    assert not (tmp_path / RECORD_FILE).exists()
    assert CaseRecord.read(tmp_path / "record-attempt-1.json").attempt == 1
    put_aside(tmp_path, 2)
    assert attempt_number(tmp_path) == 2, "a full disk left no record to put aside"
