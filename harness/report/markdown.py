"""The run as GitHub Markdown: the job summary, and the comment that is kept up to date on a pull request."""

from __future__ import annotations

import re
from collections.abc import Iterable

from harness.records.case_record import CaseRecord
from harness.report.bars import bars
from harness.report.labels import LABELS, count_words, is_control
from harness.report.load import Entry, Run
from harness.report.neutral import code, fenced, neutral
from harness.report.overview_page import machines, sentence
from harness.report.shell import case_commands, next_step
from harness.report.text import plain

SUMMARY_BYTES = 1024 * 1024
"""GitHub refuses a longer step summary."""
COMMENT_CHARACTERS = 65536
"""GitHub refuses a longer comment."""
_ROOM = 400
_TONES = {"good": "🟢", "bad": "🔴", "doubt": "🟡", "infra": "🟣"}
_COMMENT_DETAILS = 10


def job_summary(run: Run) -> str:
    """For ``$GITHUB_STEP_SUMMARY``: every case in a table, details of each that is not green."""
    head = [f"## {_headline(run)}", "", *_machines(run), "", *_table(run.entries), "", *_unreadable(run)]
    return _fit(head, [_details(entry.record) for entry in run.red], SUMMARY_BYTES)


def comment(run: Run) -> str:
    """For a pull request: what is not green, and what to type. Its first line is the mark to find it by."""
    head = [marker(run), f"### {_headline(run)}", ""]
    if run.red:
        head += [*_table(run.red), ""]
    head += _unreadable(run)
    green = len(run.entries) - len(run.red)
    if green and run.red:
        head += [f"{green} other case{'s are' if green != 1 else ' is'} green.", ""]
    head += _machines(run)
    return _fit(head, [_details(entry.record) for entry in run.red[:_COMMENT_DETAILS]], COMMENT_CHARACTERS)


def marker(run: Run) -> str:
    """An HTML comment that names the comment's place: one a set of runners, whatever the run is called."""
    runners = "+".join(sorted({re.sub(r"[^A-Za-z0-9_]", "_", entry.record.runner) for entry in run.entries}))
    return f"<!-- quantgate-report:{runners} -->"


def _headline(run: Run) -> str:
    return f"{'🟢' if run.green else '🔴'} quantgate: {neutral(sentence(run))}"


def _machines(run: Run) -> list[str]:
    return [f"<sub>{neutral(run.name)} · {' / '.join(neutral(line) for line in machines(run))}</sub>"]


def _unreadable(run: Run) -> list[str]:
    return [f"- 🟣 record {code(item.path)} cannot be read: {neutral(item.why)}" for item in run.unreadable]


def _table(entries: tuple[Entry, ...]) -> list[str]:
    rows = ["| verdict | case | what was found | nearest limit |", "|---|---|---|---|"]
    for entry in entries:
        record = entry.record
        shown = LABELS[record.verdict.outcome]
        word = f"{_TONES[shown.tone]} {shown.word}"
        if is_control(record):
            word += " (negative control)"
        gating = [bar for bar in bars(record) if bar.state in ("passed", "failed", "missing")]
        near = f"{neutral(gating[0].metric)} {neutral(gating[0].consumed)}" if gating else ""
        rows.append(f"| {word} | {code(record.case)} | {neutral(record.verdict.summary)} | {near} |")
    return rows


def _details(record: CaseRecord) -> str:
    shown = LABELS[record.verdict.outcome]
    lines = [
        f"<details><summary>{_TONES[shown.tone]} {code(record.case)}: {neutral(record.verdict.summary)}</summary>",
        "",
    ]
    lines += [
        f"- {neutral(finding.stage)}: {neutral(finding.message)} ({code(finding.code)})"
        for finding in record.verdict.findings
    ]
    lines += _changes(record)
    step = next_step(record)
    commands = dict.fromkeys([*([step.line] if step else []), *(item.line for item in case_commands(record))])
    lines += ["", fenced("\n".join(commands), "sh"), "", "</details>", ""]
    return "\n".join(lines)


def _changes(record: CaseRecord) -> Iterable[str]:
    for change in record.changes[:12]:
        before, after = code(plain(change.golden)), code(plain(change.run))
        yield f"- changed, {change.identity_class}: {code(change.field)} {before} → {after}"
    if len(record.changes) > 12:
        yield f"- and {len(record.changes) - 12} more changes"


def _fit(head: list[str], details: list[str], limit: int) -> str:
    """Head and as many details as fit under ``limit`` bytes; what is left out is counted."""
    text = "\n".join(head).rstrip() + "\n\n"
    if len(text.encode()) > limit - _ROOM:
        whole = text.encode()[: limit - _ROOM].decode("utf-8", errors="ignore")
        return whole[: whole.rfind("\n") + 1] + "\nThis is cut: the rest is in the report.\n"
    for place, detail in enumerate(details):
        if len((text + detail).encode()) > limit - _ROOM:
            return text + f"\n{len(details) - place} more cases are in the report.\n"
        text += detail + "\n"
    return text


def totals(run: Run) -> dict[str, int]:
    """Cases by outcome."""
    found = count_words([entry.record.verdict.outcome for entry in run.entries])
    return {outcome.value: count for outcome, count in found}
