"""Choose the sentences and rows of a lane's job summary, which is also its single comment on the pull request.

`harness.report.markdown` does so for a run that was not planned; `harness.markdown` writes both.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence

from harness.lane.coverage import Change, Coverage
from harness.lane.merge import Merged, MergedCase
from harness.lane.plan import Plan
from harness.markdown import SUMMARY_BYTES, bounded, neutral, table
from harness.outcomes import GREEN, SEVERITY
from harness.records.base import Json

MARK = "<!-- quantgate lane -->"
"""First line of the comment; a later run finds the comment by it."""
MAX_ROWS = 200
MAX_CELL = 300
_CUT = "This is cut: the rest is in the records and in the plan file."


def plan_markdown(plan: Plan) -> str:
    """Return the plan in Markdown: shards, expected times, and the change of the coverage."""
    least = _ratio(plan.makespan, plan.lower_bound)
    expected = f"expected {_minutes(plan.makespan)}, {least} of the least possible"
    planned = f"{len(plan.cases)} cases on {plan.shards} shards; {expected}."
    lines = [
        f"### Plan for runner {_text(plan.runner)}",
        "",
        planned,
        "",
        *(f"- {_text(note)}" for note in plan.notes),
    ]
    return _joined([*lines, "", *coverage_lines(plan.coverage)])


def lane_markdown(merged: Merged, plan: Plan) -> str:
    """Return the result of the whole lane after the merge, in Markdown."""
    counts = Counter(case.outcome for case in merged.cases)
    counted = ", ".join(f"{counts[outcome]} {outcome.value}" for outcome in SEVERITY if counts[outcome])
    sign = "green" if merged.exit_code == 0 else f"red (exit code {merged.exit_code})"
    lines = [
        MARK,
        f"### quantgate on {_text(merged.runner)}: {sign}",
        "",
        f"{len(merged.cases)} planned cases: {counted}",
        "",
    ]
    red = sorted(
        (case for case in merged.cases if case.outcome not in GREEN or case.attempt > 1),
        key=lambda case: SEVERITY.index(case.outcome),
    )
    if red:
        lines += table(("case", "verdict", "cause", "what", "shard"), [_row(case, plan) for case in red[:MAX_ROWS]])
        lines += [f"\n{len(red) - MAX_ROWS} more are in the records."] if len(red) > MAX_ROWS else []
        lines.append("")
    lines += coverage_lines(plan.coverage)
    lines += _longest(merged, plan)
    if merged.problems:
        lines += ["", "Problems while merging:", "", *(f"- {_text(text)}" for text in merged.problems[:MAX_ROWS])]
    return _joined(lines)


def _joined(lines: Sequence[str]) -> str:
    return bounded("\n".join(lines).rstrip() + "\n", SUMMARY_BYTES, _CUT)


def coverage_lines(coverage: Coverage | None) -> list[str]:
    """Return the change of the set of cases as a table; one sentence if nothing changed."""
    if coverage is None:
        return []
    if not coverage.changes and not coverage.unreadable and not coverage.faults:
        return [f"Coverage against {_text(coverage.against)}: no case, checkpoint, environment or limit changed.", ""]
    lines = [f"Coverage against {_text(coverage.against)}:", ""]
    if coverage.changes:
        rows = [_change(change) for change in coverage.changes[:MAX_ROWS]]
        lines += table(("change", "case", "field", "before", "after", "reason"), rows)
        more = len(coverage.changes) - MAX_ROWS
        lines += [f"\n{more} more changes are in the plan file."] if more > 0 else []
        lines.append("")
    lines += [f"- cannot be used: {_text(fault)}" for fault in coverage.faults]
    lines += [f"- not comparable: {_text(problem)}" for problem in coverage.unreadable]
    return [*lines, ""]


def _row(case: MergedCase, plan: Plan) -> list[str]:
    again = f" (attempt {case.attempt})" if case.attempt > 1 else ""
    shard = f"{case.shard}/{plan.shards}"
    return [_text(cell) for cell in (case.case, case.outcome.value + again, case.cause, case.summary, shard)]


def _change(change: Change) -> list[str]:
    label: str = change.kind
    if change.looser and change.kind == "limit":
        label = "limit loosened" if change.field else "limits removed"
    elif change.looser and change.kind == "baseline":
        label = "baseline loosened" if change.field else "baseline removed"
    elif change.looser:
        label = f"{change.kind}, lets more through"
    reason = change.reason or ("NONE GIVEN" if change.kind == "removed" or change.looser else "")
    cells = (label, change.case, change.field, _json(change.before), _json(change.after), reason)
    return [_text(cell) for cell in cells]


def _longest(merged: Merged, plan: Plan) -> list[str]:
    by_shard = [
        sum(case.seconds for case in merged.cases if case.shard == shard) for shard in range(1, plan.shards + 1)
    ]
    if not any(by_shard):
        return []
    return [f"Longest shard: {_minutes(max(by_shard))} of cases; planned {_minutes(plan.makespan)}."]


def _json(value: Json) -> str:
    return "" if value is None else value if isinstance(value, str) else json.dumps(value, sort_keys=True)


def _text(text: str) -> str:
    """Return text of unknown origin so that it cannot break the table, mention a person, link or be HTML."""
    return neutral(text, MAX_CELL)


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.1f} min"


def _ratio(value: float, bound: float) -> str:
    return f"{value / bound:.2f} times" if bound else "1.00 times"
