"""Write the table of verdicts in ``docs/verdicts.md``: ``python -m benchmarks.pages.verdicts``."""

from __future__ import annotations

from pathlib import Path

from harness.outcomes import RULES, SEVERITY
from harness.records.base import write_text_atomic

PAGE = Path(__file__).parents[2] / "docs" / "verdicts.md"
BEGIN, END = "<!-- table: written by python -m benchmarks.pages.verdicts -->", "<!-- end of table -->"


def table() -> str:
    """Return the Markdown table of verdict, exit code, retry, JUnit outcome and meaning; worst first."""
    rows = ["| verdict | exit code | retried | JUnit | meaning |", "|---|---|---|---|---|"]
    for outcome in SEVERITY:
        rule = RULES[outcome]
        retry = "once, on another engine" if rule.retry else "never"
        rows.append(f"| `{outcome.value}` | {rule.exit_code} | {retry} | {rule.junit} | {rule.meaning} |")
    return "\n".join(rows)


def written(page: str) -> str:
    """Return ``page`` with the table between its marks.

    Raises:
        ValueError: ``page`` lacks a mark.
    """
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{PAGE} lacks {BEGIN} or {END}")
    return f"{before}{BEGIN}\n{table()}\n{END}{after}"


if __name__ == "__main__":
    write_text_atomic(PAGE, written(PAGE.read_text(encoding="utf-8")))
