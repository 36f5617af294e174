"""A change of a case as a patch of the file that it was written in, with comments and order kept."""

from __future__ import annotations

import difflib
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.errors import InvalidCaseError
from harness.records.base import Json


def patch(path: Path, case: str, changes: Mapping[str, Json], root: Path) -> str:
    """The unified diff that sets keys of one case in a case file; nothing is written.

    Args:
        path: the case file.
        case: id under ``cases:``; a case that a matrix made has no entry of its own.
        changes: ``key`` or ``key.inner`` to value.
        root: names in the diff are relative to it, so that ``git apply`` takes it.

    Raises:
        InvalidCaseError: the file has no such entry.
    """
    from ruamel.yaml import YAML
    from ruamel.yaml.comments import CommentedMap

    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = 4096
    yaml.indent(mapping=2, sequence=4, offset=2)
    before = path.read_text(encoding="utf-8")
    document: Any = yaml.load(before)
    entry: Any = document.get("cases", {}).get(case) if isinstance(document, Mapping) else None
    if not isinstance(entry, CommentedMap):
        raise InvalidCaseError(
            f"{case} has no entry of its own there", where=str(path), remedy="change its matrix by hand"
        )
    plain = io.StringIO()
    yaml.dump(document, plain)
    for name, value in changes.items():
        outer, _, inner = name.partition(".")
        if not inner:
            entry[outer] = _flow(value, CommentedMap)
            continue
        if not isinstance(entry.get(outer), CommentedMap):
            entry[outer] = _flow({}, CommentedMap)
        entry[outer][inner] = value
    after = io.StringIO()
    yaml.dump(document, after)
    name = path.relative_to(root).as_posix() if path.is_relative_to(root) else path.name
    lines = difflib.unified_diff(
        _changed_only(before, plain.getvalue(), plain.getvalue()).splitlines(keepends=True),
        _changed_only(before, plain.getvalue(), after.getvalue()).splitlines(keepends=True),
        f"a/{name}",
        f"b/{name}",
    )
    return "".join(lines)


def _changed_only(original: str, normal: str, changed: str) -> str:
    """``changed`` with the lines that only the YAML writer set otherwise put back as a person wrote them."""
    if original == normal:
        return changed
    written = dict(_pairs(normal.split("\n"), original.split("\n")))
    return "\n".join(written.get(line, line) for line in changed.split("\n"))


def _pairs(normal: list[str], original: list[str]) -> list[tuple[str, str]]:
    matcher = difflib.SequenceMatcher(a=normal, b=original, autojunk=False)
    found: list[tuple[str, str]] = []
    for tag, a1, a2, b1, b2 in matcher.get_opcodes():
        if tag == "replace" and a2 - a1 == b2 - b1:
            found += list(zip(normal[a1:a2], original[b1:b2], strict=True))
    return found


def _flow(value: Json, kind: type) -> Any:
    if not isinstance(value, dict):
        return value
    made = kind(value)
    made.fa.set_flow_style()
    return made
