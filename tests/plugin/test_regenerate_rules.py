"""The rules of regeneration through the command: refusals, results from elsewhere, controls, and the check."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from harness.outcomes import RULES, Outcome
from harness.records.limits import LimitFile

INVALID, MISSING = RULES[Outcome.INVALID_CASE].exit_code, RULES[Outcome.GOLDEN_MISSING].exit_code


def limits(project: Any, case: str = "one") -> LimitFile:
    return LimitFile.read(project.root / "thresholds" / "cpu" / f"{case}.json")


def regenerate(project: Any, *more: str, **env: str) -> Any:
    return project.quantgate("regenerate", "--runner", "cpu", "--author", "ann", *more, **env)


AGAIN = ("--run-id", "again")
"""The healthy runs that ``measured`` has are read."""


@pytest.fixture
def quick() -> tuple[str, ...]:
    """Without disturbed runs and controls, which most tests here are not about."""
    return ("--controls", "none", "--repeats", "0")


def test_ci_and_a_wrong_runner_are_refused(project: Any) -> None:
    project.cases("  one: {}\n")
    refused = regenerate(project, CI="true")
    assert (refused.returncode, "--in-ci" in refused.stderr) == (INVALID, True), refused.stderr
    wrong = project.quantgate("regenerate", "--runner", "b200")
    assert wrong.returncode == RULES[Outcome.NO_RUNNER].exit_code, wrong.stderr
    odd = regenerate(project, "--controls", "some")
    assert (odd.returncode, "none of all, frames, none" in odd.stderr) == (INVALID, True)


def test_controls_are_injected_and_a_backend_that_cannot_be_disturbed_says_so(measured: Any) -> None:
    done = regenerate(measured, "--controls", "frames", "--repeats", "3", *AGAIN)
    assert done.returncode == 0, done.stderr
    assert "one: no disturbed runs" in done.stdout
    file = limits(measured)
    found = {control.fault: control for control in file.controls}
    assert found["less_contrast"].strength_95 is not None
    assert set(found["one_bad_frame"].detected) == {"0.1", "0.25", "0.5", "1"}
    assert "flicker" in found["flicker"].metrics
    assert any("distinct healthy runs are known" in note for note in file.notes)
    assert all(sample.drawn == sample.run.startswith("rounding") for limit in file.limits for sample in limit.samples
               if sample.side == "benign")  # fmt: skip
    assert "found by frames in 50 % of runs from strength" in done.stdout


def test_loosening_names_what_becomes_undetectable(measured: Any) -> None:
    assert regenerate(measured, "--controls", "frames", "--repeats", "0", *AGAIN).returncode == 0
    before = limits(measured)
    tight = [
        limit.model_copy(update={"limit": limit.limit * 0.01 if limit.metric == "mad" and limit.limit else limit.limit})
        for limit in before.limits
    ]
    before.model_copy(update={"limits": tuple(tight)}).write(measured.root / "thresholds" / "cpu" / "one.json")
    refused = regenerate(measured, "--controls", "frames", "--repeats", "0", *AGAIN)
    assert refused.returncode == RULES[Outcome.INCONCLUSIVE].exit_code
    assert "mad: " in refused.stderr
    assert "no longer found by frames: " in refused.stderr


def test_limits_are_placed_anew_from_their_own_samples(measured: Any, quick: tuple[str, ...]) -> None:
    """A limit that somebody moved by hand goes back to where its samples put it; nothing runs, and the golden stays."""
    nothing = regenerate(measured, "--from-samples", "--case", "one")
    assert (nothing.returncode, "no limits of one on cpu" in nothing.stderr) == (INVALID, True)
    assert regenerate(measured, *quick, *AGAIN).returncode == 0
    file, path = limits(measured), measured.root / "thresholds" / "cpu" / "one.json"
    moved = [one.model_copy(update={"limit": (one.limit or 0) * 0.01}) for one in file.limits if one.metric == "mad"]
    file.model_copy(update={"limits": (*moved, *(one for one in file.limits if one.metric != "mad"))}).write(path)
    runs = sorted((measured.root / "runs").iterdir())
    other = regenerate(measured, "--from-samples", "-k", "two")
    assert (other.returncode, "no limits of a case that matches 'two' on cpu" in other.stderr) == (INVALID, True)

    assert regenerate(measured, "--from-samples", CI="true").returncode == INVALID
    refused = regenerate(measured, "--from-samples")
    assert refused.returncode == RULES[Outcome.INCONCLUSIVE].exit_code
    assert "mad: " in refused.stderr
    shown = regenerate(measured, "--from-samples", "--dry-run")
    assert "nothing was written" in shown.stdout
    assert [one.limit for one in limits(measured).limits if one.metric == "mad"] == [moved[0].limit]
    assert regenerate(measured, "--from-samples", "--reason", "moved by hand").returncode == 0

    again = limits(measured)
    assert {one.metric: one.limit for one in again.limits} == {one.metric: one.limit for one in file.limits}
    assert (again.golden_digest, again.reason) == (file.golden_digest, "moved by hand")
    assert sorted((measured.root / "runs").iterdir()) == runs


def test_cases_are_chosen_by_keyword_and_marker(measured: Any, quick: tuple[str, ...]) -> None:
    measured.cases("  one: {}\n  two: {sampling: {seed: 1}}\n")
    odd = regenerate(measured, "-k", "three")
    assert (odd.returncode, "no case of runner cpu matches 'three'" in odd.stderr) == (INVALID, True)
    done = measured.quantgate("regenerate", "-m", "cpu", "-k", "not two", "--author", "ann", *quick, *AGAIN)
    assert done.returncode == 0, done.stderr
    assert sorted(path.stem for path in (measured.root / "thresholds" / "cpu").glob("*.json")) == ["one"]


def test_results_from_elsewhere_need_no_engine(measured: Any, quick: tuple[str, ...]) -> None:
    measured.cases("  one: {}\n  two: {sampling: {seed: 1}}\n")
    assert regenerate(measured, *quick, *AGAIN, "--case", "one").returncode == 0
    first = limits(measured)
    measured.pytest("--run-id", "host-a")
    measured.drift(1)
    measured.pytest("--run-id", "host-b")
    measured.drift(0)
    for run in ("host-a", "host-b"):
        shutil.copytree(measured.root / "runs" / run, measured.root / "elsewhere" / run)
    measured.program.unlink()
    folders = [word for run in ("host-a", "host-b") for word in ("--from-results", f"elsewhere/{run}")]
    done = regenerate(measured, *quick, "--case", "one", *folders, "--reason", "two hosts")
    assert done.returncode == 0, done.stderr
    after = limits(measured)
    runs = {sample.run for limit in after.limits for sample in limit.samples if not sample.drawn}
    assert runs == {"result-0/host-a", "result-1/host-b"}
    assert after.golden_digest == first.golden_digest


def test_results_that_are_not_what_they_say_are_refused(measured: Any, quick: tuple[str, ...]) -> None:
    assert regenerate(measured, *quick, *AGAIN).returncode == 0
    measured.pytest("--run-id", "host-a")
    record = measured.root / "runs" / "host-a" / "one" / "record.json"
    (measured.root / "nothing").mkdir()
    none = regenerate(measured, *quick, "--from-results", "nothing")
    assert (none.returncode, "holds no record" in none.stderr) == (INVALID, True)
    text = record.read_text()
    record.write_text(text.replace('"runner": "cpu"', '"runner": "h200"', 1))
    other = regenerate(measured, *quick, "--from-results", "runs/host-a")
    assert (other.returncode, "is a run on h200" in other.stderr) == (INVALID, True), other.stderr
    record.write_text(text)
    (record.parent / "clip.safetensors").write_bytes(b"\0" * 64)
    torn = regenerate(measured, *quick, "--from-results", "runs/host-a")
    assert (torn.returncode, "frames cannot be read" in torn.stderr) == (INVALID, True), torn.stderr


def test_a_golden_of_another_identity_is_replaced_only_when_it_is_said(measured: Any, quick: tuple[str, ...]) -> None:
    assert regenerate(measured, *quick, *AGAIN).returncode == 0
    measured.cases("  one: {sampling: {seed: 3}}\n")
    refused = regenerate(measured, *quick, *AGAIN, "--reason", "another seed")
    assert (refused.returncode, "sampling.seed" in refused.stderr) == (MISSING, True), refused.stderr
    done = regenerate(measured, *quick, *AGAIN, "--reason", "another seed", "--replace-golden")
    assert done.returncode == 0, done.stderr
    assert "new golden" in done.stdout


def check(project: Any) -> tuple[int, str]:
    done = project.quantgate("regenerate", "--check", CI="true")
    return done.returncode, done.stdout + done.stderr


def test_the_check_is_green_after_regeneration_and_names_every_disorder(measured: Any, quick: tuple[str, ...]) -> None:
    assert regenerate(measured, *quick, *AGAIN).returncode == 0
    code, message = check(measured)
    assert (code, "1 cases with goldens and limits, 0 faults" in message) == (0, True), message
    path = measured.root / "thresholds" / "cpu" / "one.json"
    text = path.read_text()
    file = limits(measured)

    def edited(**changes: Any) -> str:
        path.write_text(file.model_copy(update=changes).to_json())
        code, message = check(measured)
        path.write_text(text)
        assert code == MISSING, message
        return message

    assert "the limits are of golden bbbb" in edited(golden_digest="b" * 64)
    assert "the limits are of identity cccc" in edited(identity_digest="c" * 64)
    assert "no limit for" in edited(limits=file.limits[1:])
    blind = tuple(
        limit.model_copy(update={"gates": False, "limit": None, "why": f"{limit.metric} tells no control"})
        for limit in file.limits
    )
    assert "no metric gates, so that any frames would pass (ssim tells no control; psnr" in edited(limits=blind)
    hand = tuple(
        limit.model_copy(update={"limit": 1.0 if limit.direction == "higher_is_better" else 0.0})
        for limit in file.limits
    )
    assert "changed by hand" in edited(limits=hand)
    path.write_text("{}")
    assert check(measured)[0] == MISSING
    path.write_text(text)

    path.rename(path.with_name("gone.json"))
    code, message = check(measured)
    assert code == MISSING
    assert "a golden and no limits" in message
    assert "cpu/gone: limits of no case" in message
    path.with_name("gone.json").rename(path)

    measured.cases("  one: {sampling: {seed: 4}}\n")
    assert "asks something else since its golden was made: sampling.seed" in check(measured)[1]
    waiver = "{expect: 'regression:mad_above_limit', owner: a, reason: r, issue: 'https://x/1', expires: 2020-01-01}"
    measured.cases(f"  one: {{waiver: {waiver}}}\n  two: {{}}\n")
    code, message = check(measured)
    assert code == MISSING
    assert "the waiver of a ended on 2020-01-01" in message
    assert "fault: cpu/two: not measured yet" in message
    measured.cases("  one: {}\n  two: {backend: sglang, command: [], runtime: sglang==0.5.23}\n")
    assert "note: cpu/two: not measured yet" in check(measured)[1]
    measured.cases("  one: {}\n")
    clip = next((measured.root / "goldens").rglob("clip*.safetensors"), None) or next(
        path for path in (measured.root / "goldens").rglob("*") if path.stat().st_size > 4000
    )
    clip.write_bytes(Path(clip).read_bytes()[:-8])
    assert check(measured)[0] == MISSING


def test_case_files_are_the_same_for_every_command(measured: Any, quick: tuple[str, ...]) -> None:
    """What pytest collects is found by all: nested, and with either ending."""
    (measured.root / "cases" / "a.yaml").unlink()
    (measured.root / "cases" / "sub").mkdir()
    measured.cases("  one: {}\n", "sub/a.yaml")
    measured.cases("  two: {sampling: {seed: 1}}\n", "sub/b.yml")
    assert regenerate(measured, *quick, *AGAIN).returncode == 0
    code, message = check(measured)
    assert (code, "2 cases with goldens and limits, 0 faults" in message) == (0, True), message
    same = measured.quantgate("bisect", "one", "--runner", "cpu")
    assert "do not differ" in same.stderr
    tried = measured.quantgate("try", "two", "--model", "./model", "--runner", "cpu")
    assert "the candidate is what the case has already" in tried.stderr
    collected = measured.pytest("--collect-only", "-q")
    assert ("a.yaml::one" in collected.stdout, "b.yml::two" in collected.stdout) == (True, True)
