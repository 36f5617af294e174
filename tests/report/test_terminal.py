"""``quantgate show`` and ``quantgate diff``: what the terminal says of a run, and of two."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from harness.outcomes import Outcome
from harness.records.generation import NO_RECEIPTS
from harness.records.identity import Identity
from harness.report.load import ReportError, load_run
from harness.report.terminal import diff_runs, find_case, find_run, show_case


def shown(folder: Path, case: str) -> str:
    return show_case(find_case(load_run(folder), case))


def test_a_red_case_shows_verdict_findings_limits_changes_and_the_next_command(make: Any, tmp_path: Path) -> None:
    text = shown(make.sample_run(tmp_path / "a"), "broken")
    lines = text.splitlines()
    assert lines[0].startswith("regression  broken on cpu")
    assert "outside its limit" in lines[1]
    assert "frames     mad_limit: mad is outside" in text
    (mad,) = (line for line in lines if line.startswith("  mad ") and line.endswith("FAILED"))
    assert "≤ 0.01" in mad
    assert "subject  code: 4567ffff -> 0123abcd" in text
    assert "transformer: 12 Linears nvfp4 on dequantize+linear" in text
    assert str(tmp_path / "a" / "broken" / "clip.safetensors") in text
    assert lines[-1] == "next: pytest cases/tiny.yaml::broken --runner cpu"


def test_a_green_case_has_no_next_command_and_a_control_says_that_it_is_one(make: Any, tmp_path: Path) -> None:
    run = make.sample_run(tmp_path / "a")
    assert "next:" not in shown(run, "exact")
    assert "FAILED" not in shown(run, "exact")
    assert "negative control: it must fail, and did (regression)" in shown(run, "control")


def test_a_crash_shows_the_end_of_the_log(make: Any, tmp_path: Path) -> None:
    assert "  RuntimeError: out of memory" in shown(make.sample_run(tmp_path / "a"), "crashed").splitlines()


def test_kernels_that_nothing_proves_are_marked(make: Any, tmp_path: Path) -> None:
    clip = make.drawn_clip()
    record = make.measured_record("own", clip, clip)
    generation = record.generation.model_copy(update={"unproven": NO_RECEIPTS})
    make.write_case(tmp_path / "a", record.model_copy(update={"generation": generation}), clip, clip)
    assert NO_RECEIPTS in shown(tmp_path / "a", "own")


def test_foreign_text_moves_no_cursor(make: Any, tmp_path: Path) -> None:
    verdict = make.record("x", Outcome.INFRA).verdict.model_copy(update={"summary": make.HOSTILE})
    make.write_case(tmp_path / "a", make.record("x", Outcome.INFRA, verdict=verdict, log_tail=(make.HOSTILE,)))
    text = shown(tmp_path / "a", "x")
    assert "\x1b" not in text
    assert "\u202e" not in text


def test_equal_runs_differ_in_nothing(make: Any, tmp_path: Path) -> None:
    run = make.sample_run(tmp_path / "a")
    text = diff_runs(load_run(run), load_run(run))
    assert text.splitlines()[1:] == ["", "7 cases the same"]


def test_two_runs_differ_by_verdict_measurement_case_and_identity(make: Any, tmp_path: Path) -> None:
    golden, broken = make.drawn_clip(), make.broken_clip(make.drawn_clip())
    near = golden.copy()
    near[4, 10:14, 10:14] ^= 8

    def identity(code: str) -> Identity:
        return Identity(request={}, hardware={}, weights={}, env={}, subject={"code": code})

    for name, clips in (("a", (golden, golden)), ("b", (broken, near))):
        for case, clip in zip(("verdict", "measured"), clips, strict=True):
            record = make.measured_record(case, golden, clip, identity=identity(name), run=name)
            make.write_case(tmp_path / name, record)
    make.write_case(tmp_path / "a", make.record("gone", run="a"))
    make.write_case(tmp_path / "b", make.record("new", Outcome.INFRA, run="b"))
    text = diff_runs(load_run(tmp_path / "a"), load_run(tmp_path / "b"))
    assert text.startswith("a -> b\n")
    first, second = text.index("verdicts that changed"), text.index("measurements that changed")
    assert "cpu/verdict: pass -> regression (mad_above_limit)" in text[first:second]
    assert "cpu/measured: pass" in text[second:]
    assert "mad 0 -> " in text[second:]
    assert "(limit ≤ 0.01, " in text[second:]
    assert "only in a\n  cpu/gone: pass" in text
    assert "only in b\n  cpu/new: infra" in text
    assert "subject  code: a -> b  (2 cases)" in text
    assert text.endswith("0 cases the same")


def test_a_run_is_named_by_folder_by_name_or_as_the_last(make: Any, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    for age, name in enumerate(("new", "old")):
        make.write_case(runs / name, make.record("x", run=name))
        os.utime(runs / name / "x" / "record.json", (1000 - age, 1000 - age))
    assert find_run("old", runs) == find_run(str(runs / "old"), Path("elsewhere")) == runs / "old"
    assert find_run("last", runs) == runs / "new"
    with pytest.raises(ReportError, match="there is no run 'older'") as caught:
        find_run("older", runs)
    assert "old, new" in caught.value.remedy
    with pytest.raises(ReportError, match="there is no run yet"):
        find_run("last", tmp_path / "none")


def test_a_case_that_several_runners_have_is_named_with_its_runner(make: Any, tmp_path: Path) -> None:
    for runner in ("cpu", "h200"):
        make.write_case(tmp_path / "a" / runner, make.record("x", runner=runner))
    run = load_run(tmp_path / "a")
    with pytest.raises(ReportError, match="several runners have a case 'x'"):
        find_case(run, "x")
    assert find_case(run, "h200/x").record.runner == "h200"
    with pytest.raises(ReportError, match="no case 'y'"):
        find_case(run, "y")


def test_an_unknown_case_of_several_runs_names_each_case_once(make: Any, tmp_path: Path) -> None:
    for name in ("a", "b"):
        make.write_case(tmp_path / name, make.record("twice", run=name))
    with pytest.raises(ReportError, match="there is no case 'nope'") as caught:
        find_case(load_run(tmp_path), "nope")
    assert caught.value.remedy == f"quantgate show {tmp_path} CASE, with a case of this run: twice"
