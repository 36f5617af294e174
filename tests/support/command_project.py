"""A small project of its own: a runner, a checkpoint, and a program that draws what the prompt says."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
from builders import make_limit, make_limits
from children import child_environment, run_command
from safetensors.numpy import save_file

from harness.frames.registry import find_metric, gating_names
from harness.goldens.folder import FolderStore
from harness.records.case_record import CaseRecord

REPOSITORY = Path(__file__).parents[2]

PROGRAM = '''
"""Draws a square that moves; what the prompt names goes wrong. Reads drift.txt: levels added to every pixel."""
import json, os, sys, time
import numpy as np
from safetensors.numpy import save_file

request = json.load(open(sys.argv[1]))
asked = request["case"]["sampling"]
if "crash" in asked["prompt"]:
    os.abort()
if "hang" in asked["prompt"]:
    time.sleep(600)
count, height, width = asked["num_frames"], asked["height"], asked["width"]
video = np.full((count, height, width, 3), 0.2, np.float32)
video[..., 1] += np.linspace(0, 0.3, width, dtype=np.float32)
for index in range(count):
    left = 4 + 2 * index + asked["seed"]
    video[index, 20:36, left : left + 16] = (0.9, 0.1, 0.3)
if "static" in asked["prompt"]:
    video = np.random.default_rng(0).random(video.shape, dtype=np.float32)
if "nan" in asked["prompt"]:
    video[2, 3, 4] = np.nan
if os.path.exists("drift.txt"):
    video += float(open("drift.txt").read()) / 255
save_file({"frames": video}, sys.argv[2])
'''

HEADER = """
defaults:
  runners: [cpu]
  backend: command
  command: [{python}, program.py, "{{case_json}}", "{{out}}"]
  model: {{path: ./model}}
  base: {{path: ./model}}
  sampling: {{prompt: a square, width: 96, height: 64, num_frames: 9, num_inference_steps: 1, guidance_scale: 1.0}}
  timeouts: {{load: 60, generate: 20}}
cases:
"""


class Project:
    """A project folder, and the two commands on it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "pyproject.toml").write_text('[tool.pytest.ini_options]\ntestpaths = ["cases"]\n', encoding="utf-8")
        shutil.copytree(REPOSITORY / "runners", root / "runners")
        self.program = root / "program.py"
        self.program.write_text(PROGRAM, encoding="utf-8")
        weights = {"blocks.0.attn1.to_q.weight": np.eye(16, dtype=ml_dtypes.bfloat16)}
        (root / "model" / "transformer").mkdir(parents=True)
        save_file(weights, root / "model" / "transformer" / "diffusion_pytorch_model.safetensors")
        (root / "model" / "transformer" / "config.json").write_text('{"_class_name": "WanTransformer3DModel"}')
        (root / "model" / "model_index.json").write_text('{"_class_name": "WanPipeline", "boundary_ratio": 0.875}')

    def copy(self, root: Path) -> Project:
        """Copy the project with all that was done in it, to a folder that does not exist."""
        copy = object.__new__(Project)
        copy.root = shutil.copytree(self.root, root)
        copy.program = copy.root / "program.py"
        return copy

    def cases(self, body: str, name: str = "a.yaml") -> None:
        """Write a case file; ``body`` is indented two blanks."""
        folder = self.root / "cases"
        folder.mkdir(exist_ok=True)
        header = HEADER.format(python=sys.executable)
        (folder / name).write_text(header + body, encoding="utf-8")

    def drift(self, levels: float) -> None:
        """Make the program add ``levels`` of 255 to every pixel from now on."""
        (self.root / "drift.txt").write_text(str(levels))
        self.program.write_text(PROGRAM.replace('"drift.txt"', repr(str(self.root / "drift.txt"))), encoding="utf-8")

    def golden(self, case: str, reason: str = "looked at it") -> None:
        """Write one case, make the run ``first`` of it its golden, and measure limits."""
        self.cases(f"  {case}: {{}}\n")
        self.pytest("--run-id", "first")
        accepted = self.quantgate("accept", case, "--reason", reason, "--author", "ann")
        assert accepted.returncode == 0, accepted.stderr
        self.measure(case)

    def measure(self, case: str) -> None:
        """Write limits for the accepted golden of ``case``, as if they had been measured: twice what one run shows."""
        store = FolderStore(self.root / "goldens")
        (golden,) = store.find("cpu", case)
        metrics = [find_metric(name) for name in gating_names()]
        limits = tuple(
            make_limit(0.99, metric.name)
            if metric.direction == "higher_is_better"
            else make_limit(0.5, metric.name, direction="lower_is_better")
            for metric in metrics
        )
        identity = golden.manifest.identity.digest()
        file = make_limits(case=case, golden_digest=golden.digest, limits=limits, identity_digest=identity)
        file.write(self.root / "thresholds" / "cpu" / f"{case}.json")

    def pytest(self, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
        """Run pytest on the project's cases."""
        return self.run("-m", "pytest", "-p", "no:cacheprovider", *arguments, **env)

    def quantgate(self, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
        """Run the command."""
        return run_command(["quantgate", *arguments], self.root, self._environment(**env))

    def run(self, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
        """Run this Python in the project."""
        return run_command([sys.executable, *arguments], self.root, self._environment(**env))

    def _environment(self, **env: str) -> dict[str, str]:
        return child_environment("CI", OMP_NUM_THREADS="1", COLUMNS="160") | env

    def records(self, run: str) -> dict[str, CaseRecord]:
        """The records of a run, by case."""
        found = sorted((self.root / "runs" / run).glob("*/record.json"))
        return {path.parent.name: CaseRecord.read(path) for path in found}
