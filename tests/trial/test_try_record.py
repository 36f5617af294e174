"""The clips of ``quantgate try`` in the report, and out of every trend."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
import pytest
from builders import planned_case

from harness.frames.clip import Clip, write_clip
from harness.outcomes import Outcome
from harness.report.history.store import is_calibration
from harness.report.render import render_run
from harness.trial.record import write_record
from harness.trial.trying import Trial

Answer = Literal["safe", "safe_with_changes", "unsafe", "inconclusive"]


def written(tmp_path: Path, answer: Answer, labels: tuple[str, ...] = ("now", "then")) -> Any:
    folder = tmp_path / "runs" / "r" / "try" / "a"
    clips = {}
    for index, label in enumerate(labels):
        frames = np.random.default_rng(0).integers(0, 200, (3, 32, 48, 3), dtype=np.uint8) + np.uint8(20 * index)
        clips[label] = str(folder / label / "clip.safetensors")
        Path(clips[label]).parent.mkdir(parents=True)
        write_clip(Path(clips[label]), Clip(frames), "raw")
    folder.mkdir(parents=True, exist_ok=True)
    trial = Trial(case="a", answer=answer, reasons=("one", "two"), changes=(), clips=clips, must_change=("limits",))
    located = planned_case("a", runner="cpu", sampling={"height": 32, "width": 48})
    context: Any = SimpleNamespace(run="r", runner=SimpleNamespace(name="cpu"))
    return write_record(context, located, trial, folder), folder


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [("safe", Outcome.PASS), ("unsafe", Outcome.REGRESSION), ("inconclusive", Outcome.INCONCLUSIVE)],
)
def test_the_report_shows_both_clips(tmp_path: Path, answer: Answer, outcome: Outcome) -> None:
    record, folder = written(tmp_path, answer)
    assert record.verdict.outcome is outcome
    page = render_run(folder, tmp_path / "report").parent / "cases" / "a.html"
    html = page.read_text()
    assert "data-player" in html
    assert 'data-pane="golden"' in html
    assert 'data-pane="candidate"' in html
    assert f"The candidate is {answer}." in html
    assert "must change with it: limits" in html


def test_a_candidate_that_did_not_run_leaves_the_present_clip(tmp_path: Path) -> None:
    record, folder = written(tmp_path, "unsafe", ("now",))
    assert record.comparison is None
    assert set(record.artifacts) == {"golden"}
    assert 'data-pane="golden"' in (render_run(folder, tmp_path / "report").parent / "cases" / "a.html").read_text()


def test_a_trial_is_no_part_of_a_trend(tmp_path: Path) -> None:
    record, _ = written(tmp_path, "safe")
    assert is_calibration(record)
    verdict = record.verdict.model_copy(update={"cause": "none"})
    assert not is_calibration(record.model_copy(update={"verdict": verdict}))
