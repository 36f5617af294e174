"""Tells pytest that a folder holds cases: one line in the settings file that the project has, or a new ``pytest.ini``.

A case is collected only where the project is configured (``quantgate_cases``), so that quantgate, installed in the
environment of another project, leaves its YAML files alone.
"""

from __future__ import annotations

import configparser
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from harness.reading import parse_toml, read_text
from harness.records.base import write_text_atomic

KEY = "quantgate_cases"
NEW = f"[pytest]\n{KEY} = cases\n"
"""The settings file of a project that has none. Its tests, if it has any, are collected as before."""
_TOML_LINE = f'{KEY} = "cases"'
_INI_LINE = f"{KEY} = cases"
_Parse = Callable[[str], dict[str, Any]]
_TOML = ("pytest.toml", ".pytest.toml")
_INI = ("pytest.ini", ".pytest.ini")


class Setting(NamedTuple):
    """Change that was made, or the step that a person has to take."""

    path: Path
    """The settings file that pytest reads."""
    changed: bool
    by_hand: str = ""
    """The line to add, where the file could not be edited without risk."""


def configure(root: Path) -> Setting:
    """Name the folder of the cases in the settings file that pytest reads for ``root``.

    The file is edited as text, and written only if reading it again shows the new line and nothing else changed.

    Args:
        root: the folder that holds ``cases/``.
    """
    for name in _TOML:
        if (root / name).is_file():
            return _edit(root / name, _toml, ("pytest",), _TOML_LINE)
    for name in _INI:
        if (root / name).is_file():
            return _edit(root / name, _ini, ("pytest",), _INI_LINE)
    pyproject = root / "pyproject.toml"
    if pyproject.is_file():
        tool = _section(_read(pyproject, _toml), ("tool", "pytest"))
        if tool is not None:
            native = any(name != "ini_options" for name in tool)
            section: tuple[str, ...] = ("tool", "pytest") if native else ("tool", "pytest", "ini_options")
            return _edit(pyproject, _toml, section, _TOML_LINE)
    for name, header in (("tox.ini", "pytest"), ("setup.cfg", "tool:pytest")):
        if (root / name).is_file() and _section(_read(root / name, _ini), (header,)) is not None:
            return _edit(root / name, _ini, (header,), _INI_LINE)
    if pyproject.is_file():
        return _edit(pyproject, _toml, ("tool", "pytest", "ini_options"), _TOML_LINE)
    write_text_atomic(root / "pytest.ini", NEW)
    return Setting(root / "pytest.ini", changed=True)


def _edit(path: Path, parse: _Parse, section: tuple[str, ...], line: str) -> Setting:
    before = _read(path, parse)
    if before is not None and KEY in (_section(before, section) or {}):
        return Setting(path, changed=False)
    by_hand = f"{'.'.join(section)}: {line}"
    if before is None:
        return Setting(path, changed=False, by_hand=by_hand)
    text = read_text(path)
    header = re.compile(rf"^\[\s*{re.escape('.'.join(section))}\s*\][^\n]*$", re.MULTILINE)
    match = header.search(text)
    if match:
        new = f"{text[: match.end()]}\n{line}{text[match.end() :]}"
    else:
        new = f"{text.rstrip()}\n\n[{'.'.join(section)}]\n{line}\n"
    try:
        after = parse(new)
    except (ValueError, configparser.Error):
        return Setting(path, changed=False, by_hand=by_hand)
    values = _section(after, section)
    if values is None or values.pop(KEY, None) != "cases":
        return Setting(path, changed=False, by_hand=by_hand)
    if not match:
        _prune(after, section)
    if after != before:
        return Setting(path, changed=False, by_hand=by_hand)
    write_text_atomic(path, new)
    return Setting(path, changed=True)


def _read(path: Path, parse: _Parse) -> dict[str, Any] | None:
    """The settings, or ``None`` where pytest could not read the file either."""
    try:
        return parse(read_text(path))
    except (ValueError, configparser.Error):
        return None


def _toml(text: str) -> dict[str, Any]:
    return parse_toml(text, "settings")


def _ini(text: str) -> dict[str, Any]:
    parser = configparser.RawConfigParser(strict=True, allow_no_value=True)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(text)
    return {section: dict(parser.items(section)) for section in parser.sections()}


def _section(settings: dict[str, Any] | None, section: tuple[str, ...]) -> dict[str, Any] | None:
    value: Any = settings
    for name in section:
        value = value.get(name) if isinstance(value, dict) else None
    return value if isinstance(value, dict) else None


def _prune(settings: dict[str, Any], section: tuple[str, ...]) -> None:
    """Remove the tables of ``section`` that are empty now, innermost first: they came with the new line."""
    for end in range(len(section), 0, -1):
        above: Any = settings
        for name in section[: end - 1]:
            above = above[name]
        if above[section[end - 1]] != {}:
            return
        del above[section[end - 1]]
