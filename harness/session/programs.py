"""Digest the files that a case's ``command`` runs, so that the table of changes can name an edited program."""

from __future__ import annotations

import ast
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from harness.definitions.case import Case
from harness.definitions.program import ROOT, filled
from harness.errors import InvalidCaseError
from harness.reading import UnreadableError, digest_file, is_file, read_bytes, reason

MOST_FILES = 5000
"""Most files that one ``program_files`` glob may match: a glob that covers a checkpoint is a mistake."""
LARGEST_FILE = 256 << 20
"""Bytes of the largest file that counts as part of the program if an argument names it."""
LARGEST_SOURCE = 4 << 20
"""Bytes of the largest Python file whose imports are looked up. A larger one is data, and is digested only."""
_SKIPPED = frozenset({".git", ".venv", "__pycache__", "node_modules", "runs", "goldens", ".quantgate"})


def program_digests(case: Case, root: Path) -> dict[str, str]:
    """Digest the program of a case.

    The program is: the executable itself; every argument that names a file; ``-m module`` if the repository holds
    the module; the repository's modules that those Python files import, directly or indirectly; and the files that
    ``program_files`` matches. Installed libraries are not digested; only their versions are recorded, if at all.

    Args:
        case: with ``{case_dir}`` replaced already.
        root: the repository's root, absolute.

    Returns:
        sha256 by path, relative to the root for files below it; empty without a ``command``.

    Raises:
        InvalidCaseError: a glob of ``program_files`` matches nothing, or more than ``MOST_FILES`` files; or a file of
            the program cannot be read.
    """
    if not case.command:
        return {}
    files = dict.fromkeys(_named(case, root))
    for path in _imported([path for path in files if path.suffix == ".py"], root):
        files.setdefault(path)
    for glob in case.program_files:
        files.update(dict.fromkeys(_globbed(glob, case, root)))
    return {_shown(path, root): _sha256(path, case) for path in files}


def _named(case: Case, root: Path) -> Iterator[Path]:
    """Yield the files that the command names; the executable is looked up on PATH if it is a bare name."""
    words = [filled(word, {ROOT: str(root)}) for word in case.command]
    executable = shutil.which(words[0]) if "/" not in words[0] else None
    if executable is not None:
        yield Path(executable)
    for before, word in zip(["", *words], words, strict=False):
        if before == "-m":
            yield from _module(word, [root])
            yield from (path for path in [root.joinpath(*word.split("."), "__main__.py")] if is_file(path))
            continue
        value = word.partition("=")[2] if word.startswith("-") else word  # --config=settings.yaml
        if value and _is_program(root / value):
            yield root / value


def _is_program(path: Path) -> bool:
    """Return whether an argument names a program file. Large files are weights, which the identity covers."""
    return is_file(path) and path.stat().st_size <= LARGEST_FILE


def _module(name: str, places: list[Path]) -> Iterator[Path]:
    """Yield the files that ``import name`` runs, from the first of ``places`` that has them: packages and module."""
    parts = name.split(".")
    for place in places:
        packages = [place.joinpath(*parts[:end], "__init__.py") for end in range(1, len(parts) + 1)]
        whole = place.joinpath(*parts)
        files = [path for path in (whole.with_suffix(".py"), *packages) if is_file(path)]
        if is_file(whole.with_suffix(".py")) or _is_folder(whole):
            yield from files
            return


def _is_folder(path: Path) -> bool:
    """Return whether a path names a folder; a name that the file system refuses names none."""
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False


def _imported(scripts: list[Path], root: Path) -> Iterator[Path]:
    """Yield the repository's modules that Python files import, directly or indirectly."""
    waiting, seen = list(scripts), set(scripts)
    folders = [script.parent for script in scripts]
    while waiting:
        path = waiting.pop()
        for name in _imports(path, root):
            for module in _module(name, [*folders, root]):
                if module not in seen and _inside(module, root):
                    seen.add(module)
                    waiting.append(module)
                    yield module


def _imports(path: Path, root: Path) -> Iterator[str]:
    """Yield the absolute names of a Python file's imports; none if the file cannot be parsed or is no source."""
    try:
        # bytes and no text: a Python file may state another encoding than UTF-8 in its first lines
        tree = ast.parse(read_bytes(path, limit=LARGEST_SOURCE))
    except (SyntaxError, ValueError, OSError, RecursionError, MemoryError):  # MemoryError: nested too deep to parse
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                # more dots than folders lead out of every package, as Python says when it runs the file
                folder = path.parents[node.level - 1] if node.level <= len(path.parents) else None
                if folder is None or not folder.is_relative_to(root):
                    continue
                base = ".".join([*folder.relative_to(root).parts, *([base] if base else [])])
            if base:
                yield base
            # an imported name can be a submodule; names that are no module resolve to no file later
            yield from (f"{base}.{alias.name}".lstrip(".") for alias in node.names)


def _inside(path: Path, root: Path) -> bool:
    """Return whether a module belongs to the repository, and not to a library installed below it."""
    return path.is_relative_to(root) and not _SKIPPED.intersection(path.relative_to(root).parts)


def _globbed(glob: str, case: Case, root: Path) -> list[Path]:
    files: list[Path] = []
    for path in root.glob(glob):
        if path.is_file() and not _SKIPPED.intersection(path.relative_to(root).parts):
            files.append(path)
        if len(files) > MOST_FILES:
            raise InvalidCaseError(
                f"`program_files`: {glob!r} names more than {MOST_FILES} files", place=case.id, remedy="narrow the glob"
            )
    if not files:
        raise InvalidCaseError(f"`program_files`: {glob!r} names no file", place=case.id, remedy="correct the glob")
    return sorted(files)


def _shown(path: Path, root: Path) -> str:
    path = Path(os.path.normpath(path))  # lexical only: a symbolic link keeps its own name
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)


def _sha256(path: Path, case: Case) -> str:
    """Return the sha256 of a file of the program. Its bytes are digested and never interpreted: any size, any text."""
    try:
        return digest_file(path)
    except (OSError, UnreadableError) as error:
        raise InvalidCaseError(
            f"a file of the program cannot be read: {reason(error)}",
            place=f"{case.id}: {path}",
            remedy="let the user of the run read it, or name another file in `command`",
        ) from error
