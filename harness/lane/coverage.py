"""What a change does to the set of cases: the difference from the base branch, in words a reviewer can refuse."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from harness.definitions.case import Case
from harness.records.base import Json, Record
from harness.records.limits import Limit, LimitFile

Kind = Literal["added", "removed", "waived", "unwaived", "checkpoint", "env", "limit", "expectation", "request"]

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
}
_NOT_COMPARED = frozenset({"id", "description", "runners", "waiver"})


class Change(Record):
    """One difference between the base branch and this one."""

    kind: Kind
    case: str
    field: str = ""
    """Empty: all of the case, or for a limit all of its file, which is gone."""
    before: Json = None
    after: Json = None
    reason: str = ""
    """Why: of what is gone from the commit trailer, of a waiver or a limit from its file."""
    looser: bool = False
    """Of a limit: whether it admits more than before."""


class Coverage(Record):
    """Everything that changed, for one runner."""

    against: str
    """The reference as it was named, and its commit."""
    changes: tuple[Change, ...]
    unreadable: tuple[str, ...] = ()
    """Problems of the base's files under today's rules: what they hold could not be compared."""

    def of(self, *kinds: Kind) -> tuple[Change, ...]:
        """Changes of the given kinds."""
        return tuple(change for change in self.changes if change.kind in kinds)

    def without_reason(self) -> tuple[Change, ...]:
        """What a reviewer must not have to guess: removals and looser limits that nobody gave a reason for."""
        return tuple(
            change for change in self.changes if (change.kind == "removed" or change.looser) and not change.reason
        )


def compare_cases(
    before: Sequence[Case], after: Sequence[Case], runner: str, reasons: Mapping[str, str]
) -> list[Change]:
    """Differences between two sets of cases, as ``runner`` sees them: leaving a runner is a removal there.

    Args:
        before: cases of the base branch.
        after: cases of this one.
        runner: name of the profile.
        reasons: why a case was removed, by id.
    """
    old = {case.id: case for case in before if runner in case.runners}
    new = {case.id: case for case in after if runner in case.runners}
    still_there = {case.id for case in after}
    changes = []
    for name in sorted(old.keys() | new.keys()):
        if name not in new:
            field = "runners" if name in still_there else ""
            changes.append(Change(kind="removed", case=name, field=field, reason=reasons.get(name, "")))
        elif name not in old:
            changes.append(Change(kind="added", case=name))
            changes += _waiver(name, None, new[name])
        else:
            changes += _waiver(name, old[name], new[name])
            changes += _fields(old[name], new[name])
    return changes


def compare_limits(
    before: Mapping[str, LimitFile], after: Mapping[str, LimitFile], reasons: Mapping[str, str] | None = None
) -> list[Change]:
    """Differences between the limit files of one runner, by case id.

    Args:
        before: files of the base branch.
        after: files of this one.
        reasons: why a case or its limits are gone, by id: a file that is gone cannot say it itself.
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
            if _value(was) == _value(now):
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


def _waiver(name: str, old: Case | None, new: Case) -> list[Change]:
    was, now = (old.waiver if old else None), new.waiver
    if was == now:
        return []
    if now is None:
        return [Change(kind="unwaived", case=name)]
    text = f"{now.owner}: {now.reason} ({now.issue})"
    return [Change(kind="waived", case=name, after=f"until {now.expires.isoformat()}", reason=text)]


def _fields(old: Case, new: Case) -> list[Change]:
    was, now = old.model_dump(mode="json"), new.model_dump(mode="json")
    return [
        Change(kind=_KINDS.get(field, "request"), case=new.id, field=path, before=one, after=other)
        for field in was
        if field not in _NOT_COMPARED and was[field] != now[field]
        for path, one, other in _leaves(field, was[field], now[field])
    ]


def _leaves(path: str, old: Json, new: Json) -> list[tuple[str, Json, Json]]:
    """The differing leaves, so that a reviewer reads ``sampling.seed: 0 -> 1`` and not two whole mappings."""
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
    """Whether ``new`` lets through what ``old`` stopped."""
    if old is None or old.limit is None:
        return False
    if new is None or new.limit is None or new.direction != old.direction:
        return True
    return new.limit < old.limit if old.direction == "higher_is_better" else new.limit > old.limit
