"""Check whether GitHub's settings protect the lane's machines: a workflow file cannot state them.

A pull request that edits a workflow runs its own version of the file, so no `if:` in a workflow protects a machine.
These settings do: who may start a run (approval), which workflow files at which ref a runner group takes jobs of,
whether a machine lives for one job only, who may write the branches that reach it, and who releases the job that
measures goldens. All of them are read through `gh`; nothing is changed. Fields and paths are those of GitHub's REST
schema (https://github.com/github/rest-api-description).
"""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from harness.errors import InfraError, InvalidCaseError
from harness.machine.preflight import Check
from harness.reading import UnreadableError, parse_foreign, read_text

ENVIRONMENT = "regenerate"
"""Name of the GitHub environment of the job that measures goldens."""
COPY = "pull-request/1"
"""Example of a branch that reaches a GPU; `b200.yml` shows the pattern."""
REACHING = ("lane.yml", "regenerate.yml")
"""Workflow files whose jobs run on the lane's machines."""
SECONDS = 60.0
MOST_PAGES = 20
"""Pages of 100 rows that are read of one list."""
_REPOSITORY = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]*/[A-Za-z0-9_.-]+")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_LOCAL_LANE = re.compile(r"uses *: *.?[.]/[.]github/workflows/lane[.]yml")  # with or without a quotation mark
_HTTP = re.compile(r"\(HTTP (\d{3})\)")


@dataclass(frozen=True)
class Answer:
    """GitHub's answer to one request: the JSON, or the HTTP status of the refusal with its error text."""

    data: Any = None
    status: int = 200
    message: str = ""


@dataclass
class GitHub:
    """Read one repository's settings through `gh api`; request each path once."""

    repository: str
    _answers: dict[str, Answer] = field(default_factory=dict)

    def get(self, path: str) -> Answer:
        """Return the answer to GET ``path``.

        Raises:
            InfraError: `gh` is not installed, does not answer in time, or returns a text that is not JSON.
        """
        if path not in self._answers:
            self._answers[path] = self._ask(path)
        return self._answers[path]

    def rows(self, path: str, key: str) -> Answer:
        """Return the answer with every row of a list that GitHub gives page by page: a later page may hold the fault.

        A list whose pages hold fewer rows than GitHub counts is an answer that could not be read.

        Raises:
            InfraError: as `get`.
        """
        rows: list[dict[str, Any]] = []
        total: Any = None
        for page in range(1, MOST_PAGES + 1):
            answer = self.get(f"{path}{'&' if '?' in path else '?'}per_page=100&page={page}")
            if answer.status != 200:
                return answer
            page_rows = _rows(answer, key)
            rows += page_rows
            total = _of(answer, "total_count") if page == 1 else total
            # without a count, a page that is not full is the last
            if len(rows) >= total if isinstance(total, int) else len(page_rows) < 100:
                return Answer({key: rows})
            if not page_rows:
                break
        return Answer(status=206, message=f"{len(rows)} of {total} rows arrived")

    def _ask(self, path: str) -> Answer:
        command = ["gh", "api", "--method", "GET", "-H", "X-GitHub-Api-Version: 2022-11-28", path]
        try:
            completed = subprocess.run(
                command, capture_output=True, encoding="utf-8", errors="replace", check=False, timeout=SECONDS
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise InfraError(
                f"gh did not run: {error}",
                kind="crash",
                remedy="install gh (https://cli.github.com), then gh auth login",
            ) from error
        if completed.returncode:
            status = _HTTP.search(completed.stderr)
            if status is None:  # without an HTTP status GitHub was not reached: the network or gh itself failed
                problem = " ".join(completed.stderr.split())[:300] or f"exit status {completed.returncode}"
                raise InfraError(f"gh failed: {problem}", kind="download", remedy="gh auth status")
            return Answer(status=int(status[1]), message=" ".join(completed.stderr.split())[:200])
        try:
            return Answer(parse_foreign(completed.stdout, path))
        except UnreadableError as error:
            raise InfraError(
                f"gh answered with no JSON for {path}", kind="protocol", remedy=f"gh api {path}"
            ) from error


def check_settings(repository: str, labels: Sequence[str]) -> tuple[Check, ...]:
    """Check every setting that protects the machines of one runner.

    Args:
        repository: ``owner/name``.
        labels: labels of the runner's profile; a machine that has all of them takes the lane's jobs.

    Returns:
        One check per setting; a setting that this token may not read is ``unfit``: protection must be verified.

    Raises:
        InvalidCaseError: ``repository`` is not ``owner/name``.
        InfraError: `gh` failed.
    """
    if not _REPOSITORY.fullmatch(repository):
        raise InvalidCaseError(f"{repository!r} is no owner/name", place="--repo", remedy="--repo owner/name")
    github = GitHub(repository)
    about = github.get(f"repos/{repository}")
    # Without the repository itself no other setting can be read.
    if about.status != 200 or not isinstance(about.data, dict):
        return (_unread("repository", about, f"gh api repos/{repository}"),)
    branch = str(about.data.get("default_branch") or "main")
    organization = (about.data.get("owner") or {}).get("type") == "Organization"
    return (
        _approval(github, private=bool(about.data.get("private"))),
        *_token(github),
        *_actions(github),
        *_own_runners(github, labels),
        *(_groups(github, branch, labels) if organization else [_no_groups(repository)]),
        *_environment(github, branch),
        *_branches(github, branch),
    )


def _approval(github: GitHub, *, private: bool) -> Check:
    """Check who needs a maintainer's approval before a workflow of a fork's pull request runs at all."""
    name, base = "fork_approval", f"repos/{github.repository}/actions/permissions"
    # GitHub has one setting for private repositories and another for public ones.
    if private:
        path, wanted = f"{base}/fork-pr-workflows-private-repos", "run_workflows_from_fork_pull_requests: false"
        command = f"gh api --method PUT {path} -F run_workflows_from_fork_pull_requests=false"
        answer = github.get(path)
        if answer.status != 200:
            return _unread(name, answer, command)
        runs = _of(answer, "run_workflows_from_fork_pull_requests")
        requires_approval = _of(answer, "require_approval_for_fork_pr_workflows")
        fine = runs is False or requires_approval is True
        actual = f"run_workflows_from_fork_pull_requests: {_shown(runs)}"
        return _check(name, fine, actual, wanted, "pull requests of forks run workflows without approval", command)
    path = f"{base}/fork-pr-contributor-approval"
    command = f"gh api --method PUT {path} -f approval_policy=all_external_contributors"
    answer = github.get(path)
    if answer.status != 200:
        return _unread(name, answer, command)
    policy = _of(answer, "approval_policy")
    message = "a person with one merged pull request runs workflows of a fork without approval, edited ones too"
    return _check(
        name, policy == "all_external_contributors", str(policy), "all_external_contributors", message, command
    )


def _token(github: GitHub) -> Iterator[Check]:
    path = f"repos/{github.repository}/actions/permissions/workflow"
    command = f"gh api --method PUT {path} -f default_workflow_permissions=read"
    answer = github.get(path)
    if answer.status != 200:
        yield _unread("default_token", answer, command)
        return
    permissions = _of(answer, "default_workflow_permissions")
    message = "a job that states no permissions gets a token that may write"
    yield _check("default_token", permissions == "read", str(permissions), "read", message, command)


def _actions(github: GitHub) -> Iterator[Check]:
    path = f"repos/{github.repository}/actions/permissions"
    command = f"gh api --method PUT {path} -F enabled=true -f allowed_actions=all -F sha_pinning_required=true"
    answer = github.get(path)
    if answer.status != 200:
        yield _unread("allowed_actions", answer, command)
        return
    pinned, allowed = _of(answer, "sha_pinning_required"), _of(answer, "allowed_actions")
    present_state = f"allowed_actions: {allowed}, sha_pinning_required: {_shown(pinned)}"
    message = f"{present_state}: a workflow may use any action at a tag that its owner can move"
    fine = pinned is True or allowed in ("local_only",)
    yield _check(
        "allowed_actions", fine, present_state, "sha_pinning_required: true", message, command, state="warning"
    )


def _own_runners(github: GitHub, labels: Sequence[str]) -> Iterator[Check]:
    """Report the repository's own runners: they are in no group, so any workflow of any branch reaches them."""
    path = f"repos/{github.repository}/actions/runners"
    answer = github.rows(path, "runners")
    if answer.status != 200:
        yield _unread("repository_runners", answer, f"gh api {path}")
        return
    matching = [runner for runner in _rows(answer, "runners") if _takes(runner, labels)]
    if not matching:
        yield Check(name="repository_runners", state="fit", actual="none with the lane's labels")
    for runner in matching:
        yield Check(
            name="repository_runners",
            state="unfit",
            actual=_name(runner),
            wanted="a runner group of the organization",
            message=f"runner {_name(runner)} is registered at the repository: no group keeps a workflow away from it",
            remedy=f"gh api --method DELETE {path}/{_number(runner)}, and register it in a runner group",
        )


def _no_groups(repository: str) -> Check:
    owner = repository.partition("/")[0]
    return Check(
        name="runner_group",
        state="unfit",
        actual=f"{owner} is a user",
        wanted="an organization",
        message=f"{owner} is a user, and only organizations have runner groups that keep edited workflows away",
        remedy="move the repository into an organization, or let the lane run on hosted runners only",
    )


def _groups(github: GitHub, branch: str, labels: Sequence[str]) -> Iterator[Check]:
    organization, _, name = github.repository.partition("/")
    path = f"orgs/{organization}/actions/runner-groups"
    answer = github.rows(f"{path}?visible_to_repository={quote(name)}", "runner_groups")
    if answer.status != 200:
        yield _unread("runner_group", answer, f"gh auth refresh -s admin:org, then gh api {path}")
        return
    judged = 0
    for group in _rows(answer, "runner_groups"):
        number = _number(group)
        runners = github.rows(f"{path}/{number}/runners", "runners")
        rows = [runner for runner in _rows(runners, "runners") if _takes(runner, labels)]
        if group.get("default") and runners.status == 200 and not rows:
            continue  # every organization has the default group, and it holds no machine with the lane's labels
        judged += 1
        yield from _group(group, f"{path}/{number}", github.repository, branch)
        if group.get("visibility") == "selected":
            yield _group_repositories(github, str(group.get("name", "")), f"{path}/{number}")
        if runners.status != 200:
            yield _unread("ephemeral", runners, f"gh api {path}/{number}/runners")
        yield from (_ephemeral(runner) for runner in rows)
    if not judged:
        yield Check(
            name="runner_group",
            state="unfit",
            actual="none",
            wanted="a group for this repository",
            message="no runner group of the organization is open to this repository",
            remedy=_new_group(organization, github.repository, branch),
        )


def _group(group: Mapping[str, Any], path: str, repository: str, branch: str) -> Iterator[Check]:
    name = str(group.get("name", ""))
    command = f"gh api --method PATCH {path} -f visibility=selected"
    visibility = group.get("visibility")
    message = (
        f"group {name!r} is open to other repositories (visibility: {visibility}): their code reaches the machines"
    )
    yield _check("runner_group", visibility == "selected", f"{name}: {visibility}", "selected", message, command)
    restrict = f"gh api --method PATCH {path} -F restricted_to_workflows=true {_selected(repository, branch)}"
    chosen = [str(item) for item in group.get("selected_workflows") or ()]
    if group.get("restricted_to_workflows") is not True:
        message = f"group {name!r} takes jobs of any workflow file: a branch that edits one reaches the machines"
        yield _check("group_workflows", False, "restricted_to_workflows: false", "true", message, restrict)
        return
    # A ref that is neither the protected branch nor a commit can be moved to an edited workflow file.
    loose = [item for item in chosen if not _fixed(item, repository, branch)]
    files = " or ".join(REACHING)
    message = f"group {name!r} takes {', '.join(loose)}: not a file of the lane ({files}) at {branch} or at a commit"
    names = ", ".join(chosen) or "none"
    yield _check("group_workflows", not loose, names, f"workflows at refs/heads/{branch}", message, restrict)


def _group_repositories(github: GitHub, name: str, path: str) -> Check:
    """Check that the group serves this repository only.

    Another repository may call this lane at main with its own code, so restricting the workflow files does not keep
    it away.
    """
    check, repository = "group_repositories", github.repository
    about = github.get(f"repos/{repository}")
    command = f"gh api --method PUT {path}/repositories -F 'selected_repository_ids[]={_of(about, 'id') or 'ID'}'"
    answer = github.rows(f"{path}/repositories", "repositories")
    if answer.status != 200:
        return _unread(check, answer, command)
    names = sorted(str(row.get("full_name", "?")) for row in _rows(answer, "repositories"))
    others = [other for other in names if other.lower() != repository.lower()]
    message = (
        f"group {name!r} also serves {', '.join(others[:5])}: a person who may push there calls the lane with its code"
    )
    return _check(check, not others, ", ".join(names) or "none", repository, message, command)


def _fixed(workflow: str, repository: str, branch: str) -> bool:
    """Return whether ``owner/name/.github/workflows/file@ref`` is a file of the lane at ``branch`` or at a commit."""
    file, _, ref = workflow.partition("@")
    is_ours = file.lower() in {f"{repository}/.github/workflows/{name}".lower() for name in REACHING}
    return is_ours and (ref in (branch, f"refs/heads/{branch}") or _COMMIT.fullmatch(ref) is not None)


def _ephemeral(runner: Mapping[str, Any]) -> Check:
    name, lives = _name(runner), runner.get("ephemeral")
    return _check(
        "ephemeral",
        lives is True,
        f"{name}: ephemeral: {_shown(lives)}",
        "ephemeral: true",
        f"runner {name} takes one job after another: what a job leaves (files, processes, hooks) meets the next",
        "set it up again as docs/lane.md describes (a runner for one job: --jitconfig, or --ephemeral)",
    )


def _environment(github: GitHub, branch: str) -> Iterator[Check]:
    path = f"repos/{github.repository}/environments/{ENVIRONMENT}"
    body = json.dumps(
        {
            "prevent_self_review": True,
            "reviewers": [{"type": "Team", "id": 0}],
            "deployment_branch_policy": {"protected_branches": True, "custom_branch_policies": False},
        }
    )
    command = f"echo {shlex.quote(body)} | gh api --method PUT {path} --input -   (id: of your team)"
    answer = github.get(path)
    # 404 is a result here: GitHub creates an environment at its first use, without protection.
    if answer.status not in (200, 404):
        yield _unread("environment", answer, command)
        return
    rules = [rule for rule in (_of(answer, "protection_rules") or ()) if isinstance(rule, dict)]
    reviewed = any(rule.get("type") == "required_reviewers" and rule.get("reviewers") for rule in rules)
    present_state = "absent" if answer.status == 404 else f"reviewers: {'required' if reviewed else 'none'}"
    message = f"environment {ENVIRONMENT} asks nobody before goldens are measured on the machine"
    yield _check("environment", reviewed, present_state, "required reviewers", message, command)
    if reviewed:
        alone = any(rule.get("prevent_self_review") is True for rule in rules)
        message = f"whoever starts a job of environment {ENVIRONMENT} may also release it"
        shown = f"prevent_self_review: {_shown(alone)}"
        yield _check("environment_review", alone, shown, "true", message, command)
    policy = _of(answer, "deployment_branch_policy")
    if isinstance(policy, dict) and policy.get("custom_branch_policies") is True:
        # patterns of its own, each of which may cover any branch
        rows = github.rows(f"{path}/deployment-branch-policies", "branch_policies")
        if rows.status != 200:
            yield _unread("environment_branches", rows, command)
            return
        names = sorted(str(row.get("name", "?")) for row in _rows(rows, "branch_policies"))
        fine, branches = set(names) <= {branch}, ", ".join(names) or "none"
    else:
        fine = isinstance(policy, dict) and policy.get("protected_branches") is True
        branches = "protected branches" if fine else "any branch"
    message = f"environment {ENVIRONMENT} may be used from {branches}, with that branch's workflow file"
    yield _check("environment_branches", fine, branches, "protected branches", message, command)


def _branches(github: GitHub, branch: str) -> Iterator[Check]:
    """Check the rules of all active rulesets that apply to the branches, of repository and organization."""
    rules_by_branch = {COPY: ("creation", "update"), branch: ("pull_request", "deletion", "non_fast_forward")}
    for name, types in rules_by_branch.items():
        path = f"repos/{github.repository}/rules/branches/{quote(name, safe='')}"
        pattern = "refs/heads/pull-request/**/*" if name == COPY else f"refs/heads/{name}"
        body = json.dumps(
            {
                "name": f"quantgate: {pattern}",
                "target": "branch",
                "enforcement": "active",
                "conditions": {"ref_name": {"include": [pattern], "exclude": []}},
                "rules": [{"type": kind} for kind in types],
                "bypass_actors": [{"actor_id": 5, "actor_type": "RepositoryRole", "bypass_mode": "always"}]
                if name == COPY
                else [],
            }
        )
        command = f"echo {shlex.quote(body)} | gh api --method POST repos/{github.repository}/rulesets --input -"
        answer = github.get(path)
        if answer.status != 200:
            yield _unread("branch_rules", answer, command)
            continue
        rules = answer.data if isinstance(answer.data, list) else []
        present = {str(rule.get("type")) for rule in rules if isinstance(rule, dict)}
        absent = [kind for kind in types if kind not in present]
        shown = "pull-request/*" if name == COPY else name
        why = (
            "every person who may push starts the lane on the machines"
            if name == COPY
            else "what the lane trusts can be rewritten"
        )
        message = f"branch {shown} has no rule {', '.join(absent)}: {why}"
        yield _check(
            "branch_rules", not absent, f"{shown}: {', '.join(sorted(present)) or 'none'}", "", message, command
        )


def check_callers(root: Path, repository: str) -> Iterator[Check]:
    """Check whether the workflows of this checkout call the lane at a ref, as a restricted runner group requires.

    GitHub gives a restricted group only the jobs that are defined in a selected file at the selected ref. If the lane
    is called as ``./.github/workflows/lane.yml``, its file is that of the copied branch: its jobs would wait for ever.
    """
    lane = f"{repository}/.github/workflows/lane.yml@main"
    local = "uses: ./.github/workflows/lane.yml"
    for path in sorted((root / ".github/workflows").glob("*.y*ml")):
        try:
            text = read_text(path)
        except (OSError, UnreadableError):  # GitHub runs no file that is no text
            continue
        if not _LOCAL_LANE.search(text):
            continue
        shown = path.relative_to(root)
        yield Check(
            name="lane_caller",
            state="unfit",
            actual=f"{shown}: {local}",
            wanted=lane,
            message=f"{shown} calls the lane of its own branch: a runner group restricted to main never takes its jobs",
            remedy=f"sed -i -E 's#{_LOCAL_LANE.pattern}.*#uses: {lane}#' {shown}",
        )


def check_home(environ: Mapping[str, str]) -> Iterator[Check]:
    """Check the home of a self-hosted runner for files that an earlier job may have left; on other runners, nothing.

    Args:
        environ: environment of the job; GitHub sets ``RUNNER_ENVIRONMENT``.
    """
    if environ.get("RUNNER_ENVIRONMENT") != "self-hosted" or not environ.get("HOME"):
        return
    home = Path(environ["HOME"])
    remains = [name for name in _LEFT_IN_HOME if (home / name).exists()]
    if not remains:
        yield Check(name="home", state="fit", actual=f"{home} holds nothing that another job could have left")
    for name in remains:
        yield Check(
            name="home",
            state="unfit",
            actual=str(home / name),
            message=f"{home / name} is there before the job: {_LEFT_IN_HOME[name]}",
            remedy="give each job a home of its own (docs/lane.md), and look who wrote it",
        )


_LEFT_IN_HOME = {
    ".gitconfig": "git obeys its hooks, filters and url rewrites in every checkout",
    ".config/git": "git obeys its hooks, filters and url rewrites in every checkout",
    ".config/pip": "pip takes its index from it",
    ".pip": "pip takes its index from it",
    ".config/uv": "uv takes its index from it",
    ".netrc": "it holds passwords that every job can read",
    ".ssh": "it holds keys that every job can read",
    ".config/gh": "it holds a token that every job can read",
    ".cache/huggingface/token": "it holds a token that every job can read",
    ".huggingface/token": "it holds a token that every job can read",
    ".pypirc": "it holds a token that every job can read",
    ".git-credentials": "it holds passwords that every job can read",
    ".docker/config.json": "it holds a token that every job can read",
    ".aws": "it holds keys that every job can read",
    ".cache/pip": "pip installs what an earlier job put there",
    ".cache/uv": "uv installs what an earlier job put there",
    ".config/systemd/user": "its units run beside every job",
    ".local/lib": "Python imports it before what the job installs",
}
"""Paths that must not exist in the home of a runner, and why."""


def _check(
    name: str, fine: bool, actual: str, wanted: str, message: str, command: str, *, state: str = "unfit"
) -> Check:
    if fine:
        return Check(name=name, state="fit", actual=actual, wanted=wanted)
    worse = "warning" if state == "warning" else "unfit"
    return Check(name=name, state=worse, actual=actual, wanted=wanted, message=message, remedy=command)


def _unread(name: str, answer: Answer, command: str) -> Check:
    """Return the check of a setting that this token may not read. GitHub answers 404 to a token without the right."""
    return Check(
        name=name,
        state="unfit",
        actual=f"HTTP {answer.status}",
        message=f"this setting cannot be read ({answer.message or answer.status}): the token needs admin rights",
        remedy=f"ask with an administrator's token (gh auth login), or set it: {command}",
    )


def _selected(repository: str, branch: str) -> str:
    files = (f"{repository}/.github/workflows/{name}@refs/heads/{branch}" for name in REACHING)
    return " ".join(f"-f {shlex.quote(f'selected_workflows[]={file}')}" for file in files)


def _new_group(organization: str, repository: str, branch: str) -> str:
    return (
        f"gh api --method POST orgs/{organization}/actions/runner-groups -f name=gpu -f visibility=selected "
        f'-F "selected_repository_ids[]=$(gh api repos/{repository} --jq .id)" -F restricted_to_workflows=true '
        f"{_selected(repository, branch)}"
    )


def _takes(runner: Mapping[str, Any], labels: Sequence[str]) -> bool:
    """Return whether a runner has every label of the lane; GitHub ignores the case of letters."""
    names = {str(label.get("name", "")).lower() for label in runner.get("labels") or () if isinstance(label, dict)}
    return {label.lower() for label in labels} <= names


def _rows(answer: Answer, key: str) -> list[dict[str, Any]]:
    rows = _of(answer, key)
    return [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []


def _of(answer: Answer, key: str) -> Any:
    return answer.data.get(key) if isinstance(answer.data, dict) else None


def _name(runner: Mapping[str, Any]) -> str:
    return str(runner.get("name", "?"))


def _number(row: Mapping[str, Any]) -> int:
    """Return the id of a row; 0 if it has none."""
    value = row.get("id")
    return value if isinstance(value, int) else 0


def _shown(value: object) -> str:
    """Return a JSON value as GitHub writes it; ``not said`` if it is absent."""
    return "not said" if value is None else json.dumps(value)
