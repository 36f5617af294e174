"""Format numbers, outcomes, commands and foreign text for a person."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import dataclass
from typing import Literal, NamedTuple

from harness.outcomes import GREEN, SEVERITY, Outcome
from harness.records.base import Json
from harness.records.case_record import CaseRecord
from harness.text import one_line


def number(value: float | None) -> str:
    """Format a number with four significant digits; a dash without a value."""
    return "–" if value is None else f"{value:.4g}"


def percent(value: float | None) -> str:
    """Format a share as a whole percentage (0.42 is ``42 %``), at most ``> 999 %``; a dash without a value."""
    if value is None:
        return "–"
    return "> 999 %" if value > 9.99 else f"{value * 100:.0f} %"


def seconds(value: float | None) -> str:
    """Format a duration in seconds: ``0.42 s``, ``12.3 s``, ``4 min 05 s``."""
    if value is None:
        return "–"
    if value < 60:
        return f"{value:.2f} s" if value < 10 else f"{value:.1f} s"
    return f"{int(value // 60)} min {int(value % 60):02d} s"


def size(value: int | None) -> str:
    """Format bytes in binary units: ``512 B``, ``1.5 MiB``."""
    if value is None:
        return "–"
    amount = float(value)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if amount < 1024 or unit == "GiB":
            break
        amount /= 1024
    return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"


def plain(value: Json) -> str:
    """Format a JSON value on one line: strings bare, ``None`` as a dash, any other value as JSON."""
    if value is None:
        return "–"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


_SENTENCE = 200
"""Approximate length of a headline, in characters."""


def headline(summary: str) -> tuple[str, str]:
    """Split a verdict's summary into its first sentence and the rest; if a sentence is cut, the rest is the whole text.

    The sentence ends at the first full stop before a capital letter, else at a semicolon or a comma near ``_SENTENCE``
    characters.
    """
    text = " ".join(summary.split())
    if match := re.search(r"(?<=[^.0-9A-Z])\. (?=[A-Z])", text):
        first, rest = text[: match.start() + 1], text[match.end() :]
    else:
        first, rest = text, ""
    if len(first) <= _SENTENCE:
        return first, rest
    for sign in ("; ", ": ", ", "):
        place = first.rfind(sign, 60, _SENTENCE)
        if place > 0:
            return f"{first[:place]} …", text
    return f"{first[:_SENTENCE]} …", text


def short_digest(value: str | None) -> str:
    """Return the first 12 characters of a digest; a dash without a value."""
    return value[:12] if value else "–"


# Labels of outcomes: a word, a sign and a tone, because colour alone does not reach every reader.


Tone = Literal["good", "bad", "doubt", "infra"]


class Label(NamedTuple):
    """The label of one outcome on a page."""

    word: str
    sign: str
    """A character that distinguishes the tones without colour."""
    tone: Tone


LABELS: dict[Outcome, Label] = {
    Outcome.PASS: Label("pass", "✓", "good"),
    Outcome.WAIVED: Label("waived", "≈", "good"),
    Outcome.REGRESSION: Label("regression", "✕", "bad"),
    Outcome.CHECKPOINT_FAULT: Label("checkpoint fault", "✕", "bad"),
    Outcome.UNEXPECTED_PASS: Label("unexpected pass", "✕", "bad"),
    Outcome.INCONCLUSIVE: Label("inconclusive", "?", "doubt"),
    Outcome.GOLDEN_MISSING: Label("golden missing", "?", "doubt"),
    Outcome.GOLDEN_STALE: Label("golden stale", "?", "doubt"),
    Outcome.ENVIRONMENT_MISMATCH: Label("environment mismatch", "?", "doubt"),
    Outcome.INVALID_CASE: Label("invalid case", "!", "infra"),
    Outcome.INFRA: Label("infra", "!", "infra"),
    Outcome.NO_RUNNER: Label("no runner", "!", "infra"),
    Outcome.NOT_RUN: Label("not run", "!", "infra"),
}


def is_red(record: CaseRecord) -> bool:
    """Return whether the case keeps the run from being green."""
    return record.verdict.outcome not in GREEN


def is_control(record: CaseRecord) -> bool:
    """Return whether this is a negative control that failed as it must: green, although its evidence is red."""
    verdict = record.verdict
    return verdict.outcome is Outcome.PASS and verdict.observed not in (None, Outcome.PASS)


def worst_first(record: CaseRecord) -> tuple[int, str, str]:
    """Return a sort key: the outcome's severity, negative controls before other passes, then the name."""
    control = 0 if is_control(record) else 1
    return SEVERITY.index(record.verdict.outcome) * 2 + control, record.case, record.runner


def count_words(outcomes: list[Outcome]) -> list[tuple[Outcome, int]]:
    """Count the cases per outcome, worst first, without outcomes that no case had."""
    return [(outcome, outcomes.count(outcome)) for outcome in SEVERITY if outcome in outcomes]


# The commands that a page offers. They are quoted: pasted into a shell they are safe with any name of a case.


_ACCEPTABLE = frozenset({Outcome.REGRESSION, Outcome.GOLDEN_MISSING, Outcome.GOLDEN_STALE})


@dataclass(frozen=True)
class Command:
    """A line for a shell, and its effect in words."""

    line: str
    does: str


def reproduce(record: CaseRecord) -> Command:
    """Return the command that runs this case again on this runner."""
    return Command(
        f"pytest {_quote(record.node)} --runner {_quote(record.runner)}", "run this case again, on this runner"
    )


def next_step(record: CaseRecord) -> str:
    """Return the next command or advice, as the terminal shows it; empty for a green case."""
    line = one_line(record.verdict.next_command)
    if record.verdict.outcome in GREEN:
        return ""
    return line or reproduce(record).line


@dataclass(frozen=True)
class Part:
    """A part of an advice: a line for a shell, or words."""

    text: str
    is_command: bool


_PROGRAMS = (
    "apt-get", "cat", "chmod", "curl", "df", "gh", "git", "hf", "ls", "nvidia-smi", "pip", "pytest", "python",
    "quantgate", "tail", "unzip",
)  # fmt: skip
_STARTS = re.compile(rf"(?:^|(?<=: )|(?<=then )|(?<=type )|(?<=: `))(?:(?:{'|'.join(_PROGRAMS)})(?= |$)|export \w+=)")
_ENDS = re.compile(r"""(?:'[^']*'|"[^"]*"|[^'"])*?(?=$|  \#|[,;] |`)""")


def parts(advice: str) -> tuple[Part, ...]:
    """Split an advice into commands and words, so that a page offers only commands for copying.

    For example, ``quantgate report runs/1  # look; if right: quantgate accept a --reason '...'`` has two commands, and
    words between them. The words come without the comment's ``#``.
    """
    pieces: list[Part] = []
    place = 0
    while place < len(advice):
        start = _STARTS.search(advice, place)
        words = advice[place : start.start() if start else len(advice)].strip(" ;,`").removeprefix("# ").strip()
        if words:
            pieces.append(Part(words, False))
        if start is None:
            break
        end = _ENDS.match(advice, start.start())
        command = end.group().strip() if end else advice[start.start() :].strip()
        try:
            shlex.split(command)
        except ValueError:
            # unbalanced quotes: pasting it would leave the shell waiting, so it is shown as words
            return (*pieces, Part(advice[start.start() :].strip(), False))
        pieces.append(Part(command, True))
        place = start.start() + len(command)
    return tuple(pieces)


def case_commands(record: CaseRecord) -> tuple[Command, ...]:
    """Return the commands that fit this outcome: reproduce, inspect, accept, history."""
    case, runner = _quote(record.case), _quote(record.runner)
    commands = [reproduce(record)]
    if record.inspection is not None:
        commands.append(
            Command(f"quantgate inspect --case {case}", "look at the checkpoint's bytes again; no GPU needed")
        )
    if record.verdict.outcome in _ACCEPTABLE and record.generation is not None:
        commands.append(accept_command(record))
    commands.append(Command(f"quantgate history {case} --runner {runner}", "how its measurements moved over past runs"))
    return tuple(commands)


def accept_command(record: CaseRecord) -> Command:
    """Return the command that makes this run's output the golden."""
    line = f"quantgate accept {_quote(record.case)} --runner {_quote(record.runner)} --reason '...'"
    return Command(line, "take this run's output as the new golden; no GPU needed")


def reject_command(record: CaseRecord) -> Command:
    """Return the command that drops the pending candidate."""
    line = f"quantgate reject {_quote(record.case)} --runner {_quote(record.runner)}"
    return Command(line, "drop the pending candidate; the run's own folder keeps what it has")


def _quote(text: str) -> str:
    return shlex.quote(one_line(text, limit=4000))
