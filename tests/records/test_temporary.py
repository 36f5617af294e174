"""Temporary files of killed commands are removed by the next one; those of commands that run are left alone."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from harness.frames.clip import Clip, write_clip
from harness.in_ci import ci_variable
from harness.inside import write_inside
from harness.records.base import write_text_atomic
from harness.records.temporary import scratch_folder, temporary_beside, temporary_folder

KILLED = """
import os, signal, sys
from pathlib import Path
from harness.records.temporary import temporary_beside
temporary_beside(Path(sys.argv[1])).write_text("half")
os.kill(os.getpid(), signal.SIGKILL)
"""


def kill_a_writer(target: Path) -> Path:
    """The file that a killed process leaves while it writes ``target``."""
    before = set(target.parent.iterdir())
    done = subprocess.run([sys.executable, "-c", KILLED, str(target)], timeout=60, check=False)
    assert done.returncode == -signal.SIGKILL
    (left,) = set(target.parent.iterdir()) - before
    return left


def test_the_next_writer_removes_what_a_killed_one_left(tmp_path: Path) -> None:
    target, other = tmp_path / "record.json", tmp_path / "record.json.md"
    left, of_other = kill_a_writer(target), kill_a_writer(other)
    running = temporary_beside(target)
    assert not left.exists()
    strange = [tmp_path / ".record.json.swp", tmp_path / f".record.json.00000000-{2**22 + 1}-x.tmp"]
    for path in strange:
        path.touch()
    write_text_atomic(target, "new")
    assert target.read_text() == "new"
    assert running.exists(), "its process runs"
    assert all(path.exists() for path in strange), "no leftover of this machine"
    assert not of_other.exists(), "the killed command wrote another file of the folder"


def test_a_clip_is_written_through_such_a_file_too(tmp_path: Path) -> None:
    left = kill_a_writer(tmp_path / "clip.safetensors")
    write_clip(tmp_path / "clip.safetensors", Clip(np.zeros((1, 8, 8, 3), np.uint8)))
    assert not left.exists()
    assert [path.name for path in tmp_path.iterdir()] == ["clip.safetensors"]


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        ({}, ""),
        ({"CI": "false", "HOME": "/"}, ""),
        ({"CI": "true"}, "CI"),
        ({"CI": "0", "GITHUB_ACTIONS": "true"}, "GITHUB_ACTIONS"),
        ({"JENKINS_URL": "https://ci.example.org/"}, "JENKINS_URL"),
        ({"TF_BUILD": "True"}, "TF_BUILD"),
        ({"TEAMCITY_VERSION": "2026.1"}, "TEAMCITY_VERSION"),
        ({"BUILDKITE": "true"}, "BUILDKITE"),
        ({"CI": "false", "TASKCLUSTER_ROOT_URL": "https://ci.example.org/"}, "TASKCLUSTER_ROOT_URL"),
        ({"BITRISE_IO": "true"}, "BITRISE_IO"),
        ({"CI_NAME": "codeship"}, "CI_NAME"),
        ({"GITEA_ACTIONS": "true"}, "GITEA_ACTIONS"),
        ({"BUILD_NUMBER": "1204"}, "BUILD_NUMBER"),
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1", "SLURM_JOB_ID": "7"}, ""),
    ],
)
def test_a_ci_job_is_recognised_without_the_variable_ci(environ: dict[str, str], message: str) -> None:
    assert ci_variable(environ) == message


def test_the_next_command_removes_the_folder_of_a_killed_one(tmp_path: Path) -> None:
    made = "(temporary_folder(Path(sys.argv[1]), '.report.') / 'x')"
    code = KILLED.replace("temporary_beside(Path(sys.argv[1]))", made)
    code = code.replace("import temporary_beside", "import temporary_folder")
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], timeout=60, check=False)
    assert done.returncode == -signal.SIGKILL
    (left,) = tmp_path.iterdir()
    assert (left / "x").read_text() == "half"
    (tmp_path / ".report.photos").mkdir()
    running = temporary_folder(tmp_path, ".other.")
    assert left.exists(), "a folder of another command"
    mine = temporary_folder(tmp_path, ".report.")
    assert not left.exists()
    temporary_folder(tmp_path, ".report.")
    assert mine.exists(), "its process runs"
    assert running.exists()
    assert (tmp_path / ".report.photos").exists()


KILLED_INSIDE = """
import os, signal, sys
from pathlib import Path
from harness.inside import write_inside
os.fsync = lambda handle: os.kill(os.getpid(), signal.SIGKILL)
write_inside(Path(sys.argv[1]), "thresholds/cpu/a.json", b"half")
"""


def test_a_killed_writer_inside_of_a_project_leaves_nothing_after_the_next(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED_INSIDE, str(tmp_path)], timeout=60, check=False)
    assert done.returncode == -signal.SIGKILL
    folder = tmp_path / "thresholds" / "cpu"
    assert len(list(folder.iterdir())) == 1
    write_inside(tmp_path, "thresholds/cpu/b.json", b"new")
    assert [path.name for path in folder.iterdir()] == ["b.json"]


def test_a_killed_command_leaves_no_copies_of_checkpoints_in_the_systems_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    made = "(held := scratch_folder('quantgate-controls-')).__enter__().joinpath('weights')"
    code = KILLED.replace("temporary_beside(Path(sys.argv[1]))", made)
    code = code.replace("import temporary_beside", "import scratch_folder")
    done = subprocess.run([sys.executable, "-c", code], timeout=60, check=False)
    assert done.returncode == -signal.SIGKILL
    (left,) = tmp_path.iterdir()
    (tmp_path / "quantgate-controls-mine").mkdir()
    (tmp_path / left.name.replace("controls", "other")).symlink_to(tmp_path / "quantgate-controls-mine")
    with scratch_folder("quantgate-controls-") as folder:
        assert folder.is_dir()
        assert not left.exists()
    assert not folder.exists()
    assert (tmp_path / "quantgate-controls-mine").exists()
