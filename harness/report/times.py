"""Draw time and memory of a run as bars: the distance of each measure from its baseline, relative to its limit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from harness.perf.comparing import BAD, amount
from harness.perf.measures import GROWTH, WORDS
from harness.records.case_record import CaseRecord
from harness.records.perf import PerfComparison
from harness.report.bars import BAR_WIDTH, LIMIT_AT

_SIGNS = {"slower": "failed", "more_memory": "failed", "leak": "failed", "within": "passed"}


@dataclass(frozen=True)
class TimeBar:
    """One row of the table of times and memory. It has the fields that a template needs to draw a limit's bar."""

    measure: str
    value: str
    baseline: str
    limit: str
    change: str
    """Change relative to the baseline, such as ``+12.3%``."""
    consumed: str
    width: float
    beyond: bool
    state: str
    """``passed``, ``failed``, ``shown`` (does not gate, or better than the baseline), ``none`` (no baseline)."""
    metric: str
    note: str


def time_bars(record: CaseRecord) -> tuple[TimeBar, ...]:
    """Return a bar per measure of time and memory: gating measures that are worse first, then other gating ones."""
    rows = record.perf.comparisons if record.perf else ()
    return tuple(map(_bar, sorted(rows, key=lambda row: (row.state not in BAD or not row.gates, not row.gates))))


def perf_sentence(record: CaseRecord) -> str:
    """Return time and memory in one sentence, for tables; empty if there is no comparison or the summary holds it."""
    report = record.perf
    if report is None or report.state == "unmeasured" or record.verdict.summary.startswith(report.message):
        return ""
    return report.message


def perf_counts(records: Iterable[CaseRecord]) -> str:
    """Return in one line how many cases had their time and memory compared; missing baselines are counted too."""
    states = Counter(record.perf.state for record in records if record.perf is not None)
    total = sum(states.values())
    if not total:
        return ""
    missing = states.pop("unmeasured", 0)
    counts_text = ", ".join(f"{count} {state.replace('_', ' ')}" for state, count in sorted(states.items()))
    judged = f"time and memory: {counts_text}" if counts_text else "time and memory"
    if not missing:
        return judged
    return f"{judged}{', ' if counts_text else ': '}{missing} of {total} perf_unmeasured (quantgate regenerate --perf)"


def _bar(row: PerfComparison) -> TimeBar:
    share = 0.0
    if row.limit is not None and row.baseline is not None and row.limit > row.baseline:
        share = max(0.0, (row.value - row.baseline) / (row.limit - row.baseline))
    width = LIMIT_AT * share
    state = _SIGNS.get(row.state, "shown") if row.gates else "shown"
    if row.state == "unmeasured":
        state = "none"
    return TimeBar(
        measure=row.measure,
        value=amount(row.value, row.unit),
        baseline="–" if row.baseline is None else amount(row.baseline, row.unit),
        limit="–" if row.limit is None else amount(row.limit, row.unit),
        change="–" if row.ratio is None or row.measure in GROWTH else f"{row.ratio - 1:+.1%}",
        consumed=f"{share:.0%}",
        width=min(width, BAR_WIDTH),
        beyond=width > BAR_WIDTH,
        state=state,
        metric=WORDS[row.measure],
        note=_note(row, state),
    )


def _note(row: PerfComparison, state: str) -> str:
    if row.state in ("inconclusive", "faster", "less_memory"):
        return row.state.replace("_", " ")
    if row.state == "unmeasured":
        return row.message.partition(": ")[2] or "no baseline"
    return "" if row.gates else ("does not gate" if state == "shown" else "")
