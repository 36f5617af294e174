"""No runner, no green."""

from __future__ import annotations

from typing import Any

import pytest

from harness.outcomes import RULES, Outcome

NO_RUNNER = RULES[Outcome.NO_RUNNER].exit_code
BODY = "  small: {}\n  large: {runners: [b200]}\n"


def no_gpu() -> bool:
    from harness.machine.devices import gpu_devices

    return not any(device.name == "NVIDIA B200" for device in gpu_devices())


@pytest.fixture(autouse=True)
def _needs_no_b200() -> None:
    if not no_gpu():
        pytest.skip("this machine has a B200")


@pytest.mark.parametrize("workers", [[], ["-n", "2"]], ids=["alone", "xdist"])
def test_the_lane_without_its_device_is_not_green(project: Any, junit: Any, workers: list[str]) -> None:
    """Every case has its verdict, where a person and where a machine looks; no engine is started."""
    project.cases(BODY + "  larger: {runners: [b200], sampling: {seed: 1}}\n")
    done = project.pytest("-m", "b200", "--run-id", "r", "--junitxml", "x.xml", *workers)
    assert done.returncode == NO_RUNNER, done.stdout
    assert "runner b200 is NVIDIA B200, and this machine has" in done.stdout
    assert "2 cases on runner b200: 2 no_runner" in done.stdout
    assert junit(project.root / "x.xml") == {"large": "error", "larger": "error"}
    records = project.records("r")
    assert {name: record.verdict.outcome for name, record in records.items()} == dict.fromkeys(
        ("large", "larger"), Outcome.NO_RUNNER
    )
    assert all(record.engine is None and record.attempt == 1 for record in records.values())
    assert not (project.root / "runs" / "r" / "engines").exists()
    assert (project.root / "runs" / "r" / "report" / "index.html").exists()


def test_it_may_be_skipped_by_hand(project: Any) -> None:
    project.cases(BODY)
    done = project.pytest("-m", "b200", "--allow-missing-runner", "-rs")
    assert (done.returncode, "1 skipped" in done.stdout) == (0, True), done.stdout


def test_and_never_in_ci(project: Any) -> None:
    project.cases(BODY)
    done = project.pytest("-m", "b200", "--allow-missing-runner", "--run-id", "r", CI="true")
    assert done.returncode == NO_RUNNER
    assert project.records("r")["large"].verdict.outcome is Outcome.NO_RUNNER
    assert "is refused in CI" in done.stdout + done.stderr


def test_cases_of_other_runners_are_named(project: Any) -> None:
    project.cases(BODY)
    done = project.pytest("--runner", "cpu")
    assert "1 deselected" in done.stdout
    assert "cases for other runners were deselected: b200" in done.stdout


def test_nothing_left_to_run_is_no_runner(project: Any) -> None:
    project.cases("  large: {runners: [b200]}\n")
    assert project.pytest("--runner", "cpu").returncode == NO_RUNNER


def test_an_unknown_runner_is_named(project: Any) -> None:
    project.cases(BODY)
    done = project.pytest("--runner", "b2000")
    assert done.returncode == 4
    assert "b2000: no such profile; there are b200, cpu, h200" in done.stderr + done.stdout


def test_collection_needs_no_device(project: Any) -> None:
    project.cases(BODY)
    done = project.pytest("-m", "b200", "--collect-only", "-q")
    assert (done.returncode, "cases/a.yaml::large" in done.stdout) == (0, True), done.stdout
