"""The cases and limits of another commit, read from git without touching the working tree."""

from __future__ import annotations

import io
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from pydantic import ValidationError

from harness.definitions.case import Case
from harness.definitions.files import case_files
from harness.definitions.limits import edited, limit_path, place_again
from harness.definitions.loading import check_cases
from harness.definitions.runner import RunnerProfile, load_runners
from harness.errors import InvalidCaseError
from harness.lane.coverage import Coverage, compare_cases, compare_limits, compare_project
from harness.lane.looser import PYTEST_FILES, pytest_settings
from harness.records.limits import LimitFile

TRAILER = "Quantgate-Removed"
"""A commit that removes a case or its limits says why in a trailer: ``Quantgate-Removed: <case id>: <reason>``."""
LOOSER = "Quantgate-Looser"
"""A commit that lets more through says why: ``Quantgate-Looser: <case id> <field>: <reason>``."""
_FOLDERS = ("cases", "runners", "thresholds", *PYTEST_FILES)


def coverage_against(root: Path, reference: str, runner: str, cases: list[Case]) -> Coverage:
    """Compare the working tree's cases and limits with those of ``reference``.

    Args:
        root: the repository.
        reference: a branch, tag or commit.
        runner: name of the profile.
        cases: the cases of the working tree.

    Raises:
        InvalidCaseError: ``reference`` is no commit of this repository.
    """
    commit = _commit(root, reference)
    with _checkout(root, commit) as base:
        paths = case_files(base)
        old_profiles, unread = _profiles(base)
        # The base's cases are read with the runners of both sides: a name that is refused by now must not hide them.
        names = {path.stem for path in (base / "runners").glob("*.yaml")}
        before, problems = check_cases(paths, base, runners=names) if paths else ((), ())
        old_limits, bad_before = _limits(base, runner)
        settings = pytest_settings(base)
    new_limits, bad_after = _limits(root, runner)
    reasons = _reasons(root, commit)
    changes = compare_cases([one.case for one in before], cases, runner, reasons)
    if before or problems:  # without a case on the other side nothing can let more through than before
        profiles = load_runners(root / "runners")
        changes += compare_project(old_profiles, profiles, settings, pytest_settings(root), reasons)
    # The limits of a removed case go with it: one reason is enough.
    removed = {change.case for change in changes if change.kind == "removed"}
    limits = [change for change in compare_limits(old_limits, new_limits, reasons) if change.case not in removed]
    return Coverage(
        against=f"{reference} ({commit[:12]})",
        changes=(*changes, *limits),
        unreadable=(*map(str, problems), *(f"{reference}: {name}" for name in (*unread, *bad_before))),
        faults=(*bad_after, *_edited(root, new_limits)),
    )


def _profiles(base: Path) -> tuple[dict[str, RunnerProfile], list[str]]:
    try:
        return load_runners(base / "runners"), []
    except InvalidCaseError as error:
        return {}, [error.what]


def _edited(root: Path, limits: Mapping[str, LimitFile]) -> Iterator[str]:
    """Limit files of the working tree that were changed after their limits were placed."""
    for name, file in sorted(limits.items()):
        if fault := edited(file):
            where = limit_path(root / "thresholds", file.runner, name).relative_to(root)
            yield f"{where}: {fault}\n  next: git checkout {where}, or {place_again(file)}"


def _commit(root: Path, reference: str) -> str:
    if reference.startswith("-"):
        raise InvalidCaseError(f"{reference!r} is no commit", remedy="name a branch, tag or commit")
    found = _git(root, "rev-parse", "--verify", "--quiet", f"{reference}^{{commit}}", check=False)
    if not found:
        raise InvalidCaseError(
            f"{reference!r} is no commit of this repository",
            where=str(root),
            remedy="git fetch origin (a workflow checks out with fetch-depth: 0)",
        )
    return found.decode().strip()


def _reasons(root: Path, commit: str) -> dict[str, str]:
    """Reasons from the trailers of the commits since the branches parted, by `harness.lane.coverage.Change.key`."""
    reasons: dict[str, str] = {}
    for trailer in (TRAILER, LOOSER):
        wanted = f"--format=%(trailers:key={trailer},valueonly,unfold,separator=%x0A)"
        text = _git(root, "log", f"{commit}..HEAD", wanted, check=False).decode(errors="replace")
        for line in text.splitlines():
            key, colon, reason = line.partition(": ")
            if colon and reason.strip():
                reasons.setdefault(" ".join(key.split()), reason.strip())
    return reasons


@contextmanager
def _checkout(root: Path, commit: str) -> Iterator[Path]:
    there = _git(root, "ls-tree", "--name-only", commit, check=True).decode().split()
    wanted = [name for name in _FOLDERS if name in there]
    with tempfile.TemporaryDirectory(prefix="quantgate-base-") as folder:
        if wanted:
            archive = _git(root, "archive", "--format=tar", commit, "--", *wanted, check=True)
            with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
                tar.extractall(folder, filter="data")
        yield Path(folder)


def _limits(root: Path, runner: str) -> tuple[dict[str, LimitFile], list[str]]:
    found, bad = {}, []
    for path in sorted((root / "thresholds" / runner).glob("*.json")):
        try:
            limits = LimitFile.read(path)
        except (ValidationError, OSError):
            bad.append(f"thresholds/{runner}/{path.name} cannot be read as limits")
            continue
        found[limits.case] = limits
    return found, bad


def _git(root: Path, *arguments: str, check: bool) -> bytes:
    done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, check=False, timeout=120)
    if check and done.returncode:
        raise InvalidCaseError(
            f"git {arguments[0]} failed: {done.stderr.decode(errors='replace').strip()}",
            where=str(root),
            remedy="git status",
        )
    return done.stdout
