"""When goldens and limits must not be made: each refusal with its way out."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from harness.definitions.case import Case
from harness.errors import GoldenError, InvalidCaseError
from harness.goldens.matching import Match, MatchKind
from harness.in_ci import ci_variable

MADE = ("goldens/", "thresholds/", "runs/", ".quantgate/")
"""What regeneration itself writes: a change there is no change of what is measured."""
_SHOWN = 5


def refuse_in_ci(environ: Mapping[str, str], allowed: bool) -> None:
    """Refuse inside CI, which would make its own failures right.

    Raises:
        InvalidCaseError: a variable says that this is a CI job, and nobody passed ``--in-ci``.
    """
    if ci_variable(environ) and not allowed:
        raise InvalidCaseError(
            "goldens and limits are not regenerated in CI, where nobody looks at them",
            remedy="add --in-ci in the one job that is made for it and proposes a pull request",
        )


def dirty_files(root: Path) -> tuple[str, ...]:
    """Changed and untracked files of the repository at ``root``; none where it is no repository.

    Raises:
        InvalidCaseError: git is needed and absent, or fails.
    """
    names, fields = [], iter(_git(root, "status", "--porcelain=v1", "-z", "--untracked-files=all").split("\0"))
    for field in fields:
        if field:
            names.append(field[3:])
            if field[0] in "RC":  # a rename is followed by the name it had
                next(fields, None)
    return tuple(name for name in names if not name.startswith(MADE))


def tracked_files(root: Path) -> tuple[str, ...]:
    """``mode blob stage<TAB>name`` of what is tracked at ``root``, but for cases and what regeneration writes; nothing
    where it is no repository.

    Raises:
        InvalidCaseError: git is needed and absent, or fails.
    """
    rows = [row for row in _git(root, "ls-files", "--stage", "-z").split("\0") if row]
    return tuple(row for row in rows if not row.partition("\t")[2].startswith(("cases/", *MADE)))


def _git(root: Path, *arguments: str) -> str:
    """What git says; nothing where ``root`` is no repository."""
    if not (root / ".git").exists():
        return ""
    git = shutil.which("git")
    if git is None:
        raise InvalidCaseError(
            f"{root} is a git repository, and there is no git to ask for changes", remedy="install git"
        )
    env = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    command = [git, "-C", str(root), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
    if done.returncode:
        raise InvalidCaseError(f"git {arguments[0]} failed: {done.stderr.strip()}", where=str(root))
    return done.stdout


def refuse_dirty(root: Path, allowed: bool) -> tuple[str, ...]:
    """Refuse where what is measured is not what is committed.

    Returns:
        The changed files, where that was allowed.

    Raises:
        InvalidCaseError: there are some, and nobody said ``--allow-dirty``.
    """
    changed = dirty_files(root)
    if changed and not allowed:
        more = f" and {len(changed) - _SHOWN} more" if len(changed) > _SHOWN else ""
        raise InvalidCaseError(
            f"the working tree has changes, so nobody could measure this again: {', '.join(changed[:_SHOWN])}{more}",
            where=str(root),
            remedy="commit or stash them; --allow-dirty measures all the same and says so in the file",
        )
    return changed


def refuse_other_identity(match: Match, case: Case, where: str, replace: bool, reason: str) -> None:
    """Refuse to put a golden in place of one that answers another question, unless that is said aloud.

    Raises:
        GoldenError: the case accepts a golden of another identity.
    """
    if match.kind in (MatchKind.EXACT, MatchKind.MISSING) or (replace and reason.strip()):
        return
    rows = ", ".join(f"{change.field}" for change in match.of("request", "hardware", "weights", "env")[:_SHOWN])
    raise GoldenError(
        f"the accepted golden {match.goldens[0].digest[:16]} is of another identity ({match.kind.value}: {rows})",
        where=where,
        remedy=f"quantgate regenerate --case {case.id} --replace-golden --reason '...', if the new one is right",
    )
