"""Find the differences between a good and a bad configuration that turn the case red: ``quantgate bisect``."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

from harness.definitions.case import Case
from harness.engine.resolve import resolve_case
from harness.errors import InvalidCaseError, QuantgateError
from harness.frames.clip import read_clip
from harness.frames.compare import compare
from harness.limits.edited import load_explained
from harness.reading import UnreadableError, read_bytes
from harness.records.base import Json, Record
from harness.records.frames import MetricResult
from harness.records.golden import CLIP
from harness.records.limits import LimitFile
from harness.session.conductor import Session
from harness.session.context import SessionContext
from harness.session.inspecting import inspect
from harness.session.stages import look_at_frames

# Delta debugging: the smallest set of differences that turns a run red (Zeller and Hildebrandt, 2002, ``ddmin``).


T = TypeVar("T")
Answer = Literal["green", "red", "unresolved"]


def ddmin(items: Sequence[T], test: Callable[[tuple[T, ...]], Answer]) -> tuple[T, ...]:
    """Return a red subset of ``items`` from which no single item can be removed.

    Args:
        items: all differences; together they must be red.
        test: runs with a subset applied. ``unresolved`` (the run decided nothing) counts as not red.

    Raises:
        ValueError: all differences together are not red, so there is nothing to find.
    """
    current = tuple(items)
    if test(current) != "red":
        raise ValueError("all differences together are not red")
    parts = 2
    while len(current) >= 2:
        chunks = _split(current, parts)
        smaller = next((chunk for chunk in chunks if test(chunk) == "red"), None)
        if smaller is not None:
            current, parts = smaller, 2
            continue
        # With two parts, each rest is the other part, which was tested already.
        rests = [tuple(field for field in current if field not in chunk) for chunk in chunks] if parts > 2 else []
        rest = next((candidate for candidate in rests if test(candidate) == "red"), None)
        if rest is not None:
            current, parts = rest, max(parts - 1, 2)
        elif parts >= len(current):
            break
        else:
            parts = min(len(current), parts * 2)
    return current


def _split(items: tuple[T, ...], parts: int) -> list[tuple[T, ...]]:
    size, more = divmod(len(items), parts)
    chunks, start = [], 0
    for index in range(parts):
        end = start + size + (1 if index < more else 0)
        if end > start:
            chunks.append(items[start:end])
        start = end
    return chunks


COMPARED = (
    "backend",
    "runtime",
    "runtime_args",
    "command",
    "program_files",
    "server",
    "contracts",
    "model",
    "base",
    "transformer",
    "transformer_2",
    "env",
    "pass_env",
    "sampling",
    "scheduler",
    "precision",
    "quantization",
    "loader",
    "execution",
)
"""Parts of a case in which two configurations may differ. A checkpoint or a server is one difference (`WHOLE`)."""
NOT_COMPARED = (
    *("id", "description", "runners", "timeouts", "perf", "metrics"),
    *("inspection", "golden_of", "expect", "waiver"),
)
"""Parts that name a case or judge it: they move neither the bytes that are inspected nor the frames."""
WHOLE = frozenset({"server", "model", "base", "transformer", "transformer_2"})


class Difference(Record):
    """One field with two values."""

    field: str
    good: Json
    bad: Json


class Tried(Record):
    """One run, as one line of the log."""

    key: str
    fields: tuple[str, ...]
    answer: Answer
    why: str


@dataclass(frozen=True)
class Bisection:
    """Result of a bisection."""

    smallest: tuple[Difference, ...]
    tried: tuple[Tried, ...]
    runs: int
    """Number of runs made now; the rest of ``tried`` was in the log already."""
    notes: tuple[str, ...] = ()
    """Lines of the log that could not be read. Their runs were repeated if needed."""


def differences(good: Case, bad: Case) -> tuple[Difference, ...]:
    """Return every field in which two cases differ."""
    before, after = good.model_dump(mode="json"), bad.model_dump(mode="json")
    changes: list[Difference] = []
    for name in COMPARED:
        old, new = before[name], after[name]
        if name in WHOLE or not isinstance(old, dict):
            if old != new:
                changes.append(Difference(field=name, good=old, bad=new))
            continue
        changes += [
            Difference(field=f"{name}.{key}", good=old.get(key), bad=new.get(key))
            for key in sorted(old.keys() | new.keys())
            if old.get(key) != new.get(key)
        ]
    return tuple(changes)


def apply_differences(good: Case, chosen: tuple[Difference, ...]) -> Case:
    """Return the good case with some differences applied."""
    data = good.model_dump(mode="json")
    for difference in chosen:
        name, _, key = difference.field.partition(".")
        if not key:
            data[name] = difference.bad
        elif difference.bad is None and name == "env":
            data[name].pop(key, None)
        else:
            data[name][key] = difference.bad
    return Case.model_validate(data)


def bisect(good: Case, bad: Case, test: Callable[[Case], tuple[Answer, str]], log: Path) -> Bisection:
    """Find the smallest set of differences that is red.

    Args:
        good, bad: two configurations.
        test: runs a configuration, and returns its result and the reason.
        log: JSON lines, one per run, each written when its run ends, so that an interrupted search continues.

    Raises:
        InvalidCaseError: nothing differs, or the bad configuration is not red.
    """
    changes = differences(good, bad)
    if not changes:
        raise InvalidCaseError("the two configurations do not differ in anything that moves the output", place=bad.id)
    logged, notes = read_log(log)
    tried = {entry.key: entry for entry in logged}
    before = len(tried)

    def ask(chosen: tuple[Difference, ...]) -> Answer:
        case = apply_differences(good, chosen)
        key = _key(case)
        if key not in tried:
            try:
                answer, why = test(case)
            except QuantgateError as error:
                answer, why = "unresolved", str(error)
            tried[key] = Tried(key=key, fields=tuple(difference.field for difference in chosen), answer=answer, why=why)
            log.parent.mkdir(parents=True, exist_ok=True)
            with log.open("a", encoding="utf-8") as out:
                out.write(tried[key].model_dump_json() + "\n")
        return tried[key].answer

    try:
        smallest = ddmin(changes, ask)
    except ValueError:
        outcome = tried[_key(apply_differences(good, changes))]
        raise InvalidCaseError(
            f"the bad configuration is {outcome.answer}: {outcome.why}",
            place=bad.id,
            remedy="bisect needs a configuration that is red when it runs here",
        ) from None
    return Bisection(smallest, tuple(tried.values()), len(tried) - before, notes)


class Tester:
    """Runs a configuration, and compares it with the good configuration's golden and limits.

    Identity is not compared, because a bisection starts from configurations that differ. Red: the bytes are faulty, the
    frames fail a check of sanity, have another shape, or lie outside the limits of the good configuration.

    Args:
        context: session context of the runs.
        good: the good case, whose golden and limits are used.

    Raises:
        InvalidCaseError: the good case has no golden or no limits here.
    """

    def __init__(self, context: SessionContext, good: Case) -> None:
        goldens = context.store.find(context.runner.name, good.id)
        limits = load_explained(context.thresholds, context.runner.name, good.id)
        if not goldens or limits is None:
            raise InvalidCaseError(
                "there is no golden with limits to call good",
                place=good.id,
                remedy=f"quantgate regenerate --case {good.id} --runner {context.runner.name}",
            )
        self._context, self._limits = context, limits
        self._golden = read_clip(goldens[-1].open_part(CLIP))
        self._session = Session(context)

    def close(self) -> None:
        """Stop the engines."""
        self._session.close()

    def __call__(self, case: Case) -> tuple[Answer, str]:
        """Run one configuration, and return its result and the reason."""
        report = inspect(case, self._context.root, resolve_case(case, self._context.root))
        if report.faults:
            return "red", f"{report.faults[0].code}: {report.faults[0].message}"
        folder = self._context.folder / "bisect" / _key(case)[:12]
        folder.mkdir(parents=True, exist_ok=True)
        generation = self._session.pool.get(case).generate(case, folder)
        clip = read_clip(folder / generation.clip)
        failed = look_at_frames(case, generation, clip).failures
        if failed:
            return "red", f"{failed[0].name}: {failed[0].message}"
        if clip.shape != self._golden.shape:
            return "red", f"frames are {clip.shape}, the good ones {self._golden.shape}"
        if clip.digest == self._golden.digest:
            return "green", "bit-exact"
        return _within(compare(self._golden, clip, case.metrics or None).metrics, self._limits)


def _within(metrics: tuple[MetricResult, ...], limits: LimitFile) -> tuple[Answer, str]:
    """Return red if a limit is broken; green only if every metric was computed, has a limit, and at least one gates."""
    inside: list[str] = []
    unknown: list[str] = []
    for metric in metrics:
        limit, value = limits.get(metric.name), metric.gating_value
        if value is None:
            unknown.append(f"{metric.name} was not computed{': ' + metric.why if metric.why else ''}")
        elif limit is None:
            unknown.append(f"{metric.name} has no limit")
        elif limit.limit is None or not limit.gates:
            continue
        elif not limit.admits(value):
            return "red", f"{metric.name} {value:.4g}, limit {limit.limit:.4g}"
        else:
            inside.append(f"{metric.name} {value:.4g}")
    if unknown or not inside:
        return "unresolved", "; ".join(unknown) or "no limit of the good configuration gates"
    return "green", f"inside all limits ({', '.join(inside)})"


def _key(case: Case) -> str:
    data = {name: value for name, value in case.model_dump(mode="json").items() if name in COMPARED}
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()


def read_log(log: Path) -> tuple[list[Tried], tuple[str, ...]]:
    """Read the runs in the log, and return them with notes on unreadable lines.

    An incomplete last line, left by an interruption, is removed from the file; the next line would be appended to it.
    """
    if not log.exists():
        return [], ()
    data = read_bytes(log)
    whole = data[: data.rfind(b"\n") + 1]
    notes: list[str] = []
    if whole != data:
        os.truncate(log, len(whole))
        notes.append(f"{log}: the last line was torn and is cut off")
    tried: list[Tried] = []
    for number, line in enumerate(whole.split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            tried.append(Tried.parse(line, f"{log}:{number}"))
        except UnreadableError:
            notes.append(f"{log}:{number}: cannot be read and is passed over")
    return tried, tuple(notes)
