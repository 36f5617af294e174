"""The files that a case's ``command`` runs, by content: an edited program is named in "what changed"."""

from __future__ import annotations

import ast
import hashlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from harness.definitions.case import Case
from harness.definitions.program import ROOT, filled
from harness.errors import InvalidCaseError

MOST_FILES = 5000
"""Files that one ``program_files`` may name: a glob that takes in a checkpoint is a mistake."""
LARGEST_FILE = 256 << 20
"""Bytes of the largest file that an argument may name as part of the program."""
_SKIPPED = frozenset({".git", ".venv", "__pycache__", "node_modules", "runs", "goldens", ".quantgate"})


def program_digests(case: Case, root: Path) -> dict[str, str]:
    """Digest the program of a case.

    The program is: the executable itself; every argument that names a file; ``-m module`` where the repository holds
    it; the modules of the repository that those Python files import, directly or through each other; and what
    ``program_files`` names. Libraries of the environment are told by their versions, if at all.

    Args:
        case: with ``{case_dir}`` replaced already.
        root: the repository's root, absolute.

    Returns:
        sha256 by path, relative to the root for files below it; empty without a ``command``.

    Raises:
        InvalidCaseError: a glob of ``program_files`` names nothing, or more than ``MOST_FILES`` files.
    """
    if not case.command:
        return {}
    files = dict.fromkeys(_named(case, root))
    for path in _imported([path for path in files if path.suffix == ".py"], root):
        files.setdefault(path)
    for glob in case.program_files:
        files.update(dict.fromkeys(_globbed(glob, case, root)))
    return {_shown(path, root): _sha256(path) for path in files}


def _named(case: Case, root: Path) -> Iterator[Path]:
    """Files that the command names; the executable through PATH where it is no path."""
    words = [filled(word, {ROOT: str(root)}) for word in case.command]
    executable = shutil.which(words[0]) if "/" not in words[0] else None
    if executable is not None:
        yield Path(executable)
    for before, word in zip(["", *words], words, strict=False):
        if before == "-m":
            yield from _module(word, [root])
            yield from (path for path in [root.joinpath(*word.split("."), "__main__.py")] if path.is_file())
            continue
        value = word.partition("=")[2] if word.startswith("-") else word  # --config=settings.yaml
        if value and len(value) < 4096 and "\0" not in value and _is_program(root / value):
            yield root / value


def _is_program(path: Path) -> bool:
    """Whether an argument names a file of a program. Weights are none: they have an identity of their own."""
    return path.is_file() and path.stat().st_size <= LARGEST_FILE


def _module(name: str, places: list[Path]) -> Iterator[Path]:
    """The files that ``import name`` runs, in the first of ``places`` that has them: its packages, and itself."""
    parts = name.split(".")
    for place in places:
        packages = [place.joinpath(*parts[:end], "__init__.py") for end in range(1, len(parts) + 1)]
        whole = place.joinpath(*parts)
        found = [path for path in (whole.with_suffix(".py"), *packages) if path.is_file()]
        if whole.with_suffix(".py").is_file() or whole.is_dir():
            yield from found
            return


def _imported(scripts: list[Path], root: Path) -> Iterator[Path]:
    """Modules of the repository that Python files import, and what those import in turn."""
    waiting, seen = list(scripts), set(scripts)
    folders = [script.parent for script in scripts]
    while waiting:
        path = waiting.pop()
        for name in _imports(path, root):
            for found in _module(name, [*folders, root]):
                if found not in seen and _inside(found, root):
                    seen.add(found)
                    waiting.append(found)
                    yield found


def _imports(path: Path, root: Path) -> Iterator[str]:
    """Absolute names of what a Python file imports; nothing where it cannot be parsed."""
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError, OSError, RecursionError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                folder = path.parents[node.level - 1]
                if not folder.is_relative_to(root):
                    continue
                base = ".".join([*folder.relative_to(root).parts, *([base] if base else [])])
            if base:
                yield base
            yield from (f"{base}.{alias.name}".lstrip(".") for alias in node.names)


def _inside(path: Path, root: Path) -> bool:
    """Whether a module is the repository's own, and no installed library that lies below it."""
    return path.is_relative_to(root) and not _SKIPPED.intersection(path.relative_to(root).parts)


def _globbed(glob: str, case: Case, root: Path) -> list[Path]:
    files: list[Path] = []
    for path in root.glob(glob):
        if path.is_file() and not _SKIPPED.intersection(path.relative_to(root).parts):
            files.append(path)
        if len(files) > MOST_FILES:
            raise InvalidCaseError(
                f"`program_files`: {glob!r} names more than {MOST_FILES} files", where=case.id, remedy="narrow the glob"
            )
    if not files:
        raise InvalidCaseError(f"`program_files`: {glob!r} names no file", where=case.id, remedy="correct the glob")
    return sorted(files)


def _shown(path: Path, root: Path) -> str:
    path = Path(os.path.normpath(path))  # the name alone: links stay what they are called
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
