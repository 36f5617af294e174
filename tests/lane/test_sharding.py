"""``--plan`` and ``--shard``: what does not fit is refused before anything is collected."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from harness.lane.plan import Plan, PlannedCase
from harness.plugin.options import check_plan
from harness.plugin.sharding import read_shard, refuse_missing


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    """A plan of two shards with a case each, written to ``plan.json``."""
    cases = tuple(
        PlannedCase(
            case=name,
            node=f"cases/a.yaml::{name}",
            engine=name,
            request="",
            shard=shard,
            seconds=1,
            load=1,
            measured=True,
        )
        for shard, name in ((1, "a"), (2, "b"))
    )
    made = Plan(id="p", runner="b200", labels=("gpu",), shards=2, makespan=1, lower_bound=1, cases=cases)
    made = made.model_copy(update={"id": made.digest()})
    made.write(tmp_path / "plan.json")
    return made


def config(folder: Path, **options: str | None) -> pytest.Config:
    """As much of pytest's configuration as is asked for."""
    printed: dict[str, Any] = {"plan": "plan.json", "shard": None, "runner": None, **options}
    made = SimpleNamespace(getoption=printed.get, invocation_params=SimpleNamespace(dir=folder))
    return cast("pytest.Config", made)


def test_one_shard_and_all_of_it(tmp_path: Path, plan: Plan) -> None:
    second = read_shard(config(tmp_path, shard="2/2"))
    assert second is not None
    assert [case.case for case in second.planned] == ["b"]
    whole = read_shard(config(tmp_path, runner="b200"))
    assert whole is not None
    assert whole.plan == plan
    assert whole.missing({"cases/a.yaml::b", "cases/other.yaml::x"}) == ["cases/a.yaml::a"]
    assert read_shard(config(tmp_path, plan=None)) is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"plan": None, "shard": "1/2"}, "needs --plan"),
        ({"plan": "absent.json"}, "not a plan"),
        ({"shard": "4/2"}, "has 2 shards"),
        ({"shard": "1/3"}, "has 2 shards"),
        ({"shard": "1of2"}, "write it as 2/4"),
        ({"shard": "0/2"}, "write it as 2/4"),
        ({"runner": "h200"}, "is for runner b200"),
    ],
)
def test_what_does_not_fit(tmp_path: Path, plan: Plan, options: dict[str, str | None], message: str) -> None:
    with pytest.raises(pytest.UsageError, match=message):
        read_shard(config(tmp_path, **options))


def test_a_missing_case_ends_the_run_with_its_own_code(tmp_path: Path, plan: Plan) -> None:
    shard = read_shard(config(tmp_path))
    assert shard is not None
    refuse_missing([], shard)
    with pytest.raises(pytest.exit.Exception) as ended:
        refuse_missing(["cases/a.yaml::a"], shard)
    assert ended.value.returncode == 20
    assert "cases/a.yaml::a" in str(ended.value)


def started(folder: Path, *arguments: str) -> pytest.Config:
    """As much of pytest's configuration as how it was called."""
    return cast("pytest.Config", SimpleNamespace(invocation_params=SimpleNamespace(dir=folder, args=arguments)))


@pytest.mark.parametrize("file", ["{outside}/plan.json", "../plan.json", "in/../../plan.json"])
def test_a_plan_elsewhere_needs_the_equals_sign(tmp_path: Path, file: str) -> None:
    """With a space pytest itself has taken it for a test, and its folder for the project."""
    (root := tmp_path / "project").mkdir()
    file = file.format(outside=tmp_path)
    with pytest.raises(pytest.UsageError, match=f"next: .*--plan={file}"):
        check_plan(started(root, "--plan", file, "--shard", "1/2"))
    check_plan(started(root, f"--plan={file}", "--shard", "1/2"))


@pytest.mark.parametrize("file", ["plan.json", "in/plan.json", "{root}/plan.json"])
def test_a_plan_of_the_project_may_follow_a_space(tmp_path: Path, file: str) -> None:
    check_plan(started(tmp_path, "--plan", file.format(root=tmp_path)))


def test_pytest_says_so_before_it_collects(tmp_path: Path, plan: Plan) -> None:
    (root := tmp_path / "project").mkdir()
    (root / "pytest.ini").write_text("[pytest]\n")
    (root / "test_one.py").write_text("raise SystemError\n")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--plan", str(tmp_path / "plan.json"), "--shard", "1/2"],
        cwd=root,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, "SystemError" in done.stdout) == (4, False), done.stdout
    assert f"--plan={tmp_path / 'plan.json'}" in done.stderr
