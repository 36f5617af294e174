"""The run as one JSON document, for programs."""

from __future__ import annotations

import json

from harness.records.verdict import RULES
from harness.report.load import Run
from harness.report.markdown import totals
from harness.report.overview_page import sentence
from harness.report.shell import case_commands, next_step

SCHEMA_VERSION = 1


def run_json(run: Run) -> str:
    """Counts, exit code, and every record with the commands that go with it; redacted like every other surface."""
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
                "next": step.line if (step := next_step(entry.record)) else None,
                "commands": [item.line for item in case_commands(entry.record)],
                "record": entry.record.model_dump(mode="json"),
            }
            for entry in run.entries
        ],
    }
    return json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
