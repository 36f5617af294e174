"""The workflows: linted, safe for self-hosted machines, and driven from plan over three shards to the merge."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from lane_actions import Runner, alive, clean, load_workflow, matrix_of
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from harness.adopt.requirements import HOSTED
from harness.definitions.runner import load_runners
from harness.lane.merge import Merged
from harness.lane.plan import Plan

if TYPE_CHECKING:
    from conftest import Project

ROOT = Path(__file__).parents[2]
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
BIN = Path(sys.executable).parent
PINNED = re.compile(r"uses: (?!\./)\S+@[0-9a-f]{40} # v\d+\.\d+\.\d+$")


def test_zizmor_finds_nothing() -> None:
    done = subprocess.run(
        [BIN / "zizmor", "--offline", "--no-progress", ROOT / ".github"], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_zizmor_would_find_something(tmp_path: Path) -> None:
    bad = tmp_path / ".github/workflows/bad.yml"
    bad.parent.mkdir(parents=True)
    bad.write_text((ROOT / ".github/workflows/ci.yml").read_text().replace("persist-credentials: false", "", 1))
    done = subprocess.run(
        [BIN / "zizmor", "--offline", "--no-progress", bad], capture_output=True, text=True, timeout=120
    )
    assert done.returncode != 0


def test_the_schema_of_github_accepts_them() -> None:
    done = subprocess.run(
        [BIN / "check-jsonschema", "--builtin-schema", "vendor.github-workflows", *WORKFLOWS],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_actionlint_is_told_every_label_of_our_own_machines() -> None:
    printed = load_workflow(ROOT / ".github/actionlint.yaml")["self-hosted-runner"]["labels"]
    labels: set[str] = set()
    for path in WORKFLOWS:
        for job in load_workflow(path)["jobs"].values():
            asked = job.get("runs-on", [])
            labels |= set(asked if isinstance(asked, list) else [asked])
    labels = {label for label in labels if not label.startswith(("ubuntu-", "${{"))}
    assert labels - {"self-hosted", "linux", "x64"} == set(printed)
    assert labels == set(load_runners(ROOT / "runners")["b200"].labels)


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_every_workflow_is_safe_for_self_hosted_machines(path: Path) -> None:
    workflow = load_workflow(path)
    assert workflow["permissions"] == {}
    text = path.read_text()
    for line in text.splitlines():
        if "uses:" in line and "./.github" not in line:
            assert PINNED.search(line), line
    assert text.count("actions/checkout@") == text.count("persist-credentials: false")
    assert "pull_request_target" not in text
    events = workflow.get("on", workflow.get(True))
    for name, job in workflow["jobs"].items():
        assert "permissions" in job, name
        hosted = str(job.get("runs-on", "")).startswith("ubuntu-")
        writes = "write" in job["permissions"].values()
        assert hosted or not writes, f"{name}: a job that writes runs on a hosted runner"
        if not hosted:
            assert "pull_request" not in events, f"{name}: code of a fork would reach a self-hosted machine"
        if "steps" in job:
            assert "timeout-minutes" in job, name
        for step in job.get("steps", ()):
            assert "${{" not in step.get("run", ""), f"{name}: text of others never becomes part of a command"


def test_the_lane_is_only_called_from_vetted_branches_schedules_and_dispatches() -> None:
    callers = [load_workflow(path) for path in WORKFLOWS if "workflows/lane.yml" in path.read_text()]
    assert len(callers) == 2
    for workflow in callers:
        events = workflow.get("on", workflow.get(True))
        assert set(events) <= {"push", "workflow_dispatch", "schedule"}
        assert events.get("push", {}).get("branches", ["pull-request/[0-9]+"]) == ["pull-request/[0-9]+"]


def test_hosted_jobs_install_all_that_the_command_imports() -> None:
    installed = closure(set(HOSTED))
    code = (
        "import sys; before = set(sys.modules); import harness.cli.app, importlib.metadata as m;"
        "names = {n.partition('.')[0] for n in set(sys.modules) - before}; d = m.packages_distributions();"
        "print(*sorted({x for n in names for x in d.get(n, [])}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert "typer" in done.stdout
    assert {canonicalize_name(name) for name in done.stdout.split()} - {"quantgate"} <= installed


def closure(names: set[str]) -> set[str]:
    """Distributions that installing ``names`` brings, by the metadata of this environment."""
    found: set[str] = set()
    while names:
        name = canonicalize_name(names.pop())
        if name not in found:
            found.add(name)
            needed = (Requirement(text) for text in metadata.requires(name) or ())
            names |= {one.name for one in needed if one.marker is None or one.marker.evaluate({"extra": ""})}
    return found


@pytest.fixture
def pushed(project: Project) -> Project:
    """A repository with an origin, as a checkout in a job has it."""
    project.git("init", "-q", "-b", "main")
    project.git("add", ".")
    project.git("commit", "-q", "-m", "base")
    project.git("update-ref", "refs/remotes/origin/main", "HEAD")
    return project


def drive(project: Project, tmp_path: Path, lost: set[int]) -> tuple[Runner, dict[str, dict[str, int]], Path]:
    """Plan, shards and merge, each job in its own checkout; the machines of ``lost`` never report back."""
    (tmp_path / "artifacts").mkdir()
    runner = Runner(
        load_workflow(ROOT / ".github/workflows/lane.yml"),
        {
            "inputs.runner": "cpu",
            "inputs.shards": 3,
            "inputs.base": "main",
            "inputs.folder": ".",
            "vars.QUANTGATE_HF_HOME || '/models/huggingface'": str(tmp_path),
        },
        clean(project.environment()),
        tmp_path / "artifacts",
    )

    def checkout(name: str) -> Path:
        shutil.copytree(project.root, tmp_path / name, symlinks=True)
        return tmp_path / name

    codes = {"plan": runner.job("plan", checkout("plan"))}
    runner.expressions["needs.plan.outputs.plan"] = runner.outputs["plan"]
    for row in matrix_of(runner.outputs):
        assert row["runs_on"] == ["ubuntu-24.04"]
        if row["index"] not in lost:
            codes[row["shard"]] = runner.job("shard", checkout(f"shard-{row['index']}"), row)
    codes["merge"] = runner.job("merge", checkout("merge"))
    return runner, codes, tmp_path / "artifacts" / "merged"


def outcomes(merged: Path) -> dict[str, str]:
    """Outcome by case."""
    return {case.case: case.outcome.value for case in Merged.read(merged / "merge.json").cases}


@pytest.mark.slow
def test_plan_three_shards_merge(pushed: Project, tmp_path: Path) -> None:
    pushed.write_cases({"a1": ("m1", "pass"), "a2": ("m1", "pass"), "b": ("m2", "pass"), "c": ("m3", "pass")}, "cpu")
    runner, codes, merged = drive(pushed, tmp_path, set())
    for job in codes.values():
        assert {name: code for name, code in job.items() if name != "Report"} == dict.fromkeys(
            (name for name in job if name != "Report"), 0
        )
    assert outcomes(merged) == dict.fromkeys(("a1", "a2", "b", "c"), "pass")
    assert "added" in runner.summary
    assert (merged / "junit.xml").read_text().count("<testcase") == 4
    assert json.loads((merged / "history.json").read_text())["runners"]["cpu"]["a1"]["seconds"]


def test_a_failing_a_crashing_and_a_missing_shard(pushed: Project, tmp_path: Path) -> None:
    cases: dict[str, Any] = {
        "bad": ("m1", "fail"),
        "good": ("m2", "pass"),
        "crash": ("m2", "crash"),
        "lost": ("m3", "pass"),
    }
    pushed.write_cases(cases, "cpu")
    expected = Plan.read(_planned(pushed))
    shard = {case.case: case.shard for case in expected.cases}
    runner, codes, merged = drive(pushed, tmp_path, {shard["lost"]})
    assert codes[f"{shard['bad']}/3"]["Run"] == 10
    assert codes[f"{shard['crash']}/3"]["Run"] != 0
    assert codes["merge"]["Merge"] == 10
    assert outcomes(merged) == {"bad": "regression", "good": "pass", "crash": "not_run", "lost": "not_run"}
    assert "2 not_run" in runner.summary
    junit = (merged / "junit.xml").read_text()
    assert junit.count('type="not_run"') == 2
    pids = [int(text) for file in tmp_path.glob("shard-*/runs/*/*/pids") for text in file.read_text().split()]
    assert len(pids) >= 2
    assert alive(pids) == []


def _planned(project: Project) -> Path:
    done = project.run("quantgate", "plan", "--runner", "cpu", "--shards", "3", "--out", "expected.json")
    assert done.returncode == 0, done.stderr
    return project.root / "expected.json"


def test_a_removed_case_stops_the_lane_before_a_gpu_is_asked_for(pushed: Project, tmp_path: Path) -> None:
    pushed.write_cases({"one": ("m1", "pass"), "two": ("m2", "pass")}, "cpu")
    pushed.git("add", ".")
    pushed.git("commit", "-q", "-m", "cases")
    pushed.git("update-ref", "refs/remotes/origin/main", "HEAD")
    pushed.write_cases({"one": ("m1", "pass")}, "cpu")
    (tmp_path / "artifacts").mkdir()
    runner = Runner(
        load_workflow(ROOT / ".github/workflows/lane.yml"),
        {"inputs.runner": "cpu", "inputs.shards": 3, "inputs.base": "main", "inputs.folder": "."},
        clean(pushed.environment()),
        tmp_path / "artifacts",
    )
    assert runner.job("plan", pushed.root) == {"Plan": 17}
    assert "NONE GIVEN" in runner.summary


def test_a_planned_case_that_was_not_collected_ends_the_shard(project: Project) -> None:
    project.write_cases({"one": ("m1", "pass"), "two": ("m2", "pass")}, "cpu")
    _planned(project)
    project.write_cases({"one": ("m1", "pass")}, "cpu")
    for workers in ((), ("-n", "1")):
        done = project.run("pytest", "--plan", "expected.json", *workers)
        assert done.returncode == 20, done.stdout + done.stderr
        assert "cases/lane.yaml::two" in done.stdout + done.stderr
