"""A small repository with cases, runners and fake GPUs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from children import child_environment, run_command
from fake_gpus import fake_gpus

from harness.records.case_record import CaseRecord

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(HERE))  # for lane_actions

HEAD = """\
defaults:
  runners: [{runner}]
  model: {{path: ./m1}}
  sampling: {{prompt: pass, width: 16, height: 16, num_frames: 1, num_inference_steps: 1, guidance_scale: 1.0}}
  timeouts: {{load: 60, generate: 60}}
cases:
"""


class Project:
    """A checkout of a small repository."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.gpus = 2
        (root / "cases").mkdir()
        shutil.copytree(ROOT / "runners", root / "runners")
        (root / "pytest.ini").write_text("[pytest]\ntestpaths = cases\naddopts = --import-mode=importlib\n")
        for name in ("m1", "m2", "m3", "m4"):
            (root / name).mkdir()

    def write_cases(self, cases: dict[str, tuple[str, str]], runner: str = "b200", file: str = "lane.yaml") -> None:
        """Write a case file: id to model and prompt."""
        lines = [
            f"  {name}: {{model: {{path: ./{model}}}, sampling: {{prompt: {prompt}}}}}"
            for name, (model, prompt) in cases.items()
        ]
        (self.root / "cases" / file).write_text(HEAD.format(runner=runner) + "\n".join(lines) + "\n")

    def environment(self) -> dict[str, str]:
        """The environment of commands that run in this project."""
        environment = child_environment("GITHUB")
        devices = [device.model_dump(mode="json") for device in fake_gpus(self.gpus)]
        return environment | {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}",
            "PYTHONPATH": os.pathsep.join([str(HERE), str(HERE.parent / "support"), str(ROOT)]),
            "PYTEST_PLUGINS": "lane_session",
            "QUANTGATE_FAKE_DEVICES": json.dumps(devices),
            "QUANTGATE_LEASES": str(self.root / "leases"),
            "OMP_NUM_THREADS": "1",
        }

    def run(self, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
        """Run a command in the project."""
        return run_command(arguments, self.root, self.environment() | more)

    def pytest(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run pytest on the cases."""
        return self.run(sys.executable, "-m", "pytest", "--runner", "b200", "--run-id", "r", *arguments)

    def records(self, run: str = "r") -> dict[str, CaseRecord]:
        """Records of a run by case."""
        found = [CaseRecord.read(path) for path in (self.root / "runs" / run).glob("*/record.json")]
        return {record.case: record for record in found}

    def git(self, *arguments: str) -> str:
        """Run git in the project."""
        done = subprocess.run(
            ["git", "-c", "user.name=t", "-c", "user.email=t@example.com", *arguments],
            cwd=self.root,
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """A small repository."""
    root = tmp_path / "repo"
    root.mkdir()
    return Project(root)
