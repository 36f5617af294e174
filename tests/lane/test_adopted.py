"""The lane and the action serve other repositories: their own commands run in one that `quantgate init` wrote."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from lane_actions import Runner, clean, load_workflow, matrix_of

from harness.adopt.init import init
from harness.adopt.requirements import lines
from harness.adopt.source import source_of
from harness.lane.merge import Merged

if TYPE_CHECKING:
    from conftest import Project

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
LANE = load_workflow(ROOT / ".github/workflows/lane.yml")
ACTION = load_workflow(ROOT / ".github/actions/quantgate/action.yml")
SOURCE = source_of("team/quantgate@" + "a" * 40)
OURS = ("make", "constraints.txt", ".github", "lane-requirements", "tiny", "tests")
"""Names of this repository that no other has."""


@pytest.fixture
def adopted(project: Project) -> Project:
    """A project that `quantgate init` wrote, in a folder of a repository; its cases are drawn by a stand-in."""
    gate = project.root / "gate"
    gate.mkdir()
    for name in ("cases", "runners", "m1", "m2"):
        (project.root / name).rename(project.root / f"not-{name}")
    project.git("init", "-q", "-b", "main")
    init(gate, (), SOURCE)
    for name in ("m1", "m2"):
        (gate / name).mkdir()
        (gate / name / "model_index.json").write_text("{}")
    (gate / "cases/first.yaml").unlink()
    project.root = gate
    project.write_cases({"one": ("m1", "pass"), "two": ("m2", "fail")}, "cpu")
    project.root = gate.parent
    project.git("add", ".")
    project.git("commit", "-q", "-m", "the gate")
    project.git("update-ref", "refs/remotes/origin/main", "HEAD")
    return project


def test_plan_shards_and_merge_in_a_folder_of_another_repository(adopted: Project, tmp_path: Path) -> None:
    written = load_workflow(adopted.root / ".github/workflows/quantgate.yml")["jobs"]["lane"]["with"]
    assert written["folder"] == "gate"
    (tmp_path / "artifacts").mkdir()
    runner = Runner(
        LANE,
        {
            **{f"inputs.{name}": value for name, value in written.items()},
            "inputs.runner": "cpu",
            "inputs.shards": 1,
            "inputs.base": "main",
            "vars.QUANTGATE_HF_HOME || '/models/huggingface'": str(tmp_path),
        },
        clean(adopted.environment()),
        tmp_path / "artifacts",
    )
    assert runner.job("plan", adopted.root) == {"Plan": 0}
    runner.expressions["needs.plan.outputs.plan"] = runner.outputs["plan"]
    (row,) = matrix_of(runner.outputs)
    assert runner.job("shard", adopted.root, row)["Run"] == 10
    assert runner.job("merge", adopted.root)["Merge"] == 10
    merged = Merged.read(tmp_path / "artifacts/merged/merge.json")
    assert {case.case: case.outcome.value for case in merged.cases} == {"one": "pass", "two": "regression"}


def test_the_workflow_that_init_writes_is_valid_and_pinned(adopted: Project) -> None:
    path = adopted.root / ".github/workflows/quantgate.yml"
    text = path.read_text()
    assert f"uses: team/quantgate/.github/workflows/lane.yml@{'a' * 40}" in text
    job = load_workflow(path)["jobs"]["lane"]
    assert set(job["with"]) <= set(LANE["on"]["workflow_call"]["inputs"])
    action = ROOT / ".github/actions/quantgate/action.yml"
    checks = (
        [BIN / "check-jsonschema", "--builtin-schema", "vendor.github-workflows", path],
        [BIN / "zizmor", "--offline", "--no-progress", path],
        [BIN / "check-jsonschema", "--builtin-schema", "vendor.github-actions", action],
    )
    for command in checks:
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def runs(steps: list[dict[str, Any]]) -> list[str]:
    return [step["run"] for step in steps if "run" in step]


def test_no_command_needs_a_file_of_this_repository() -> None:
    commands = [*runs(ACTION["runs"]["steps"]), *(run for job in LANE["jobs"].values() for run in runs(job["steps"]))]
    assert len(commands) >= 12
    for command in commands:
        assert "${{" not in command
        assert not [name for name in OURS if name in command.replace("requirements.txt", "")], command


PYTHON = """#!/bin/sh
echo "$*" >> "$LOG"
case "$1 $2 $3" in
  "-m venv "*) mkdir -p "$3/bin" && cp "$0" "$3/bin/python";;
  "-P -m harness.adopt.requirements") echo typer;;
esac
"""


@pytest.mark.parametrize(
    ("steps", "hosted"),
    [
        (LANE["jobs"]["plan"]["steps"], True),
        (LANE["jobs"]["shard"]["steps"], False),
        (LANE["jobs"]["merge"]["steps"], True),
        (ACTION["runs"]["steps"], False),
    ],
    ids=["plan", "shard", "merge", "action"],
)
@pytest.mark.parametrize(
    ("asked", "installed"),
    [("quantgate==0.1.0", "quantgate==0.1.0"), (".", "-e /workspace"), (SOURCE.requirement, SOURCE.requirement)],
)
def test_what_is_installed(
    tmp_path: Path, steps: list[dict[str, Any]], hosted: bool, asked: str, installed: str
) -> None:
    (install,) = [step for step in steps if step.get("name") == "Install"]
    assert install["env"] == {"QUANTGATE": "${{ inputs.quantgate }}"}
    for name in ("python", "python3"):
        (tmp_path / name).write_text(PYTHON)
        (tmp_path / name).chmod(stat.S_IRWXU)
    log = tmp_path / "log"
    env = {
        "PATH": f"{tmp_path}{os.pathsep}/usr/bin{os.pathsep}/bin",
        "LOG": str(log),
        "QUANTGATE": asked,
        "RUNNER_TEMP": str(tmp_path),
        "GITHUB_WORKSPACE": "/workspace",
        "GITHUB_PATH": str(tmp_path / "path"),
    }
    subprocess.run(["bash", "-e", "-c", install["run"]], env=env, cwd=tmp_path, check=True, timeout=60)
    message = log.read_text().splitlines()
    assert f"-m pip install --no-deps {installed}" in message
    assert f"-P -m harness.adopt.requirements{' --hosted' if hosted else ''}" in message
    assert message[-1] == f"-m pip install -r {tmp_path}/requirements.txt"
    assert (tmp_path / "requirements.txt").read_text() == "typer\n"


def test_hosted_jobs_install_no_torch() -> None:
    hosted, whole = lines(hosted=True), lines(hosted=False)
    assert hosted[0].startswith("-c file://")
    assert set(hosted) < set(whole)
    assert not [line for line in hosted if line.startswith(("torch", "diffusers", "transformers", "numba"))]
    assert [line for line in whole if line.startswith("torch")]


@pytest.mark.slow
def test_the_action_runs_the_cases_of_a_folder(adopted: Project, tmp_path: Path) -> None:
    (tmp_path / "temp/quantgate").mkdir(parents=True)
    (tmp_path / "temp/quantgate/bin").symlink_to(BIN)
    known = {"inputs.folder": "gate", "inputs.runner": "cpu", "inputs.cases": "cases"}
    codes = {}
    for step in ACTION["runs"]["steps"]:
        if step.get("name") not in ("Preflight", "Run"):
            continue
        env = {name: known[value.strip("${} ")] for name, value in step["env"].items()}
        environment = {**clean(adopted.environment()), **env, "RUNNER_TEMP": str(tmp_path / "temp")}
        assert step["working-directory"] == "${{ inputs.folder }}"
        done = subprocess.run(
            ["bash", "-e", "-c", step["run"]],
            cwd=adopted.root / "gate",
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        codes[step["name"]] = done.returncode
        print(done.stdout, done.stderr)
    assert codes == {"Preflight": 0, "Run": 10}
    assert (adopted.root / "gate/runs/ci/junit.xml").is_file()
