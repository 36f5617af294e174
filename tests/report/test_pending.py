"""Pending candidates are shown old against new, and what accepting them changes is said."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from harness.cli.report import report
from harness.errors import GoldenError
from harness.frames.clip import Clip, write_clip
from harness.goldens.accept import accept
from harness.goldens.pending import leave
from harness.goldens.workspace import Workspace
from harness.records.identity import FieldChange, Identity
from harness.report.case_page import accepting
from harness.report.load import load_pending, load_run

IDENTITY = Identity(request={"seed": 0}, hardware={"name": "x86_64"}, weights={}, env={}, subject={"code": "1"})


def leave_one(make: ModuleType, root: Path, frames: Any, against: Any = None, /, **changes: Any) -> Workspace:
    workspace = Workspace(root)
    found = make.measured_record(
        "moved", frames if against is None else against, frames, identity=IDENTITY, golden=None, changes=()
    )
    found = found.model_copy(update=changes)
    folder = root / "runs" / "r1" / "moved"
    found.write(folder / "record.json")
    write_clip(folder / "clip.safetensors", Clip(frames))
    files = {"clip": folder / "clip.safetensors", "record": folder / "record.json"}
    leave(workspace, found, files, run_folder=folder)
    return workspace


def test_a_first_candidate_and_then_one_against_its_golden(make: ModuleType, tmp_path: Path) -> None:
    old = make.drawn_clip(3)
    workspace = leave_one(make, tmp_path, old)
    run = load_pending(workspace.pending_root)
    first = accepting(run.entries[0].record, run.entries[0].candidate)
    assert first is not None
    assert any("first golden" in sentence for sentence in first.sentences)
    with pytest.raises(GoldenError, match="no report shows this candidate"):
        accept(workspace, "moved", reason="looks right", author="me")
    report(workspace.pending_root)
    done = accept(workspace, "moved", reason="looks right", author="me")

    changes = (FieldChange(identity_class="subject", field="code", golden="1", run="2"),)
    leave_one(make, tmp_path, make.broken_clip(old, 1), old, golden=done.digest, changes=changes)
    run = load_pending(workspace.pending_root)
    entry = run.entries[0]
    assert entry.artifact("golden") is not None
    message = accepting(entry.record, entry.candidate)
    assert message is not None
    assert any(done.digest[:12] in sentence for sentence in message.sentences)
    assert any("carried over" in sentence for sentence in message.sentences)
    assert message.accept.line.startswith("quantgate accept moved --runner cpu --reason")

    index = Path(report(workspace.pending_root))
    assert index == tmp_path / ".quantgate" / "report" / "index.html"
    page = (index.parent / "cases" / "cpu-moved.html").read_text()
    assert "If this is right: accept it" in page
    assert (index.parent / "media" / "cpu-moved" / "golden-0.webp").is_file()
    assert (index.parent / "media" / "cpu-moved" / "candidate-0.webp").is_file()


def test_another_configuration_loses_its_limits(make: ModuleType, tmp_path: Path) -> None:
    changes = (FieldChange(identity_class="weights", field="commit", golden="1", run="2"),)
    leave_one(make, tmp_path, make.drawn_clip(3), golden="ab" * 32, changes=changes)
    entry = load_run(tmp_path / "runs" / "r1").entries[0]
    message = accepting(entry.record, entry.candidate)
    assert message is not None
    assert any("limits are removed" in sentence and "weights" in sentence for sentence in message.sentences)


def test_a_case_that_left_nothing_offers_nothing(make: ModuleType) -> None:
    assert accepting(make.record("x"), None) is None


def test_a_golden_that_is_not_at_hand_leaves_the_candidate(make: ModuleType, tmp_path: Path) -> None:
    workspace = leave_one(make, tmp_path, make.drawn_clip(3), golden="ab" * 32)
    assert load_pending(workspace.pending_root).entries[0].artifact("golden", "golden.safetensors") is None


@pytest.mark.parametrize("text", ["{", "{}"])
def test_a_damaged_candidate_is_not_offered(make: ModuleType, tmp_path: Path, text: str) -> None:
    leave_one(make, tmp_path, make.drawn_clip(3))
    (tmp_path / "runs" / "r1" / "moved" / "candidate.json").write_text(text)
    assert load_run(tmp_path / "runs" / "r1").entries[0].candidate is None
