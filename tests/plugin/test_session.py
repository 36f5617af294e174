"""A session in this process: what it promises of its records and of the engine that stands."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from harness.definitions.case import Located
from harness.definitions.loading import load_cases
from harness.definitions.runner import load_runners
from harness.errors import InfraError
from harness.goldens.store import open_store
from harness.machine.devices import cpu_device
from harness.outcomes import Outcome
from harness.records.case_record import CaseRecord
from harness.session import conductor
from harness.session.conductor import Session
from harness.session.context import SessionContext

WEIGHTS = Path("model") / "transformer" / "diffusion_pytorch_model.safetensors"


@pytest.fixture
def one(project: Any) -> Located:
    project.cases("  one: {}\n")
    return load_cases([project.root / "cases" / "a.yaml"], project.root)[0]


@pytest.fixture
def session(project: Any) -> Iterator[Session]:
    context = SessionContext(
        root=project.root,
        run="r",
        runs_dir=project.root / "runs",
        runner=load_runners(project.root / "runners")["cpu"],
        device=cpu_device(),
        store=open_store(project.root / "goldens"),
        thresholds=project.root / "thresholds",
    )
    made = Session(context)
    yield made
    made.close()


def run(session: Session, located: Located, watch: Any = lambda _: None) -> CaseRecord:
    finished = session.run_case(located, "node", watch)
    assert CaseRecord.read(finished.folder / "record.json") == finished.record
    return finished.record


def replace_weights(root: Path) -> None:
    save_file({"blocks.0.attn1.to_q.weight": np.ones((16, 16), dtype=ml_dtypes.bfloat16)}, root / "new.safetensors")
    (root / "new.safetensors").replace(root / WEIGHTS)


def test_an_engine_is_never_judged_by_files_that_it_did_not_load(project: Any, session: Session, one: Located) -> None:
    first, again = run(session, one), run(session, one)
    assert first.engine is not None
    assert again.engine == first.engine
    replace_weights(project.root)
    second = run(session, one)
    assert (second.identity is None, first.identity is None, second.engine is None) == (False, False, False)
    assert second.identity.weights != first.identity.weights
    assert second.engine.process != first.engine.process


def test_files_that_change_between_inspection_and_load_are_infra(project: Any, session: Session, one: Located) -> None:
    def watch(event: Any) -> None:
        if getattr(event, "stage", "") == "load":
            replace_weights(project.root)

    record = run(session, one, watch)
    assert record.verdict.outcome is Outcome.INFRA
    assert "files of the checkpoint changed during the run" in record.verdict.summary


@pytest.mark.parametrize(
    ("error", "kind"), [(OSError(28, "No space left on device"), "disk"), (ValueError("odd\nlines"), "crash")]
)
@pytest.mark.parametrize("place", ["find_golden", "look_at_frames", "judge", "leave_candidate"])
def test_what_nobody_foresaw_is_infra_with_a_record_and_replaces_the_old_one(
    session: Session, one: Located, monkeypatch: pytest.MonkeyPatch, place: str, error: Exception, kind: str
) -> None:
    assert run(session, one).verdict.outcome is Outcome.GOLDEN_MISSING
    fails = iter([error])
    real = getattr(conductor, place)

    def broken(*arguments: Any, **named: Any) -> Any:
        for raised in fails:
            raise raised
        return real(*arguments, **named)

    monkeypatch.setattr(conductor, place, broken)
    record = run(session, one)
    assert (record.verdict.outcome, record.verdict.cause) == (Outcome.INFRA, kind)
    assert f"{type(error).__name__}: " in record.verdict.summary
    assert "\n" not in record.verdict.summary
    assert any("in broken" in line for line in record.log_tail)


def test_a_disk_that_takes_no_record_is_said_and_the_old_one_is_gone(
    session: Session, one: Located, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(session, one)

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(CaseRecord, "write", full)
    finished = session.run_case(one, "node", lambda _: None)
    assert (finished.record.verdict.outcome, finished.record.verdict.cause) == (Outcome.INFRA, "disk")
    assert not (finished.folder / "record.json").exists()


def test_a_disk_that_takes_no_record_is_told_beside_the_error_that_came_first(
    session: Session, one: Located, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crashed(*_: Any, **__: Any) -> None:
        raise InfraError("the program ended with exit status 1", place=one.case.id, kind="crash")

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(conductor, "find_golden", crashed)
    monkeypatch.setattr(CaseRecord, "write", full)
    verdict = session.run_case(one, "node", lambda _: None).record.verdict
    assert (verdict.outcome, verdict.cause) == (Outcome.INFRA, "crash")
    assert verdict.summary.startswith("the program ended with exit status 1. The whole record could not be written: ")
    assert "No space left on device" in verdict.summary


def test_a_candidate_that_cannot_be_kept_leaves_a_regression_one(
    session: Session, project: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.cases("  bad: {sampling: {prompt: static}}\n")
    bad = load_cases([project.root / "cases" / "a.yaml"], project.root)[0]

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(conductor, "leave_candidate", full)
    record = run(session, bad)
    assert record.verdict.outcome is Outcome.REGRESSION
    assert "No candidate could be kept of it: " in record.verdict.summary


def test_a_failed_search_for_the_cause_leaves_the_verdict(
    session: Session, project: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.cases("  bad: {sampling: {prompt: static}}\n")
    bad = load_cases([project.root / "cases" / "a.yaml"], project.root)[0]

    def broken(*_: Any) -> None:
        raise KeyError("lost")

    monkeypatch.setattr(conductor, "investigate", broken)
    record = run(session, bad)
    assert record.verdict.outcome is Outcome.REGRESSION
    assert "Its cause could not be looked for: " in record.verdict.summary
    assert any("in broken" in line for line in record.log_tail)


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_passes_and_no_older_record_speaks_for_the_run(
    session: Session, one: Located, error: type[BaseException]
) -> None:
    folder = session.context.case_folder("one")
    run(session, one)

    def watch(_: Any) -> None:
        raise error

    with pytest.raises(error):
        session.run_case(one, "node", watch)
    assert not (folder / "record.json").exists()
