"""Goldens and limits by command: written together, never loosened in silence."""

from __future__ import annotations

from typing import Any

import pytest

from harness.goldens.folder import FolderStore
from harness.outcomes import RULES, Outcome
from harness.records.limits import LimitFile
from tests.support.command_project import PROGRAM


def limits(project: Any) -> LimitFile:
    return LimitFile.read(project.root / "thresholds" / "cpu" / "one.json")


def regenerate(project: Any, *more: str) -> Any:
    return project.quantgate("regenerate", "--runner", "cpu", "--author", "ann", *more)


def placed(project: Any, *more: str) -> Any:
    """Regenerate from the runs that ``measured`` has."""
    return regenerate(project, "--run-id", "again", "--repeats", "0", "--controls", "none", *more)


def test_first_golden_then_pass_then_a_regression_is_seen(project: Any) -> None:
    project.cases("  one: {}\n")
    done = regenerate(project)
    assert done.returncode == 0, done.stdout + done.stderr
    assert list((project.root / "goldens" / "cpu" / "one").glob("*/contents.json")), "the golden knows its weights"
    file = limits(project)
    assert {limit.metric for limit in file.limits} >= {"ssim", "psnr", "mad", "flicker", "motion_ratio"}
    assert all(limit.samples and limit.method == "repeats" for limit in file.limits)
    passed = project.pytest("--run-id", "a")
    assert passed.returncode == 0, passed.stdout
    project.drift(1)
    inside = project.pytest("--run-id", "b")
    assert inside.returncode == 0, inside.stdout
    assert not project.records("b")["one"].comparison.bit_exact
    project.drift(20)
    failed = project.pytest("--run-id", "c")
    assert failed.returncode == RULES[Outcome.REGRESSION].exit_code, failed.stdout
    record = project.records("c")["one"]
    assert "_limit" in record.verdict.cause
    assert any(not check.passed and (check.margin_consumed or 0) > 1 for check in record.limits)


def test_a_looser_limit_needs_a_reason_and_shows_old_and_new(measured: Any) -> None:
    placed(measured)
    before = limits(measured)
    tight = before.model_copy(
        update={
            "limits": tuple(
                limit.model_copy(update={"limit": 0.9999}) if limit.metric == "ssim" else limit
                for limit in before.limits
            )
        }
    )
    tight.write(measured.root / "thresholds" / "cpu" / "one.json")
    refused = placed(measured)
    assert refused.returncode != 0
    assert "ssim: 0.9999 -> " in refused.stderr
    assert limits(measured).limits == tight.limits
    allowed = placed(measured, "--reason", "the limit was typed by hand")
    assert allowed.returncode == 0, allowed.stderr
    assert limits(measured).reason == "the limit was typed by hand"
    assert limits(measured).golden_digest == before.golden_digest


def test_a_dry_run_writes_nothing(measured: Any) -> None:
    assert (measured.root / "runs" / "again" / "none" / "one" / "record.json").is_file()
    assert not (measured.root / "thresholds").exists()
    assert not (measured.root / "goldens").exists()


def test_an_unhealthy_run_makes_no_golden(project: Any) -> None:
    project.cases("  one: {sampling: {prompt: static}}\n")
    done = regenerate(project)
    assert done.returncode == RULES[Outcome.INCONCLUSIVE].exit_code
    assert "run 'none' ended regression" in done.stderr
    assert not (project.root / "goldens").exists()


def test_an_interrupted_regeneration_goes_on(measured: Any) -> None:
    stamps = {path: path.stat().st_mtime_ns for path in (measured.root / "runs" / "again").rglob("record.json")}
    assert stamps
    done = placed(measured)
    assert done.returncode == 0, done.stderr
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps


def test_a_control_gets_no_golden(measured: Any) -> None:
    measured.cases("  one: {}\n  control: {golden_of: one, expect: regression:noise}\n")
    placed(measured)
    assert [path.name for path in (measured.root / "goldens" / "cpu").iterdir() if path.is_dir()] == ["one"]


def test_an_unknown_case_is_named(project: Any) -> None:
    project.cases("  one: {}\n")
    done = regenerate(project, "--case", "two")
    assert (done.returncode, "there is no case two" in done.stderr) == (RULES[Outcome.INVALID_CASE].exit_code, True)


def test_runs_of_other_code_are_not_taken_for_these(measured: Any) -> None:
    """Limits between the old output and the new one would let the difference through."""
    measured.drift(20)
    (measured.root / "runs" / "again" / "threads-2" / "one" / "record.json").unlink()  # interrupted here
    done = placed(measured)
    assert done.returncode == 0, done.stderr
    assert "one: none is run again: it was made of something else: programs" in done.stdout
    assert all(sample.value == limit.samples[-1].value for limit in limits(measured).limits
               for sample in limit.samples if not sample.drawn)  # fmt: skip


def test_runs_of_another_request_are_not_taken_for_these(measured: Any) -> None:
    measured.cases("  one: {sampling: {seed: 3}}\n")
    done = placed(measured)
    assert done.returncode == 0, done.stderr
    assert "one: none is run again: it was made of something else: identity, request" in done.stdout
    passed = measured.pytest("--run-id", "a")
    assert passed.returncode == 0, passed.stdout


def test_what_moves_no_pixel_does_not_repeat_a_run(measured: Any) -> None:
    """A run that hung is gone on with, with a longer deadline."""
    measured.cases("  one: {timeouts: {generate: 40}, description: slow}\n")
    assert "is run again" not in placed(measured).stdout


def test_runs_that_are_not_whole_are_run_again(measured: Any) -> None:
    runs = measured.root / "runs" / "again"
    (runs / "none" / "one" / "origin.json").unlink()
    (runs / "threads-2" / "one" / "clip.safetensors").write_bytes(b"\0" * 9)
    message = placed(measured).stdout
    assert "one: none is run again: its record is incomplete, or does not state its origin" in message
    assert "one: threads-2 is run again: its frames cannot be read" in message
    assert message.count("is run again") == 2


@pytest.mark.slow
def test_two_results_by_chance_become_two_goldens_and_a_broken_run_is_red_at_both(project: Any) -> None:
    """A runtime whose kernel picks one of two algorithms: the picture stands still or moves by a third of a pixel."""
    project.cases("  one: {}\n")
    modes(project, None)
    done = regenerate(project, "--repeats", "8", "--controls", "frames", "--run-id", "twice")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "bistable: 2 groups of healthy runs" in done.stdout
    assert "is proposed as a golden of its own" in done.stdout
    digests = FolderStore(project.root / "goldens").index("cpu", "one").digests()
    file = limits(project)
    assert (len(digests), set(file.goldens)) == (2, set(digests))
    for mode in (0, 1):
        modes(project, mode)
        passed = project.pytest("--run-id", f"mode-{mode}")
        assert passed.returncode == 0, passed.stdout
    modes(project, 1, "video[4:] += 0.08")
    assert project.pytest("--run-id", "broken").returncode == RULES[Outcome.REGRESSION].exit_code


def modes(project: Any, mode: int | None, fault: str = "") -> None:
    """Make the program draw one of two videos, by chance if ``mode`` is ``None``, with noise below a level."""
    counter = project.root / "counter"
    pick = f"int((open({str(counter)!r}, 'a').write('x'), os.path.getsize({str(counter)!r}))[1] // 2 % 2)"
    chosen = pick if mode is None else str(mode)
    lines = f"""
if {chosen}:
    video = 0.7 * video + 0.3 * np.roll(video, 1, axis=2)
video += np.random.default_rng().normal(0, 0.001, video.shape).astype(np.float32)
{fault}
save_file("""
    project.program.write_text(PROGRAM.replace("\nsave_file(", lines), encoding="utf-8")
