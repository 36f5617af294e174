"""What a project's root is: the same for every command, asked before anything is read or made there."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from harness.errors import InvalidCaseError


def is_project(folder: Path) -> bool:
    """Whether ``folder`` is the root of a project."""
    return (folder / "cases").is_dir()


def project_root(folder: Path) -> Path:
    """``folder``, absolute, which is the root of a project.

    Raises:
        InvalidCaseError: it is none.
    """
    root = folder.resolve()
    if is_project(root):
        return root
    above = next((one for one in root.parents if is_project(one) and (one / "runners").is_dir()), None)
    meant = f" ({above})" if above else ""
    raise InvalidCaseError(
        "no cases/ folder here" if root.is_dir() else "there is no such folder",
        where=str(root),
        remedy=f"run it in the repository's root{meant}, or pass --root",
    )


def local_folder(path: str, root: Path) -> Path:
    """Return the folder that a case means by ``./folder``, ``/folder`` or ``~/folder``; symbolic links are followed.

    Args:
        path: as the case writes it.
        root: the repository's root, which ``./`` is relative to.

    Raises:
        InvalidCaseError: ``~`` is meant, and nobody's home is known here.
    """
    if not path.startswith("~/"):
        return (root / path).resolve()
    try:
        return Path(path).expanduser().resolve()
    except RuntimeError as error:
        raise InvalidCaseError(f"{path}: this user has no home", remedy="write the path in full") from error


# Which case files there are: the same for every command, and for pytest.


SUFFIXES = (".yaml", ".yml")
"""Endings of a case file, in capital letters too."""


class CaseFiles(NamedTuple):
    """What lies below a folder of case files."""

    files: tuple[Path, ...]
    """Every case file at any depth, hidden folders and folders called ``build`` included, sorted."""
    problems: tuple[str, ...]
    """One sentence per entry that cannot be read as a case file although it looks like one."""


def is_case_name(name: str) -> bool:
    """Whether a file called ``name`` is read as a case file."""
    return name.lower().endswith(SUFFIXES)


def case_files_below(folder: Path) -> CaseFiles:
    """List the case files below ``folder``.

    Links are refused and not followed: what they lead to is no part of the commit that a plan is compared with, and
    programs differ in which links they follow.
    """
    files: list[Path] = []
    problems: list[str] = []
    for place, folders, names in os.walk(folder):
        linked = [name for name in folders if (Path(place) / name).is_symlink()]
        problems += [_linked(folder, Path(place) / name, "folder") for name in linked]
        folders[:] = [name for name in folders if name not in linked]
        for name in filter(is_case_name, names):
            path = Path(place) / name
            if path.is_symlink():
                problems.append(_linked(folder, path, "file"))
            elif not path.is_file():
                problems.append(f"{path.relative_to(folder.parent)}: no plain file; remove it")
            else:
                files.append(path)
    return CaseFiles(tuple(sorted(files)), tuple(sorted(problems)))


def case_files(root: Path) -> list[Path]:
    """Every case file of the repository at ``root``, at any depth below ``cases/``, sorted.

    Raises:
        InvalidCaseError: a link, or something that is no plain file, lies where a case file belongs.
    """
    found = case_files_below(root / "cases")
    refuse(found)
    return list(found.files)


def refuse(found: CaseFiles) -> None:
    """Raise one error with all problems of ``found``, if it has any.

    Raises:
        InvalidCaseError: with a line per problem.
    """
    if found.problems:
        raise InvalidCaseError("\n".join(found.problems), remedy="quantgate cases, once these are plain files")


def _linked(folder: Path, path: Path, kind: str) -> str:
    shown = path.relative_to(folder.parent)
    return f"{shown}: a link to a {kind}; case files are plain files below {folder.name}/, move them there"
