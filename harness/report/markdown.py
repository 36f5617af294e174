"""Choose the sentences and rows of a run's job summary and of its comment on a pull request.

`harness.lane.summary` does so for the plan and the merged shards of a lane; `harness.markdown` writes both.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable

from harness.markdown import COMMENT_CHARACTERS, RESERVED, SUMMARY_BYTES, bounded, code, fenced, neutral, table
from harness.outcomes import RULES
from harness.records.case_record import CaseRecord
from harness.report.bars import bars
from harness.report.load import Entry, Run
from harness.report.overview_page import machines, sentence
from harness.report.text import LABELS, case_commands, count_words, is_control, next_step, parts, plain
from harness.report.times import perf_counts, perf_sentence

_TONES = {"good": "🟢", "bad": "🔴", "doubt": "🟡", "infra": "🟣"}
_COMMENT_DETAILS = 10


def job_summary(run: Run) -> str:
    """Return the text for ``$GITHUB_STEP_SUMMARY``: a table of all cases, and details of each red case."""
    head = [f"## {_headline(run)}", "", *_machines(run), "", *_table(run.entries), "", *_times(run), *_unreadable(run)]
    return _fit(head, [_details(entry.record) for entry in run.red], SUMMARY_BYTES)


def comment(run: Run) -> str:
    """Return the comment for a pull request: cases that are not green, and commands. The first line is its marker."""
    head = [marker(run), f"### {_headline(run)}", ""]
    if run.red:
        head += [*_table(run.red), ""]
    head += _unreadable(run)
    green = len(run.entries) - len(run.red)
    if green and run.red:
        head += [f"{green} other case{'s are' if green != 1 else ' is'} green.", ""]
    head += _times(run)
    head += _machines(run)
    return _fit(head, [_details(entry.record) for entry in run.red[:_COMMENT_DETAILS]], COMMENT_CHARACTERS)


def marker(run: Run) -> str:
    """Return an HTML comment by which a later run finds and replaces the comment: equal for equal sets of runners."""
    runners = "+".join(sorted({re.sub(r"[^A-Za-z0-9_]", "_", entry.record.runner) for entry in run.entries}))
    return f"<!-- quantgate-report:{runners} -->"


def _headline(run: Run) -> str:
    return f"{'🟢' if run.green else '🔴'} quantgate: {neutral(sentence(run))}"


def _machines(run: Run) -> list[str]:
    return [f"<sub>{neutral(run.name)} · {' / '.join(neutral(line) for line in machines(run))}</sub>"]


def _times(run: Run) -> list[str]:
    """Return the lines on time and memory: the number of compared cases, and each unusual case."""
    counted = perf_counts(entry.record for entry in run.entries)
    unusual = [
        f"- {code(entry.record.case)}: {neutral(entry.record.perf.message)}"
        for entry in run.entries
        if entry.record.perf is not None and entry.record.perf.state not in ("within", "unmeasured")
    ]
    return (
        [f"{neutral(counted[:1].upper() + counted[1:])}.", "", *unusual, *([""] if unusual else [])] if counted else []
    )


def _unreadable(run: Run) -> list[str]:
    return [f"- 🟣 record {code(item.path)} cannot be read: {neutral(item.why)}" for item in run.unreadable]


def _table(entries: tuple[Entry, ...]) -> list[str]:
    rows: list[tuple[str, str, str, str]] = []
    for entry in entries:
        record = entry.record
        shown = LABELS[record.verdict.outcome]
        word = f"{_TONES[shown.tone]} {shown.word}"
        if is_control(record):
            word += " (negative control)"
        gating = [bar for bar in bars(record) if bar.state in ("passed", "failed", "missing")]
        near = f"{neutral(gating[0].metric)} {neutral(gating[0].consumed)}" if gating else ""
        sentence = "; ".join(text for text in (record.verdict.summary, perf_sentence(record)) if text)
        rows.append((word, code(record.case), neutral(sentence), near))
    return table(("verdict", "case", "what was found", "nearest limit"), rows)


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
    first = [part.text for part in parts(step) if part.is_command]
    commands = dict.fromkeys([*first, *(item.line for item in case_commands(record))])
    # a path with a line break must not begin a line of its own, which another bot could take for a command to it
    lines += ["", fenced("\n".join(" ".join(line.splitlines()) for line in commands), "sh"), "", "</details>", ""]
    return "\n".join(lines)


def _changes(record: CaseRecord) -> Iterable[str]:
    for change in record.changes[:12]:
        before, after = code(plain(change.golden)), code(plain(change.run))
        yield f"- changed, {change.identity_class}: {code(change.field)} {before} → {after}"
    if len(record.changes) > 12:
        yield f"- and {len(record.changes) - 12} more changes"


def _fit(head: list[str], details: list[str], limit: int) -> str:
    """Join head and as many details as fit under ``limit`` bytes; a last line counts the details left out."""
    text = "\n".join(head).rstrip() + "\n\n"
    if len(text.encode()) > limit - RESERVED:
        return bounded(text, limit, "This is cut: the rest is in the report.")
    for place, detail in enumerate(details):
        if len((text + detail).encode()) > limit - RESERVED:
            return text + f"\n{len(details) - place} more cases are in the report.\n"
        text += detail + "\n"
    return text


def totals(run: Run) -> dict[str, int]:
    """Return the number of cases per outcome."""
    counts = count_words([entry.record.verdict.outcome for entry in run.entries])
    return {outcome.value: count for outcome, count in counts}


# The run as a JSON document, for programs.


SCHEMA_VERSION = 1


def run_json(run: Run) -> str:
    """Return the run as JSON: counts, exit code, and every record with its commands, redacted like all other output."""
    document = {
        "schema_version": SCHEMA_VERSION,
        "run": run.name,
        "green": run.green,
        "exit_code": RULES[run.outcome].exit_code,
        "sentence": sentence(run),
        "counts": totals(run),
        "unreadable": [{"path": item.path, "why": item.why} for item in run.unreadable],
        "cases": [
            {
                "next": next_step(entry.record) or None,
                "commands": [item.line for item in case_commands(entry.record)],
                "record": entry.record.model_dump(mode="json"),
            }
            for entry in run.entries
        ],
    }
    return json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
