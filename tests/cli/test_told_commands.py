"""No message tells one to type a `quantgate` command that the command line refuses."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from typer.main import get_command

from harness.cli.app import app

ROOT = Path(__file__).parents[2]
FILLED = "7"
"""Stands for every placeholder of an f-string; a number too, as some options need."""
COMMAND = re.compile(r"\bquantgate (?=[\w-])((?:'[^']*'|[^\n`,;)'])*)")
"""A command ends with its sentence's part, with the backtick that it began with, or with the line."""
PROSE = {
    FILLED,
    "and is",
    "is not",
    "lacks the",
    "on GitHub",
    "case file",
    f"knows {FILLED}",
    "lane -->",
    "never ends",
    f"on {FILLED}:",
    f"runner: {FILLED}",
    "verdicts",
}
"""First two words after the program's name where it is spoken of, and no command is meant."""


class Told(NamedTuple):
    """One command in one string of the source."""

    place: str
    line: str


def texts(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Every string that can reach a person, f-strings filled in; not docstrings, and not what is only compared with."""
    skipped: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr):
            skipped.add(id(node.value))
        elif isinstance(node, ast.JoinedStr):
            skipped |= {id(part) for part in node.values}
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "startswith":
            skipped |= {id(argument) for argument in node.args}
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.JoinedStr):
            parts = (str(part.value) if isinstance(part, ast.Constant) else FILLED for part in node.values)
            yield node.lineno, "".join(parts)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.lineno, node.value


def commands(source: str, place: str) -> Iterator[Told]:
    """Every command that a source file tells somebody to type."""
    if "quantgate " not in source:  # most files: parsing and walking all of them takes seconds per test process
        return
    for line, text in texts(ast.parse(source)):
        for found in COMMAND.finditer(text):
            words = found[1].split()
            if " ".join(words[:2]) not in PROSE:
                yield Told(f"{place}:{line}", found[1].strip())


@cache
def whole_command() -> Any:
    """The command line, built once: parsing changes nothing in it."""
    return get_command(app)


def parse(line: str) -> None:
    """Let the real command line parse a command, and run nothing.

    Raises:
        UsageError: it refuses; typer's own or click's, by version.
    """
    command: Any = whole_command()
    # what follows a # is for the reader, and a shell passes over it; `...` stands for the reason that a person writes
    words = ["a reason" if word == "..." else word for word in shlex.split(line, comments=True)]
    while hasattr(command, "commands"):
        name, command, words = command.resolve_command(command.context_class(command), words)
    with command.make_context(name, list(words)):
        pass


ALL = [
    told
    for path in sorted((ROOT / "harness").rglob("*.py"))
    for told in commands(path.read_text(encoding="utf-8"), path.relative_to(ROOT).as_posix())
]


@pytest.mark.parametrize("printed", ALL, ids=lambda printed: f"{printed.place} {printed.line}")
def test_what_is_told_can_be_typed(printed: Told) -> None:
    parse(printed.line)


def test_commands_are_found_in_all_their_forms() -> None:
    source = '''
"""quantgate docstring --here"""
a = "quantgate cases"
b = f"first: quantgate accept {case} --runner {quote(runner)} --reason '..., ...', if that is right"
c = "or `quantgate goldens pull` where there is a network; then quantgate lock, and look"
d = line.startswith("quantgate report ")
e = f"the quantgate runner: {name}"
'''
    assert [printed.line for printed in commands(source, "a.py")] == [
        "cases",
        f"accept {FILLED} --runner {FILLED} --reason '..., ...'",
        "goldens pull",
        "lock",
    ]
    assert {"accept", "doctor", "goldens", "inspect", "regenerate", "resolve"} <= {
        printed.line.split()[0] for printed in ALL
    }


@pytest.mark.parametrize(
    "line",
    [
        "regenerate x --runner x",
        "cases --no-such-option",
        "no-such-command",
        "goldens no-such-command",
        "accept --also",
    ],
)
def test_the_parser_does_refuse(line: str) -> None:
    with pytest.raises(Exception, match=r"(?i)no such|unexpected|missing"):
        parse(line)
