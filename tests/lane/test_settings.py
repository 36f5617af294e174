"""`quantgate doctor --lane`: each setting that protects, and each way in which it does not, against a fake `gh`.

The answers have the fields of GitHub's published REST schema (https://github.com/github/rest-api-description).
"""

from __future__ import annotations

import copy
import json
import os
import re
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.cli import lane
from harness.errors import InfraError, InvalidCaseError
from harness.lane import settings_checks
from harness.lane.settings_checks import check_callers, check_home, check_settings
from harness.machine.preflight import Check

GH = (
    f"#!{sys.executable} -IS\n"
    """
import json, os, sys
from pathlib import Path
home = Path(os.environ["FAKE_GH"])
assert sys.argv[1:4] == ["api", "--method", "GET"], sys.argv
answer = json.loads((home / "answers").read_text()).get(sys.argv[-1].partition("?")[0], 404)
if isinstance(answer, int):
    sys.exit(f"gh: refused (HTTP {answer})")
print(answer if isinstance(answer, str) else json.dumps(answer))
"""
)
ROOT = Path(__file__).parents[2]
LABELS = ("self-hosted", "linux", "x64", "gpu-b200")
REPO = "repos/acme/gate"
GROUPS = "orgs/acme/actions/runner-groups"
Answers = dict[str, Any]


def _runner(**changes: Any) -> dict[str, Any]:
    """`runner` of the schema."""
    labels = [{"id": number, "name": name, "type": "custom"} for number, name in enumerate(LABELS)]
    return {
        "id": 23,
        "runner_group_id": 5,
        "name": "b200-1",
        "os": "linux",
        "status": "online",
        "busy": False,
        "ephemeral": True,
        "labels": labels,
        **changes,
    }


def _group(**changes: Any) -> dict[str, Any]:
    """`runner-groups-org` of the schema."""
    return {
        "id": 5,
        "name": "gpu",
        "visibility": "selected",
        "default": False,
        "selected_repositories_url": "https://api.github.com/orgs/acme/actions/runner-groups/5/repositories",
        "runners_url": "https://api.github.com/orgs/acme/actions/runner-groups/5/runners",
        "inherited": False,
        "allows_public_repositories": True,
        "restricted_to_workflows": True,
        "selected_workflows": [
            "acme/gate/.github/workflows/lane.yml@refs/heads/main",
            "acme/gate/.github/workflows/regenerate.yml@" + "a" * 40,
        ],
        "workflow_restrictions_read_only": False,
        **changes,
    }


DEFAULT_GROUP = _group(id=1, name="Default", visibility="all", default=True, restricted_to_workflows=False)


def _sound() -> Answers:
    """Every answer of a repository whose settings protect."""
    rule = {"ruleset_source_type": "Repository", "ruleset_source": "acme/gate", "ruleset_id": 42}
    return {
        REPO: {"default_branch": "main", "private": False, "owner": {"login": "acme", "type": "Organization"}},
        f"{REPO}/actions/permissions/fork-pr-contributor-approval": {"approval_policy": "all_external_contributors"},
        f"{REPO}/actions/permissions/workflow": {
            "default_workflow_permissions": "read",
            "can_approve_pull_request_reviews": True,
        },
        f"{REPO}/actions/permissions": {"enabled": True, "allowed_actions": "all", "sha_pinning_required": True},
        f"{REPO}/actions/runners": {"total_count": 0, "runners": []},
        GROUPS: {"total_count": 2, "runner_groups": [DEFAULT_GROUP, _group()]},
        f"{GROUPS}/1/runners": {"total_count": 0, "runners": []},
        f"{GROUPS}/5/runners": {"total_count": 1, "runners": [_runner()]},
        f"{GROUPS}/5/repositories": {"total_count": 1, "repositories": [{"id": 77, "full_name": "acme/gate"}]},
        f"{REPO}/environments/regenerate": {
            "id": 161088068,
            "name": "regenerate",
            "protection_rules": [
                {
                    "id": 3736,
                    "type": "required_reviewers",
                    "prevent_self_review": True,
                    "reviewers": [{"type": "Team", "reviewer": {"id": 1, "slug": "keepers"}}],
                },
                {"id": 3755, "type": "branch_policy"},
            ],
            "deployment_branch_policy": {"protected_branches": True, "custom_branch_policies": False},
        },
        f"{REPO}/rules/branches/pull-request%2F1": [{"type": kind, **rule} for kind in ("creation", "update")],
        f"{REPO}/rules/branches/main": [
            {"type": kind, **rule} for kind in ("pull_request", "deletion", "non_fast_forward")
        ],
    }


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch) -> Callable[[Answers], tuple[Check, ...]]:
    """Looks at a repository whose settings are these, without a process a question."""

    def look(answers: Answers) -> tuple[Check, ...]:
        asked: list[str] = []

        def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
            assert command[:4] == ["gh", "api", "--method", "GET"]
            asked.append(command[-1])
            path, _, query = command[-1].partition("?")
            number = re.search(r"(?:^|&)page=([0-9]+)", query)
            answer = answers.get(path, 404)
            if number and int(number[1]) > 1 and not isinstance(answer, int):
                answer = answers.get(f"{path}#{number[1]}", {})
            if isinstance(answer, int):
                return subprocess.CompletedProcess(command, 1, "", f"gh: refused (HTTP {answer})")
            return subprocess.CompletedProcess(
                command, 0, answer if isinstance(answer, str) else json.dumps(answer), ""
            )

        with monkeypatch.context() as patch:
            patch.setattr(settings_checks.subprocess, "run", run)
            checks = check_settings("acme/gate", LABELS)
        assert len(asked) == len(set(asked))
        return checks

    return look


def _fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answers: Answers | None = None) -> None:
    """Put a `gh` first in PATH that gives these answers."""
    home = tmp_path / "gh"
    home.mkdir(exist_ok=True)
    (home / "gh").write_text(GH)
    (home / "gh").chmod(0o755)
    (home / "answers").write_text(json.dumps(answers or {}))
    monkeypatch.setenv("PATH", f"{home}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("FAKE_GH", str(home))


Look = Callable[[Answers], tuple[Check, ...]]


def test_settings_that_protect_are_fit(settings: Look) -> None:
    checks = settings(_sound())
    assert [check for check in checks if check.state != "fit"] == []
    assert {check.name for check in checks} == {
        "fork_approval",
        "default_token",
        "allowed_actions",
        "repository_runners",
        "runner_group",
        "group_workflows",
        "group_repositories",
        "ephemeral",
        "environment",
        "environment_review",
        "environment_branches",
        "branch_rules",
    }


def _put(path: str, **changes: Any) -> Callable[[Answers], None]:
    def act(answers: Answers) -> None:
        answers[path] = {**answers[path], **changes} if isinstance(answers[path], dict) else changes

    return act


def _groups(*groups: dict[str, Any]) -> Callable[[Answers], None]:
    return _put(GROUPS, total_count=len(groups), runner_groups=list(groups))


def _rules(branch: str, *kinds: str) -> Callable[[Answers], None]:
    def act(answers: Answers) -> None:
        answers[f"{REPO}/rules/branches/{branch}"] = [{"type": kind} for kind in kinds]

    return act


def _on_page_two(path: str, **second: Any) -> Callable[[Answers], None]:
    """Give a list whose rows do not fit one page; ``second`` is the second page."""

    def act(answers: Answers) -> None:
        (key,) = second
        rows = answers[path][key] or [_runner(labels=[])]
        answers[path] = {"total_count": len(rows) + len(second[key]), key: rows}
        answers[f"{path}#2"] = {"total_count": len(rows) + len(second[key]), **second}

    return act


def _custom(*names: str) -> Callable[[Answers], None]:
    """Give the environment branch patterns of its own."""

    def act(answers: Answers) -> None:
        environment = f"{REPO}/environments/regenerate"
        policy = {"protected_branches": False, "custom_branch_policies": True}
        answers[environment] = {**answers[environment], "deployment_branch_policy": policy}
        rows = [{"id": number, "name": name} for number, name in enumerate(names)]
        answers[f"{environment}/deployment-branch-policies"] = {"total_count": len(rows), "branch_policies": rows}

    return act


LANE = "acme/gate/.github/workflows/lane.yml@"


@pytest.mark.parametrize(
    ("change", "name", "message", "command"),
    [
        (
            _put(f"{REPO}/actions/permissions/fork-pr-contributor-approval", approval_policy="first_time_contributors"),
            "fork_approval",
            "without approval",
            "-f approval_policy=all_external_contributors",
        ),
        (
            _put(f"{REPO}/actions/permissions/workflow", default_workflow_permissions="write"),
            "default_token",
            "may write",
            "-f default_workflow_permissions=read",
        ),
        (
            _put(f"{REPO}/actions/permissions", sha_pinning_required=False),
            "allowed_actions",
            "a tag that its owner can move",
            "sha_pinning_required=true",
        ),
        (
            _put(f"{REPO}/actions/runners", runners=[_runner(name="loose")]),
            "repository_runners",
            "loose is registered at the repository",
            "--method DELETE repos/acme/gate/actions/runners/23",
        ),
        (
            _groups(_group(visibility="all")),
            "runner_group",
            "open to other repositories",
            "--method PATCH orgs/acme/actions/runner-groups/5 -f visibility=selected",
        ),
        (
            _groups(_group(restricted_to_workflows=False)),
            "group_workflows",
            "any workflow file",
            f"-F restricted_to_workflows=true -f 'selected_workflows[]={LANE}refs/heads/main'",
        ),
        (_groups(_group(selected_workflows=[f"{LANE}refs/heads/*"])), "group_workflows", "not a file", "PATCH"),
        (_groups(_group(selected_workflows=[f"{LANE}pull-request/1"])), "group_workflows", "not a file", "PATCH"),
        (
            _groups(_group(selected_workflows=["evil/gate/.github/workflows/lane.yml@main"])),
            "group_workflows",
            "not a file",
            "PATCH",
        ),
        (
            _groups(_group(selected_workflows=["acme/gate/.github/workflows/ci.yml@main"])),
            "group_workflows",
            "not a file of the lane",
            "PATCH",
        ),
        (
            _put(f"{GROUPS}/5/repositories", repositories=[{"full_name": "acme/gate"}, {"full_name": "acme/toys"}]),
            "group_repositories",
            "also serves acme/toys",
            "--method PUT orgs/acme/actions/runner-groups/5/repositories",
        ),
        (
            _put(f"{GROUPS}/5/repositories", total_count=3),
            "group_repositories",
            "1 of 3 rows arrived",
            "runner-groups/5/repositories",
        ),
        (
            _on_page_two(f"{REPO}/actions/runners", runners=[_runner(name="loose")]),
            "repository_runners",
            "loose is registered at the repository",
            "--method DELETE",
        ),
        (
            _on_page_two(f"{GROUPS}/5/runners", runners=[_runner(name="old", ephemeral=False)]),
            "ephemeral",
            "runner old takes one job after another",
            "docs/lane.md",
        ),
        (
            _on_page_two(GROUPS, runner_groups=[_group(name="second", restricted_to_workflows=False)]),
            "group_workflows",
            "'second' takes jobs of any workflow file",
            "PATCH",
        ),
        (_custom("main", "*"), "environment_branches", "may be used from *, main", "protected_branches"),
        (
            _put(
                f"{REPO}/environments/regenerate",
                deployment_branch_policy={"protected_branches": False, "custom_branch_policies": False},
            ),
            "environment_branches",
            "any branch",
            "protected_branches",
        ),
        (
            _put(
                f"{REPO}/environments/regenerate",
                protection_rules=[
                    {"type": "required_reviewers", "prevent_self_review": False, "reviewers": [{"type": "Team"}]}
                ],
            ),
            "environment_review",
            "may also release it",
            "prevent_self_review",
        ),
        (_groups(DEFAULT_GROUP), "runner_group", "no runner group", "--method POST orgs/acme/actions/runner-groups"),
        (
            _put(f"{GROUPS}/1/runners", runners=[_runner(name="in-default")]),
            "group_workflows",
            "'Default' takes jobs of any workflow file",
            "runner-groups/1",
        ),
        (
            _put(f"{GROUPS}/5/runners", runners=[_runner(ephemeral=False)]),
            "ephemeral",
            "one job after another",
            "docs/lane.md",
        ),
        (_put(f"{GROUPS}/5/runners", runners=[_runner(ephemeral=None)]), "ephemeral", "one job", "docs/lane.md"),
        (
            _put(f"{REPO}/environments/regenerate", protection_rules=[{"id": 1, "type": "wait_timer"}]),
            "environment",
            "asks nobody",
            "--method PUT repos/acme/gate/environments/regenerate",
        ),
        (
            _put(f"{REPO}/environments/regenerate", deployment_branch_policy=None),
            "environment_branches",
            "any branch",
            "protected_branches",
        ),
        (
            _rules("pull-request%2F1", "update"),
            "branch_rules",
            "no rule creation",
            "--method POST repos/acme/gate/rulesets",
        ),
        (_rules("main", "deletion"), "branch_rules", "no rule pull_request, non_fast_forward", "rulesets"),
        (
            _put(REPO, owner={"login": "acme", "type": "User"}),
            "runner_group",
            "only organizations have runner groups",
            "organization",
        ),
    ],
)
def test_a_setting_that_does_not_protect_is_named_with_its_command(
    settings: Look, change: Callable[[Answers], None], name: str, message: str, command: str
) -> None:
    answers = copy.deepcopy(_sound())
    change(answers)
    bad = [check for check in settings(answers) if check.state != "fit"]
    assert name in {check.name for check in bad}
    assert any(message in check.message and command in check.remedy for check in bad if check.name == name), bad
    assert len({check.name for check in bad}) <= 2


def test_branch_patterns_of_the_environment_that_name_main_only_are_fit(settings: Look) -> None:
    answers = copy.deepcopy(_sound())
    _custom("main")(answers)
    assert [check for check in settings(answers) if check.state != "fit"] == []


@pytest.mark.parametrize("status", [403, 404])
def test_a_setting_that_may_not_be_read_is_not_green(settings: Look, status: int) -> None:
    for path in _sound():
        answers = _sound()
        answers[path] = status
        bad = [check for check in settings(answers) if check.state == "unfit"]
        assert bad, path
        assert all(check.remedy for check in bad)


def test_a_private_repository_is_asked_another_question(settings: Look) -> None:
    answers = _sound()
    path = f"{REPO}/actions/permissions/fork-pr-workflows-private-repos"
    answers[REPO]["private"] = True
    answers[path] = {
        "run_workflows_from_fork_pull_requests": True,
        "send_write_tokens_to_workflows": False,
        "send_secrets_and_variables": False,
        "require_approval_for_fork_pr_workflows": False,
    }
    (check,) = [check for check in settings(answers) if check.state == "unfit"]
    assert check.name == "fork_approval"
    answers[path]["require_approval_for_fork_pr_workflows"] = True
    assert all(check.state == "fit" for check in settings(answers))


def test_a_runner_for_other_jobs_is_nobodys_business(settings: Look) -> None:
    answers = _sound()
    answers[f"{REPO}/actions/runners"]["runners"] = [_runner(labels=[{"id": 1, "name": "docs", "type": "custom"}])]
    assert all(check.state == "fit" for check in settings(answers))


def test_commands_are_commands(settings: Look) -> None:
    """Every command parses as shell, and what is piped into `gh` is JSON."""
    answers: Answers = dict.fromkeys(_sound(), 404)
    answers[REPO] = _sound()[REPO]
    answers[GROUPS] = {"total_count": 0, "runner_groups": []}
    answers[f"{REPO}/rules/branches/main"] = []
    for check in settings(answers):
        command = check.remedy.rpartition("or set it: ")[2].partition("   (")[0].partition(", and ")[0]
        if "gh api" not in command or ", then" in command:
            continue
        assert subprocess.run(["bash", "-n", "-c", command], check=False).returncode == 0, command
        if command.startswith("echo "):
            echoed = command.partition(" | gh api")[0]
            json.loads(subprocess.run(["bash", "-c", echoed], capture_output=True, text=True, check=True).stdout)


def test_the_commands_of_the_page_parse_as_shell_and_send_json() -> None:
    page = (ROOT / "docs/lane.md").read_text()
    blocks = [textwrap.dedent(block) for block in re.findall(r"^ *```\n(.*?)^ *```$", page, re.DOTALL | re.MULTILINE)]
    commands = [block for block in blocks if "──" not in block]
    assert len(commands) >= 6
    for block in commands:
        done = subprocess.run(["bash", "-n"], input=block, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{done.stderr}\n{block}"
    bodies = re.findall(r"echo '(\{.*?\})' \|", "\n".join(commands), re.DOTALL)
    assert len(bodies) == 3
    for body in bodies:
        json.loads(body.replace("TEAM_ID", "1"))


def test_a_broken_gh_is_one_sentence(settings: Look, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InfraError, match="no JSON"):
        settings({REPO: "<html>"})
    _fake(tmp_path, monkeypatch)
    (tmp_path / "gh/gh").write_text(
        "#!/bin/sh\necho 'gh: To get started with GitHub CLI, please run: gh auth login' >&2; exit 4\n"
    )
    with pytest.raises(InfraError, match="gh auth login"):
        check_settings("acme/gate", LABELS)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InfraError, match="gh did not run"):
        check_settings("acme/gate", LABELS)
    with pytest.raises(InvalidCaseError, match="no owner/name"):
        check_settings("acme/gate/../x", LABELS)


def test_the_command_prints_and_fails(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RUNNER_ENVIRONMENT", raising=False)
    root = tmp_path / "checkout"
    shutil.copytree(ROOT / "runners", root / "runners")
    shutil.copytree(ROOT / ".github", root / ".github")
    (root / "cases").mkdir()
    for path in (root / ".github/workflows").glob("*.yml"):
        path.write_text(re.sub(r"uses: \./(\S+lane.yml).*", r"uses: acme/gate/\1@main", path.read_text()))
    _fake(tmp_path, monkeypatch, _sound())
    assert lane.doctor_command(root=root, runner="b200", repo="acme/gate", lane=True) == 0
    answers = _sound()
    answers[f"{REPO}/actions/permissions/workflow"]["default_workflow_permissions"] = "write"
    _fake(tmp_path, monkeypatch, answers)
    capsys.readouterr()
    assert lane.doctor_command(root=root, runner="b200", repo="acme/gate", lane=True, out=tmp_path / "o.json") == 18
    assert "next: gh api --method PUT" in capsys.readouterr().out
    assert json.loads((tmp_path / "o.json").read_text())["runner"] == "b200"


def test_a_lane_that_no_restricted_group_would_take_is_named_with_a_command_that_mends_it(tmp_path: Path) -> None:
    shutil.copytree(ROOT / ".github", tmp_path / ".github")
    nightly = tmp_path / ".github/workflows/nightly.yml"  # quotation marks hide nothing
    nightly.write_text(re.sub(r"uses: (\./\S+lane.yml).*", r'uses:  "\1"', nightly.read_text()))
    checks = list(check_callers(tmp_path, "acme/gate"))
    assert {Path(check.actual.partition(":")[0]).name for check in checks} == {"b200.yml", "nightly.yml"}
    for check in checks:
        subprocess.run(["bash", "-c", check.remedy], cwd=tmp_path, check=True)
    assert list(check_callers(tmp_path, "acme/gate")) == []
    text = (tmp_path / ".github/workflows/b200.yml").read_text()
    assert "uses: acme/gate/.github/workflows/lane.yml@main\n" in text


def test_the_home_of_a_self_hosted_runner_is_clean_or_named(tmp_path: Path) -> None:
    environ = {"RUNNER_ENVIRONMENT": "self-hosted", "HOME": str(tmp_path)}
    assert [check.state for check in check_home(environ)] == ["fit"]
    (tmp_path / ".gitconfig").touch()
    (tmp_path / ".config/pip").mkdir(parents=True)
    checks = list(check_home(environ))
    assert [(check.state, Path(check.actual).name) for check in checks] == [("unfit", ".gitconfig"), ("unfit", "pip")]
    assert "hooks" in checks[0].message
    assert list(check_home({**environ, "RUNNER_ENVIRONMENT": "github-hosted"})) == []
