"""Which runner ``-m`` asks for: the one without whose marker the expression is true of no case."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from itertools import product

import pytest
from _pytest.mark.expression import Expression

_NAME = re.compile(r"[\w:+\-.\[\]\\/]+")
_MOST_NAMES = 12


def marked_runner(expression: str, runners: Collection[str]) -> str:
    """The runner that ``expression`` requires; empty where it names none.

    Args:
        expression: what ``-m`` was given.
        runners: names of the profiles, each a marker.

    Raises:
        pytest.UsageError: it names runners, and requires none or several of them.
    """
    names: list[str] = sorted(set(_NAME.findall(expression)) - {"and", "or", "not"})
    named = [name for name in names if name in runners]
    if not named:
        return ""
    try:
        compiled = Expression.compile(expression)
    except SyntaxError:
        return ""  # pytest itself says what is wrong with it
    required = set(named) if len(names) <= _MOST_NAMES else set()
    for values in product((False, True), repeat=len(names)) if required else ():
        marks = {name for name, value in zip(names, values, strict=True) if value}
        if compiled.evaluate(_Marks(marks)):
            required &= marks
    if len(required) != 1:
        raise pytest.UsageError(
            f"-m {expression!r} names {_listed(named)}, and a run is on one runner; it does not say which\n"
            f"  next: pytest --runner {named[0]} -m {expression!r}"
        )
    return required.pop()


def marker_line(name: str) -> str:
    """Line by which runner ``name`` is registered as a marker."""
    return f"{name}: a case for the runner profile runners/{name}.yaml"


def taken_by(name: str, lines: Iterable[str]) -> str:
    """The line of ``lines`` by which a plugin, a ``conftest.py`` or the project registers the marker ``name`` too.

    Args:
        name: of a runner.
        lines: pytest's ini setting ``markers`` after all plugins added theirs, such as ``skip(reason=None): ...``.

    Returns:
        An empty string if only quantgate registers it.
    """
    return next(
        (
            line
            for line in lines
            if re.split(r"[:(\s]", line.strip(), maxsplit=1)[0] == name and line != marker_line(name)
        ),
        "",
    )


class _Marks(frozenset[str]):
    def __call__(self, name: str, /, **_: str | int | bool | None) -> bool:
        return name in self


def _listed(names: list[str]) -> str:
    return f"{'runners' if len(names) > 1 else 'runner'} {', '.join(names)}"
