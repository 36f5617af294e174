"""A golden gets the evidence of a run with its own frames, and of no other run."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from command_project import Project
from safetensors.numpy import load_file, save_file

from harness.frames.clip import Clip, read_clip, write_clip
from harness.goldens.folder import FolderStore
from harness.goldens.golden import Golden
from harness.records.case_record import CaseRecord
from harness.records.golden import CLIP, LATENTS
from harness.records.limits import LimitFile
from harness.records.run_folder import LATENTS_FILE


@pytest.fixture(scope="module")
def accepted(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project with a golden, limits, and a run ``second`` that passed and left latents too."""
    project = Project(tmp_path_factory.mktemp("renewing"))
    project.golden("square", reason="looks right")
    done = project.pytest("--run-id", "second")
    assert done.returncode == 0, done.stdout
    save_file({"latents": np.ones((1, 2), np.float32)}, project.root / "runs" / "second" / "square" / LATENTS_FILE)
    return project


@pytest.fixture
def project(accepted: Project, tmp_path: Path) -> Project:
    return accepted.copy(tmp_path / "project")


def golden_of(project: Project) -> Golden:
    (golden,) = FolderStore(project.root / "goldens").find("cpu", "square")
    return golden


def limits_of(project: Project) -> LimitFile:
    return LimitFile.read(project.root / "thresholds" / "cpu" / "square.json")


def renewed(project: Project) -> str:
    done = project.quantgate("goldens", "renew", "runs/second", "--author", "bob", "--reason", "newer evidence")
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_golden_gets_what_the_run_left_and_keeps_frames_and_limits(project: Project) -> None:
    before, limits = golden_of(project), limits_of(project)
    out = renewed(project)
    after = golden_of(project)
    assert f"cpu/square/{before.digest[:16]} -> {after.digest[:16]}" in out
    assert "latents" in out
    assert after.manifest.parts[CLIP] == before.manifest.parts[CLIP]
    assert load_file(after.open_part(LATENTS))["latents"].tolist() == [[1.0, 1.0]]
    assert (after.manifest.previous, after.manifest.author, after.manifest.reason) == (
        before.digest, "bob", "newer evidence"
    )  # fmt: skip
    assert after.manifest.identity == before.manifest.identity
    assert limits_of(project).golden_digest == after.digest
    assert limits_of(project).limits == limits.limits
    assert limits_of(project).is_sealed
    (entry,) = FolderStore(project.root / "goldens").index("cpu", "square").goldens
    assert (entry.reason, entry.author) == ("looks right", "ann")
    assert FolderStore(project.root / "goldens").digests("cpu", "square") == (after.digest[:16],)
    assert after.verify() == ()
    assert "it holds everything that the run left" in renewed(project)
    assert golden_of(project).digest == after.digest


def test_limits_that_were_changed_by_hand_stay_broken(project: Project) -> None:
    path = project.root / "thresholds" / "cpu" / "square.json"
    edited = json.loads(path.read_text())
    edited["limits"][0]["limit"] = 0.1
    path.write_text(json.dumps(edited))
    assert not limits_of(project).is_sealed
    renewed(project)
    assert limits_of(project).golden_digest == golden_of(project).digest
    assert not limits_of(project).is_sealed


def test_a_run_of_other_frames_renews_nothing(project: Project) -> None:
    before = golden_of(project)
    folder = project.root / "runs" / "second" / "square"
    frames = read_clip(folder / "clip.safetensors").frames.copy()
    frames[0, 0, 0, 0] ^= 1
    write_clip(folder / "clip.safetensors", Clip(frames))
    record = CaseRecord.read(folder / "record.json").as_json()
    record["generation"]["clip_sha256"] = Clip(frames).digest
    (folder / "record.json").write_text(json.dumps(record))
    assert "not those of an accepted golden" in renewed(project)
    assert golden_of(project).digest == before.digest


def test_a_red_run_renews_nothing(project: Project) -> None:
    before = golden_of(project)
    record = project.root / "runs" / "second" / "square" / "record.json"
    record.write_text(record.read_text().replace('"outcome": "pass"', '"outcome": "regression"'))
    assert "ended regression" in renewed(project)
    assert golden_of(project).digest == before.digest


def test_a_record_of_other_frames_is_refused(project: Project) -> None:
    before = golden_of(project)
    clip = next((project.root / "runs" / "second" / "square").glob("clip.*"))
    clip.write_bytes(clip.read_bytes()[:-1] + b"\x07")
    done = project.quantgate("goldens", "renew", "runs/second")
    assert done.returncode != 0
    assert "frames" in done.stderr
    assert golden_of(project).digest == before.digest


def test_a_folder_without_a_run_is_refused(project: Project) -> None:
    (project.root / "empty").mkdir()
    done = project.quantgate("goldens", "renew", "empty")
    assert done.returncode == 17
    assert "holds no record of a run" in done.stderr
