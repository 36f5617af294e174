"""One process an engine, whatever happens in it."""

from __future__ import annotations

from typing import Any

from harness.outcomes import Outcome


def test_cases_of_one_engine_load_the_model_once(project: Any) -> None:
    project.cases(
        "  one: {}\n  other: {env: {QUANTGATE_X: '1'}}\n  two: {sampling: {seed: 1}}\n  three: {sampling: {seed: 2}}\n"
    )
    project.pytest("--run-id", "r")
    records = project.records("r")
    engines = {name: record.engine for name, record in records.items()}
    assert all(engine is not None and engine.loads == 1 for engine in engines.values())
    shared = {engines[name].process for name in ("one", "two", "three")}
    assert len(shared) == 1
    assert engines["other"].process not in shared


def test_after_a_crash_the_next_case_gets_a_fresh_engine(project: Any) -> None:
    project.cases("  one: {}\n  boom: {sampling: {prompt: crash}}\n  three: {sampling: {seed: 2}}\n")
    project.pytest("--run-id", "r")
    records = project.records("r")
    assert [records[name].verdict.outcome for name in ("one", "boom", "three")] == [
        Outcome.GOLDEN_MISSING,
        Outcome.INFRA,
        Outcome.GOLDEN_MISSING,
    ]
    assert records["three"].engine is not None
    assert records["one"].engine is not None
    assert records["three"].engine.process != records["one"].engine.process


def test_xdist_keeps_an_engine_on_one_worker_and_brings_the_records_home(project: Any, junit: Any) -> None:
    body = "".join(
        f"  e{engine}s{seed}: {{env: {{QUANTGATE_X: '{engine}'}}, sampling: {{seed: {seed}}}}}\n"
        for seed in range(3)
        for engine in range(3)
    )
    project.cases(body)
    done = project.pytest("-n", "2", "--run-id", "r", "--junitxml", "junit.xml")
    records = project.records("r")
    assert len(records) == 9, done.stdout
    for engine in range(3):
        assert len({records[f"e{engine}s{seed}"].engine.process for seed in range(3)}) == 1
    assert "9 cases on runner cpu: 9 golden_missing" in done.stdout
    assert set(junit(project.root / "junit.xml")) == set(records)
    assert done.returncode == 14
