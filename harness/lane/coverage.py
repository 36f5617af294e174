"""Compare the set of cases with that of the base branch, as a list of changes that a reviewer can accept or refuse."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from harness.definitions.case import Case
from harness.definitions.loading import check_cases
from harness.definitions.runner import RunnerProfile, load_runners
from harness.errors import InvalidCaseError
from harness.git import run_git
from harness.lane.looser import PYTEST_FILES, lets_more_through, profile_changes, pytest_settings
from harness.limits.stored import edited, limit_path, limit_paths, place_again
from harness.perf.baseline import baseline_paths, load_baseline
from harness.perf.ceilings import raised
from harness.perf.measures import work_of
from harness.project import HERE, Project, case_files
from harness.reading import UnreadableError
from harness.records.base import Json, Record
from harness.records.limits import Limit, LimitFile
from harness.records.perf_file import PerfFile
from harness.records.temporary import scratch_folder
from harness.text import clean

Kind = Literal[
    "added", "removed", "waived", "unwaived", "checkpoint", "env", "limit", "baseline", "expectation", "request",
    "runner", "pytest",
]  # fmt: skip

_KINDS: dict[str, Kind] = {
    "model": "checkpoint",
    "base": "checkpoint",
    "transformer": "checkpoint",
    "transformer_2": "checkpoint",
    "env": "env",
    "pass_env": "env",
    "expect": "expectation",
    "golden_of": "expectation",
    "metrics": "expectation",
    "inspection": "expectation",
    "contracts": "expectation",
}
_NOT_COMPARED = frozenset({"id", "description", "runners", "waiver"})


class Change(Record):
    """One difference between the base branch and this one."""

    kind: Kind
    case: str
    """Id of the case; for a runner its file, for pytest's settings ``pytest``."""
    field: str = ""
    """Name of the field; empty for the whole case, or for a file of limits or a baseline that was removed."""
    before: Json = None
    after: Json = None
    reason: str = ""
    """Why it changed: for a waiver or a limit from its file, otherwise from the trailer of a commit."""
    looser: bool = False
    """Whether the change lets more through, or checks less, than before: it needs a reason."""

    @property
    def key(self) -> str:
        """Return the key that a commit's trailer names: the case if all of it was removed, else case and field."""
        if self.kind == "removed" or (self.kind in ("limit", "baseline") and not self.field):
            return self.case
        return f"{self.case} {self.field}".strip()


class Coverage(Record):
    """All changes from the base branch, for one runner."""

    against: str
    """The reference as the user named it, and its commit."""
    changes: tuple[Change, ...]
    unreadable: tuple[str, ...] = ()
    """Problems of the base's files under the current rules: their content could not be compared."""
    faults: tuple[str, ...] = ()
    """Unusable files of this side, such as limits that were edited by hand: the plan is refused."""

    def of(self, *kinds: Kind) -> tuple[Change, ...]:
        """Return the changes of the given kinds."""
        return tuple(change for change in self.changes if change.kind in kinds)

    def without_reason(self) -> tuple[Change, ...]:
        """Return the removals and the changes that let more through, if they have no reason: a reviewer needs it."""
        return tuple(
            change
            for change in self.changes
            if (change.kind == "removed" or change.looser) and not clean(change.reason).strip()
        )


def compare_cases(
    before: Sequence[Case], after: Sequence[Case], runner: str, reasons: Mapping[str, str]
) -> list[Change]:
    """List the differences between two sets of cases, for ``runner``.

    A removed case, or a case that left a runner, is listed for every runner: the other runner may have no plan
    that would report it.

    Args:
        before: cases of the base branch.
        after: cases of this branch.
        runner: name of the profile.
        reasons: reasons from commits, by `Change.key`.
    """
    old, new = {case.id: case for case in before}, {case.id: case for case in after}
    changes = []
    for name in sorted(old.keys() | new.keys()):
        was, now = old.get(name), new.get(name)
        if now is None:
            changes.append(Change(kind="removed", case=name, reason=reasons.get(name, "")))
            continue
        # Leaving a runner counts as removal, because the case no longer runs there.
        if was is not None and (lost := sorted(set(was.runners) - set(now.runners))):
            gone = Change(kind="removed", case=name, field="runners", before=", ".join(lost))
            changes.append(gone.model_copy(update={"reason": reasons.get(name, "")}))
        if runner not in now.runners:
            continue
        if was is None or runner not in was.runners:
            changes.append(Change(kind="added", case=name))
            changes += _waiver(name, None, now, reasons)
        else:
            changes += _waiver(name, was, now, reasons)
            changes += _fields(was, now, reasons)
    return changes


def compare_project(
    before: Mapping[str, RunnerProfile],
    after: Mapping[str, RunnerProfile],
    settings_before: Mapping[str, str],
    settings_after: Mapping[str, str],
    reasons: Mapping[str, str],
) -> list[Change]:
    """List the differences of the runner profiles and of pytest's settings.

    Args:
        before: profiles of the base branch, by name.
        after: profiles of this branch.
        settings_before: settings of the base branch; see `harness.lane.looser.pytest_settings`.
        settings_after: settings of this branch.
        reasons: reasons from commits, by `Change.key`.
    """
    changes = []
    for name in sorted(before):
        # A profile that only this branch has is not listed: it cannot let more through than before.
        file = f"runners/{name}.yaml"
        if name not in after:
            changes.append(Change(kind="runner", case=file, field="file", before="present", looser=True))
            continue
        changes += [
            Change(kind="runner", case=file, field=field, before=was, after=now, looser=looser)
            for field, was, now, looser in profile_changes(before[name], after[name])
        ]
    changes += [
        Change(
            kind="pytest",
            case="pytest",
            field=key.replace(" ", ":"),
            before=settings_before.get(key),
            after=settings_after.get(key),
            looser=True,
        )
        for key in sorted(settings_before.keys() | settings_after.keys())
        if settings_before.get(key) != settings_after.get(key)
    ]
    return [change.model_copy(update={"reason": reasons.get(change.key, "")}) for change in changes]


def compare_limits(
    before: Mapping[str, LimitFile], after: Mapping[str, LimitFile], reasons: Mapping[str, str] | None = None
) -> list[Change]:
    """List the differences between the limit files of one runner, by case id.

    Args:
        before: files of the base branch.
        after: files of this branch.
        reasons: why a case or its limits were removed, by id: a removed file cannot hold its reason.
    """
    changes = []
    for name in sorted(before.keys() | after.keys()):
        old, new = before.get(name), after.get(name)
        if old is not None and new is None:
            changes.append(_file_gone(name, old, (reasons or {}).get(name, "")))
            continue
        old_limits = {limit.metric: limit for limit in old.limits} if old else {}
        new_limits = {limit.metric: limit for limit in new.limits} if new else {}
        for metric in sorted(old_limits.keys() | new_limits.keys()):
            was, now = old_limits.get(metric), new_limits.get(metric)
            if _value(was) == _value(now) and (was is None or now is None or was.direction == now.direction):
                continue
            changes.append(
                Change(
                    kind="limit",
                    case=name,
                    field=metric,
                    before=_value(was),
                    after=_value(now),
                    reason=new.reason if new and (old is None or new.created != old.created) else "",
                    looser=_looser(was, now),
                )
            )
    return changes


def _file_gone(name: str, old: LimitFile, reason: str) -> Change:
    values = {limit.metric: _value(limit) for limit in old.limits}
    looser = any(_looser(limit, None) for limit in old.limits)
    return Change(kind="limit", case=name, before=values, reason=reason, looser=looser)


def compare_baselines(
    before: Mapping[str, PerfFile], after: Mapping[str, PerfFile], reasons: Mapping[str, str], cases: Sequence[Case]
) -> list[Change]:
    """List the baselines of one runner that are gone, that allow more time or memory, or that apply no longer.

    A new baseline is listed without its values, which are those of its runs.

    Args:
        before: baselines of the base branch, by case id.
        after: baselines of this branch.
        reasons: reasons from commits, by `Change.key`.
        cases: cases of this branch.
    """
    changes = []
    works = {case.id: work_of(case) for case in cases}
    for name in sorted(before.keys() | after.keys()):
        old, new = before.get(name), after.get(name)
        if new is None:
            covered = old.covers if old else ""
            gone = Change(kind="baseline", case=name, before=covered, looser=True)
            changes.append(gone.model_copy(update={"reason": reasons.get(name, "")}))
            continue
        if name in works and works[name] != new.request:
            changes.append(Change(kind="baseline", case=name, field="size", after="the case has another: unmeasured"))
        if old is None:
            changes.append(Change(kind="baseline", case=name, field="file", after=new.covers, reason=new.reason))
            continue
        # A reason counts only for the baseline that it was written for.
        stated = new.reason if new.created != old.created else ""
        for rise in raised(old, new):
            field = f"{rise.measure}:{rise.pool}"
            reason = stated or reasons.get(f"{name} {field}", "")
            before_, now = (float(f"{value:.4g}") if value is not None else None for value in (rise.before, rise.now))
            changes.append(
                Change(
                    kind="baseline",
                    case=name,
                    field=field,
                    before=before_,
                    after="unmeasured" if now is None else now,
                    reason=reason,
                    looser=True,
                )
            )
    return changes


def _waiver(name: str, old: Case | None, new: Case, reasons: Mapping[str, str]) -> list[Change]:
    was, now = (old.waiver if old else None), new.waiver
    if was == now:
        return []
    if now is None:
        return [Change(kind="unwaived", case=name)]
    looser = old is not None and lets_more_through("waiver", old, new)
    text = reasons.get(f"{name} waiver", "") if looser else f"{now.owner}: {now.reason} ({now.issue})"
    until = f"until {now.expires.isoformat()}: {now.expect}"
    return [Change(kind="waived", case=name, field="waiver", after=until, reason=text, looser=looser)]


def _fields(old: Case, new: Case, reasons: Mapping[str, str]) -> list[Change]:
    was, now = old.model_dump(mode="json"), new.model_dump(mode="json")
    return [
        Change(
            kind=_KINDS.get(field, "request"),
            case=new.id,
            field=path,
            before=value,
            after=other,
            looser=looser,
            reason=(reasons.get(f"{new.id} {path}") or reasons.get(f"{new.id} {field}", "")) if looser else "",
        )
        for field in was
        if field not in _NOT_COMPARED and was[field] != now[field]
        for looser in (lets_more_through(field, old, new),)
        for path, value, other in _leaves(field, was[field], now[field])
    ]


def _leaves(path: str, old: Json, new: Json) -> list[tuple[str, Json, Json]]:
    """Return the differing leaves, so that a reviewer reads ``sampling.seed: 0 -> 1`` and not two whole mappings."""
    if not (isinstance(old, dict) and isinstance(new, dict)):
        return [(path, old, new)] if old != new else []
    return [
        leaf for key in sorted(old.keys() | new.keys()) for leaf in _leaves(f"{path}.{key}", old.get(key), new.get(key))
    ]


def _value(limit: Limit | None) -> Json:
    if limit is None:
        return None
    return limit.limit if limit.gates else "does not gate"


def _looser(old: Limit | None, new: Limit | None) -> bool:
    """Return whether ``new`` lets through a value that ``old`` stopped."""
    if old is None or old.limit is None:
        return False
    if new is None or new.limit is None or new.direction != old.direction:
        return True
    return new.limit < old.limit if old.direction == "higher_is_better" else new.limit > old.limit


# Read the cases and limits of another commit from git, without touching the working tree.


TRAILER = "Quantgate-Removed"
"""Trailer of a commit that removes a case or its limits: ``Quantgate-Removed: <case id>: <reason>``."""
LOOSER = "Quantgate-Looser"
"""Trailer of a commit that lets more through: ``Quantgate-Looser: <case id> <field>: <reason>``."""
_FOLDERS = (*(path.name for path in (HERE.cases, HERE.runners, HERE.thresholds)), *PYTEST_FILES)


def coverage_against(root: Path, reference: str, runner: str, cases: list[Case]) -> Coverage:
    """Compare the cases, limits and baselines of the working tree with those of ``reference``.

    Args:
        root: the repository.
        reference: a branch, tag or commit.
        runner: name of the profile.
        cases: the cases of the working tree.

    Raises:
        InvalidCaseError: ``reference`` is not a commit of this repository.
    """
    commit = _commit(root, reference)
    with _checkout(root, commit) as base:
        paths = case_files(base)
        old_profiles, unread = _profiles(base)
        # The base's cases are read with the runners of both sides: a name that is invalid today must not hide them.
        names = {path.stem for path in (Project(base).runners).glob("*.yaml")}
        before, problems = check_cases(paths, base, runners=names) if paths else ((), ())
        old_limits, bad_before = _limits(base, runner)
        old_baselines, unusable = _baselines(base, runner)
        settings = pytest_settings(base)
    new_limits, bad_after = _limits(root, runner)
    new_baselines, bad_baselines = _baselines(root, runner)
    reasons = _reasons(root, commit)
    changes = compare_cases([located.case for located in before], cases, runner, reasons)
    if before or problems:  # if the base has no case, nothing can let more through than before
        profiles = load_runners(Project(root).runners)
        changes += compare_project(old_profiles, profiles, settings, pytest_settings(root), reasons)
    # The limits of a removed case go with it: one reason is enough.
    removed = {change.case for change in changes if change.kind == "removed"}
    limits = [change for change in compare_limits(old_limits, new_limits, reasons) if change.case not in removed]
    baselines = compare_baselines(old_baselines, new_baselines, reasons, cases)
    limits += [change for change in baselines if change.case not in removed]
    return Coverage(
        against=f"{reference} ({commit[:12]})",
        changes=(*changes, *limits),
        unreadable=(
            *map(str, problems),
            *(f"{reference}: {name}" for name in (*unread, *bad_before, *unusable)),
        ),
        faults=(*bad_after, *_edited(root, new_limits), *bad_baselines),
    )


def _profiles(base: Path) -> tuple[dict[str, RunnerProfile], list[str]]:
    try:
        return load_runners(Project(base).runners), []
    except InvalidCaseError as error:
        return {}, [error.message]


def _edited(root: Path, limits: Mapping[str, LimitFile]) -> Iterator[str]:
    """Yield a sentence per limit file of the working tree that was changed after its limits were placed."""
    for name, file in sorted(limits.items()):
        if fault := edited(file):
            file_path = limit_path(Project(root).thresholds, file.runner, name).relative_to(root)
            yield f"{file_path}: {fault}\n  next: git checkout {file_path}, or {place_again(file)}"


def _commit(root: Path, reference: str) -> str:
    # git would read a leading dash as an option.
    if reference.startswith("-"):
        raise InvalidCaseError(f"{reference!r} is no commit", remedy="name a branch, tag or commit")
    commit = _git(root, "rev-parse", "--verify", "--quiet", f"{reference}^{{commit}}", check=False)
    if not commit:
        raise InvalidCaseError(
            f"{reference!r} is no commit of this repository",
            place=str(root),
            remedy="git fetch origin (a workflow checks out with fetch-depth: 0)",
        )
    return commit.decode().strip()


def _reasons(root: Path, commit: str) -> dict[str, str]:
    """Return the reasons from the trailers of the commits since ``commit``, by `harness.lane.coverage.Change.key`."""
    reasons: dict[str, str] = {}
    for trailer in (TRAILER, LOOSER):
        format_option = f"--format=%(trailers:key={trailer},valueonly,unfold,separator=%x0A)"
        text = _git(root, "log", f"{commit}..HEAD", format_option, check=False).decode(errors="replace")
        for line in text.splitlines():
            key, colon, reason = line.partition(": ")
            if colon and reason.strip():
                # git lists the newest commit first, and its reason counts
                reasons.setdefault(" ".join(key.split()), reason.strip())
    return reasons


@contextmanager
def _checkout(root: Path, commit: str) -> Iterator[Path]:
    """Write the cases, profiles, limits and settings of ``commit`` to a temporary folder.

    Objects are read one by one and not through ``git archive``: a ``.gitattributes`` of the commit (``export-ignore``)
    would hide cases from it, and a removal would not be seen. A link becomes a copy of the file that it names in the
    same commit; any other link is left out, so that nothing outside the commit is read.
    """
    # names are relative to `root`, which may lie below the top of the repository
    listed = _git(root, "ls-tree", "-r", "-z", commit, "--", *_FOLDERS, check=True)
    blobs: dict[str, bytes] = {}
    links: dict[str, bytes] = {}
    for row in filter(None, listed.split(b"\0")):
        state, _, name = row.partition(b"\t")
        mode, kind, digest = state.split()
        if kind == b"blob":
            (links if mode == _LINK else blobs)[os.fsdecode(name)] = digest
    for link, target in zip(links, _contents(root, list(links.values())), strict=True):
        named = os.path.normpath(os.path.join(os.path.dirname(link), os.fsdecode(target)))  # noqa: PTH118, PTH120
        if named in blobs:
            blobs[link] = blobs[named]
    with scratch_folder("quantgate-base-") as folder:
        for path, data in zip(blobs, _contents(root, list(blobs.values())), strict=True):
            place = folder / path
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(data)
        yield folder


_LINK = b"120000"
"""Mode of a symbolic link in a tree of git."""


def _contents(root: Path, digests: Sequence[bytes]) -> list[bytes]:
    """Return the contents of blobs of the repository, in the order of ``digests``."""
    if not digests:
        return []
    answer = _git(root, "cat-file", "--batch", check=True, stdin=b"".join(digest + b"\n" for digest in digests))
    contents, start = [], 0
    for digest in digests:
        # "<digest> blob <size>", a newline, the bytes, a newline
        end = answer.index(b"\n", start)
        head = answer[start:end].split()
        if len(head) != 3:
            raise InvalidCaseError(
                f"git has no object {digest.decode()}", place=str(root), remedy="git fsck; fetch without --filter"
            )
        size = int(head[2])
        contents.append(answer[end + 1 : end + 1 + size])
        start = end + 1 + size + 1
    return contents


def _limits(root: Path, runner: str) -> tuple[dict[str, LimitFile], list[str]]:
    readable, bad = {}, []
    for path in limit_paths(Project(root).thresholds, runner):
        try:
            limits = LimitFile.read(path)
        except (OSError, UnreadableError):
            bad.append(f"thresholds/{runner}/{path.name} cannot be read as limits")
            continue
        readable[limits.case] = limits
    return readable, bad


def _baselines(root: Path, runner: str) -> tuple[dict[str, PerfFile], list[str]]:
    """Return the baselines of a runner by case id, and a sentence per file that cannot be used or was edited."""
    files, bad = {}, []
    thresholds = Project(root).thresholds
    for path in baseline_paths(thresholds, runner):
        case = path.name.removesuffix(".perf.json")
        try:
            file = load_baseline(thresholds, runner, case)
        except InvalidCaseError as error:
            shown = path.relative_to(root)
            remedy = error.remedy.replace(str(path), str(shown))
            bad.append(f"{shown}: {error.message}\n  next: {remedy}")
            continue
        if file is not None:
            files[case] = file
    return files, bad


def _git(root: Path, *arguments: str, check: bool, stdin: bytes = b"") -> bytes:
    completed = run_git(root, *arguments, stdin=stdin)
    if check and completed.returncode:
        raise InvalidCaseError(
            f"git {arguments[0]} failed: {completed.stderr.decode(errors='replace').strip()}",
            place=str(root),
            remedy="git status",
        )
    return completed.stdout
