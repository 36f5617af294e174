"""Write to GitHub: one comment on a pull request, and a pull request with new goldens or limits.

Both use the ``gh`` command, which every hosted runner has. Arguments are passed as lists and text through standard
input, so that no text of a user is ever part of a command line.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

from harness.errors import InfraError, InvalidCaseError
from harness.inside import write_inside
from harness.lane.summary import MARK
from harness.markdown import COMMENT_CHARACTERS, bounded
from harness.project import HERE
from harness.reading import UnreadableError, parse_foreign, read_bytes

BOT = "github-actions[bot]"
COPIED_BRANCH = re.compile(r"(?:refs/heads/)?pull-request/([0-9]{1,9})\Z")
"""A branch of this repository with the reviewed head of a pull request; only such branches reach a GPU."""
PROPOSED = (HERE.goldens.name, HERE.thresholds.name)
"""Folders that a regeneration may change."""
TESTS = "ci.yml"
"""Workflow that is started for a proposal."""
_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,119}")
MAX_PROPOSED = 1 << 30
"""Most bytes of one proposed file; the clip of a golden at full size takes 100 MB."""
_REPOSITORY = re.compile(r"[A-Za-z0-9_.-]+/[A-Za-z0-9_.-]+\Z")


def pull_request_of(branch: str) -> int | None:
    """Return the number of the pull request whose reviewed copy ``branch`` is; ``None`` for any other branch."""
    match = COPIED_BRANCH.fullmatch(branch)
    return int(match[1]) if match else None


def post_comment(repository: str, number: int, body: str) -> str:
    """Write the lane's single comment on a pull request; the comment of an earlier run is replaced.

    Returns:
        ``created`` or ``updated``.

    Raises:
        InvalidCaseError: ``repository`` is not ``owner/name``.
        InfraError: ``gh`` failed.
    """
    if not _REPOSITORY.match(repository):
        raise InvalidCaseError(f"{repository!r} is no owner/name", remedy="give --repo owner/name")
    if not body.startswith(MARK):
        body = f"{MARK}\n{body}"
    body = bounded(body, COMMENT_CHARACTERS, "The rest is in the job summary.")
    comments = f"repos/{repository}/issues/{number}/comments"
    earlier = _comments(_gh(["api", "--paginate", "--slurp", comments]))
    own_comments = [
        comment for comment in earlier if comment["user"]["login"] == BOT and comment["body"].startswith(MARK)
    ]
    payload = json.dumps({"body": body})
    if own_comments:
        path = f"repos/{repository}/issues/comments/{int(own_comments[0]['id'])}"
        _gh(["api", "--method", "PATCH", path, "--input", "-"], payload)
        return "updated"
    _gh(["api", "--method", "POST", comments, "--input", "-"], payload)
    return "created"


Check = Callable[[Path, Collection[tuple[str, str]]], None]
"""Checks proposed files before they are pushed; arguments: root of the checkout, and runner and case of each file."""


def propose(root: Path, changes: Path, branch: str, title: str, body: str, base: str, *, check: Check) -> str | None:
    """Open a pull request with the files of a regeneration.

    Copies ``goldens/`` and ``thresholds/`` from ``changes`` over the checkout, checks them, commits them to a new
    branch, pushes it and opens the pull request. Files outside those folders are refused. A pull request that a
    workflow's own token opens starts no workflow, so the tests are dispatched on the branch.

    Returns:
        Address of the pull request, or ``None`` if nothing differs.

    Raises:
        InvalidCaseError: ``changes`` holds other files, ``check`` refuses a file, or ``branch`` is no plain name.
        GoldenError: a link in the checkout leads out of it.
        InfraError: ``git`` or ``gh`` failed.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9/_.-]{0,99}", branch) or ".." in branch:
        raise InvalidCaseError(
            f"{branch!r} is no branch name that can be used", remedy="name it regenerate/<something>"
        )
    for path in sorted(path for path in changes.rglob("*") if path.is_symlink() or not path.is_dir()):
        inside = path.relative_to(changes)
        target = root / inside
        # An unchanged file passes whatever its name is: a regeneration returns the whole folders.
        data = b"" if path.is_symlink() else read_bytes(path, limit=MAX_PROPOSED)  # also refuses pipes and devices
        same = not path.is_symlink() and target.is_file() and target.read_bytes() == data
        if inside.parts[0] not in PROPOSED or path.is_symlink() or not (same or _named(inside)):
            raise InvalidCaseError(
                f"a regeneration may change {', '.join(PROPOSED)} and nothing else",
                place=str(inside),
                remedy="remove it",
            )
        write_inside(root, inside.as_posix(), data)
    present = [name for name in PROPOSED if (root / name).exists()]
    _run(["git", "-C", str(root), "add", "--", *present])
    if not _run(["git", "-C", str(root), "diff", "--cached", "--name-only", "--relative"]).strip():
        return None
    changed = _run(["git", "-C", str(root), "diff", "--cached", "--name-only", "--relative", "-z"]).split("\0")
    check(root, {(path.parts[1], path.parts[2].removesuffix(".json")) for path in map(Path, filter(None, changed))})
    _run(["git", "-C", str(root), "switch", "--quiet", "-c", branch])
    identity = ["-c", f"user.name={BOT}", "-c", "user.email=41898282+github-actions[bot]@users.noreply.github.com"]
    _run(["git", "-C", str(root), *identity, "commit", "--quiet", "--file", "-"], f"{title}\n\n{body}\n")
    # The checkout keeps no credentials; gh lends its token to this one push.
    helper = ["-c", "credential.helper=", "-c", "credential.helper=!gh auth git-credential"]
    _run(["git", "-C", str(root), *helper, "push", "--quiet", "origin", f"HEAD:refs/heads/{branch}"])
    arguments = ["pr", "create", "--base", base, "--head", branch, "--title", title, "--body-file", "-"]
    address = _gh(arguments, body, cwd=root).strip()
    _gh(["workflow", "run", TESTS, "--ref", branch], cwd=root)
    return address


def _comments(text: str) -> list[dict[str, Any]]:
    """Return the comments in an answer of ``gh --paginate --slurp``: a list of pages, each a list of comments.

    Raises:
        InfraError: it is something else.
    """
    try:
        pages = parse_foreign(text, "gh api")
        comments = [item for page in pages for item in page]
        return [item for item in comments if isinstance(item["user"]["login"], str) and isinstance(item["body"], str)]
    except (UnreadableError, TypeError, KeyError) as error:
        raise InfraError(
            "gh answered with no list of comments", kind="protocol", remedy="read the log of the job"
        ) from error


def _named(inside: Path) -> bool:
    """Return whether a proposed path has the form of a golden's part, a list of goldens, or a limit file."""
    plain = len(inside.parts) >= 3 and all(_PLAIN.fullmatch(part) for part in inside.parts)
    return plain and inside.suffix in (".json", ".safetensors")


def _gh(arguments: Sequence[str], text: str | None = None, cwd: Path | None = None) -> str:
    return _run(["gh", *arguments], text, cwd)


def _run(command: Sequence[str], text: str | None = None, cwd: Path | None = None) -> str:
    try:
        completed = subprocess.run(
            list(command),
            input=text,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            check=False,
            timeout=300,
            cwd=cwd,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise InfraError(f"{command[0]} did not run: {error}", kind="crash", remedy=f"install {command[0]}") from error
    if completed.returncode:
        problem = completed.stderr.strip() or f"exit status {completed.returncode}"
        raise InfraError(f"{command[0]} failed: {problem}", kind="crash", remedy="read the log of the job")
    return completed.stdout
