"""The tour of docs/adopting.md, from the built wheel, in a fresh environment and a fresh folder.

Nothing of this checkout is on the path: the wheel is installed into a new virtual environment, which borrows only the
libraries (torch, diffusers, ...) of the environment of the tests. To borrow nothing, let pip install the wheel with all
that its metadata asks for, and name that environment's Python::

    pip wheel --no-deps -w /tmp/wheel . && python3 -m venv /tmp/env
    /tmp/env/bin/pip install torch --index-url https://download.pytorch.org/whl/cpu
    /tmp/env/bin/pip install /tmp/wheel/quantgate-*.whl
    QUANTGATE_TOUR_PYTHON=/tmp/env/bin/python pytest tests/adopt/test_tour.py -m slow
"""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import numpy as np
import pytest
from children import WITHOUT_TEST_TOOLS

from harness import __version__

ROOT = Path(__file__).parents[2]
PROGRAM = '''"""Draws a square that moves. Another runtime would stand here."""
import json, sys
import numpy as np
from safetensors.numpy import save_file

asked = json.load(open(sys.argv[1]))["case"]["sampling"]
video = np.full((asked["num_frames"], asked["height"], asked["width"], 3), 0.2, np.float32)
video[..., 1] += np.linspace(0, 0.3, asked["width"], dtype=np.float32)
for index in range(asked["num_frames"]):
    video[index, 20:36, 4 + 2 * index : 20 + 2 * index] = (0.9, 0.1, 0.3)
save_file({"frames": video}, sys.argv[2])
'''
OWN = """# yaml-language-server: $schema=../schemas/case-file.schema.json
cases:
  own:
    runners: [cpu]
    backend: command
    command: [%s, %s, "{case_json}", "{out}"]
    model: {path: ./demo/model}
    base: {path: ./demo/model}
    sampling: {prompt: a square, width: 96, height: 64, num_frames: 9, num_inference_steps: 1, guidance_scale: 1.0}
"""


INSTALLED = "QUANTGATE_TOUR_PYTHON"
"""Names the Python of an environment into which pip installed the wheel and its dependencies."""


def borrowing_environment(folder: Path, wheel: Path) -> Path:
    """Return the Python of a new environment that holds the wheel, and borrows the libraries of the tests."""
    venv.create(folder, with_pip=False)
    site = folder / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
    with zipfile.ZipFile(wheel) as archive:  # a pure wheel is installed by unpacking it
        archive.extractall(site)
    (site / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder / "bin" / "python"


def installed_environment(python: Path) -> Path:
    """Return ``python`` after a check that pip is content with the environment, and that this checkout is not in it."""
    subprocess.run([python, "-m", "pip", "check"], check=True, timeout=300)
    place = subprocess.run(
        [python, "-c", "import harness, sysconfig; print(harness.__file__, sysconfig.get_path('purelib'), sep='\\n')"],
        cwd="/", check=True, capture_output=True, text=True, timeout=60,
    ).stdout.splitlines()  # fmt: skip
    assert Path(place[0]).is_relative_to(place[1]), "the package is not installed but linked"
    return python


class Tour:
    """A fresh environment with the wheel, and a fresh folder."""

    def __init__(self, base: Path, wheel: Path) -> None:
        self.folder = base / "project"
        self.folder.mkdir()
        installed = os.environ.get(INSTALLED)
        self.python = (
            installed_environment(Path(installed)) if installed else borrowing_environment(base / "env", wheel)
        )
        home = base / "home"
        home.mkdir()
        self.env = {"PATH": os.environ["PATH"], "HOME": str(home), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        self.env["PYTEST_ADDOPTS"] = WITHOUT_TEST_TOOLS

    def run(self, *arguments: str, code: int = 0) -> str:
        """Run a module of the fresh environment in the project; what it printed."""
        done = subprocess.run(
            [self.python, "-m", *arguments], cwd=self.folder, env=self.env, capture_output=True, text=True, timeout=900
        )
        message = done.stdout + done.stderr
        assert done.returncode == code, f"{arguments}: {done.returncode}\n{message}"
        return message

    def quantgate(self, *arguments: str, code: int = 0) -> str:
        return self.run("harness", *arguments, code=code)

    def pytest(self, *arguments: str, code: int = 0) -> str:
        return self.run("pytest", "-p", "no:cacheprovider", *arguments, code=code)

    def git(self, *arguments: str) -> None:
        identity = ("-c", "user.name=t", "-c", "user.email=t@example.com")
        subprocess.run(["git", *identity, *arguments], cwd=self.folder, check=True, capture_output=True)


@pytest.fixture
def tour(tmp_path: Path) -> Tour:
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", tmp_path, ROOT]
    subprocess.run(command, check=True, timeout=300)
    (wheel,) = tmp_path.glob("quantgate-*.whl")
    assert wheel.stat().st_size < 30_000_000
    return Tour(tmp_path, wheel)


def swap_nibbles(file: Path) -> int:
    """Exchange the nibbles of every packed byte; the number of tensors that hold any."""
    data = bytearray(file.read_bytes())
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    packed = [entry for entry in header.values() if entry.get("dtype") == "U8"]
    for entry in packed:
        begin, end = (8 + length + offset for offset in entry["data_offsets"])
        bytes_ = np.frombuffer(data[begin:end], np.uint8)
        data[begin:end] = ((bytes_ << 4) | (bytes_ >> 4)).tobytes()
    file.write_bytes(data)
    return len(packed)


@pytest.mark.slow
def test_the_whole_tour(tour: Tour) -> None:
    assert tour.quantgate("--version") == f"quantgate {__version__}\n"
    tour.git("init", "-q", "-b", "main")
    assert "pytest cases/demo.yaml" in tour.quantgate("init", "--demo", "--source", "team/quantgate@" + "a" * 40)
    assert "written" not in tour.quantgate("init", "--demo")
    assert "2 cases" in tour.quantgate("cases")
    tour.git("add", ".")
    tour.git("commit", "-q", "-m", "the gate")

    green = tour.pytest("cases/demo.yaml", "--runner", "cpu")
    assert "2 cases on runner cpu: 2 pass" in green

    expert = tour.folder / "demo/nvfp4/transformer/diffusion_pytorch_model.safetensors"
    assert swap_nibbles(expert)
    red = tour.pytest("cases/demo.yaml::nvfp4", "--runner", "cpu", code=11)
    assert "checkpoint_fault (nibble_order)" in red
    assert "next: quantgate inspect --case nvfp4" in red
    swap_nibbles(expert)

    (tour.folder / "draw.py").write_text(PROGRAM)
    (tour.folder / "cases/own.yaml").write_text(OWN % (tour.python, tour.folder / "draw.py"))
    assert "golden_missing" in tour.pytest("cases/own.yaml", "--runner", "cpu", code=14)
    tour.quantgate("accept", "own", "--runner", "cpu", "--reason", "the square moves", "--author", "ann")
    assert "limits_missing" in tour.pytest("cases/own.yaml", "--runner", "cpu", code=13)
    tour.git("add", ".")
    tour.git("commit", "-q", "-m", "a case")
    tour.quantgate(
        *("regenerate", "--case", "own", "--runner", "cpu", "--repeats", "6", "--controls", "frames"),
        *("--reason", "first limits", "--author", "ann"),
    )
    tour.git("add", ".")
    tour.git("commit", "-q", "-m", "limits")

    tour.quantgate("plan", "--runner", "cpu", "--shards", "2", "--out", "plan.json")
    for shard in ("1", "2"):
        arguments = ("--plan=plan.json", "--shard", f"{shard}/2", "--run-id", f"shard-{shard}")
        tour.pytest(*arguments, "--junitxml", f"runs/shard-{shard}/junit.xml")
    tour.quantgate("merge", "runs/shard-1", "runs/shard-2", "--plan", "plan.json", "--out", "merged")
    merged = json.loads((tour.folder / "merged/merge.json").read_text())
    assert {case["case"]: case["outcome"] for case in merged["cases"]} == {
        "nvfp4": "pass",
        "nvfp4_nibbles_exchanged": "pass",
        "own": "pass",
    }
    for path in tour.folder.rglob("*"):
        if path.suffix in (".yaml", ".yml", ".json", ".ini", ".md", ".xml") and path.is_file():
            text = path.read_text(encoding="utf-8", errors="replace").replace(sysconfig.get_path("purelib"), "")
            assert str(ROOT) not in text, path  # but for the borrowed libraries, which warnings of torch name
