"""A runtime whose runs differ by less than a level: noise is ruled out, and the change of the frames is named."""

from __future__ import annotations

from typing import Any

NOISE = "video += np.random.default_rng().normal(0, 0.002, video.shape).astype(np.float32)\nsave_file("


def test_a_noisy_runtime_is_blamed_for_its_fault_and_not_for_noise(project: Any) -> None:
    project.cases("  one: {}\n")
    project.drift(0)
    project.program.write_text(project.program.read_text().replace("save_file({", NOISE + "{"), encoding="utf-8")
    options = ("--runner", "cpu", "--author", "ann", "--controls", "frames", "--repeats", "5")
    done = project.quantgate("regenerate", *options)
    assert done.returncode == 0, done.stdout + done.stderr
    (project.root / "drift.txt").write_text("30")
    project.pytest("--run-id", "a")
    record = project.records("a")["one"]
    assert record.attribution is not None
    assert record.attribution.cause is not None, record.verdict.summary
    assert record.attribution.cause.code == "offset", record.verdict.summary
    assert "noise" in record.attribution.ruled_out
    assert "of the error in the frames" in record.verdict.summary
