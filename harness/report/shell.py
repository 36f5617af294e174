"""The commands that a page offers: pasted into a shell they do what they say, whatever the case is called."""

from __future__ import annotations

import shlex
from dataclasses import dataclass

from harness.records.case_record import CaseRecord
from harness.records.verdict import GREEN, Outcome
from harness.report.text import one_line

_ACCEPTABLE = frozenset({Outcome.REGRESSION, Outcome.GOLDEN_MISSING, Outcome.GOLDEN_STALE})


@dataclass(frozen=True)
class Command:
    """One line for a shell, and what it does."""

    line: str
    does: str


def reproduce(record: CaseRecord) -> Command:
    """Run this one case again on this runner."""
    return Command(
        f"pytest {_quote(record.node)} --runner {_quote(record.runner)}", "run this case again, on this runner"
    )


def next_step(record: CaseRecord) -> Command | None:
    """What to type next; the way to this page is no way on, so it becomes the way to run the case again."""
    line = one_line(record.verdict.next_command)
    if record.verdict.outcome in GREEN:
        return None
    if not line or line.startswith("quantgate report "):
        return reproduce(record)
    return Command(line, "next")


def case_commands(record: CaseRecord) -> tuple[Command, ...]:
    """Reproduce, inspect, accept, history: those that make sense for this outcome."""
    case, runner = _quote(record.case), _quote(record.runner)
    found = [reproduce(record)]
    if record.inspection is not None:
        found.append(Command(f"quantgate inspect --case {case}", "look at the checkpoint's bytes again; no GPU needed"))
    if record.verdict.outcome in _ACCEPTABLE and record.generation is not None:
        found.append(accept_command(record))
    found.append(Command(f"quantgate history {case} --runner {runner}", "how its measurements moved over past runs"))
    return tuple(found)


def accept_command(record: CaseRecord) -> Command:
    """Make this run's output the golden."""
    line = f"quantgate accept {_quote(record.case)} --runner {_quote(record.runner)} --reason '...'"
    return Command(line, "take this run's output as the new golden; no GPU needed")


def reject_command(record: CaseRecord) -> Command:
    """Drop the pending candidate."""
    line = f"quantgate reject {_quote(record.case)} --runner {_quote(record.runner)}"
    return Command(line, "drop the pending candidate; the run's own folder keeps what it has")


def _quote(text: str) -> str:
    return shlex.quote(one_line(text, limit=4000))
