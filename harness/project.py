"""The folders of a project, shared by pytest and every command, and the case files in them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from harness.errors import InvalidCaseError
from harness.reading import UnreadableError, parse_toml, read_bytes, reason


@dataclass(frozen=True)
class Project:
    """The folders of a project. Their names are fixed: reviewers and CI look for them in the same place everywhere.

    Attributes:
        root: absolute path of the folder that holds ``cases/``. It is the repository's root, or the folder that
            ``[tool.quantgate] root = "..."`` in the repository's ``pyproject.toml`` names.
    """

    root: Path

    @classmethod
    def of_repository(cls, folder: Path) -> Project:
        """Return the project of the repository at ``folder``.

        Raises:
            InvalidCaseError: ``[tool.quantgate]`` in ``pyproject.toml`` cannot be used.
        """
        return cls(_configured_root(folder.resolve()))

    @property
    def cases(self) -> Path:
        """Case files, and the lock of their checkpoints. Committed."""
        return self.root / "cases"

    @property
    def runners(self) -> Path:
        """One YAML file per runner profile. Committed."""
        return self.root / "runners"

    @property
    def thresholds(self) -> Path:
        """``<runner>/<case>.json``: the limits. Committed."""
        return self.root / "thresholds"

    @property
    def goldens(self) -> Path:
        """The store of goldens, and ``store.json`` if the goldens lie on a hub. Committed."""
        return self.root / "goldens"

    @property
    def contracts(self) -> Path:
        """Contracts of runtimes that this project adds. Committed."""
        return self.root / "contracts"

    @property
    def runs(self) -> Path:
        """One folder per run, and the history of durations. Never committed."""
        return self.root / "runs"

    @property
    def state(self) -> Path:
        """Pending candidates, unfinished transactions, the lock of the review. Never committed."""
        return self.root / ".quantgate"

    @property
    def pending(self) -> Path:
        """``<runner>/<case>/``: the candidates that wait for a decision."""
        return self.state / "pending"

    def written(self) -> tuple[str, ...]:
        """Return the folders that regeneration writes, relative to the root. A change there is no change of code."""
        return tuple(f"{path.name}/" for path in (self.goldens, self.thresholds, self.runs, self.state))


def is_declared(repository: Path) -> bool:
    """Return whether the repository's ``pyproject.toml`` has a ``[tool.quantgate]`` table.

    Raises:
        InvalidCaseError: the file cannot be read.
    """
    return _settings(repository) is not None


def _settings(repository: Path) -> dict[str, Any] | None:
    file = repository / "pyproject.toml"
    try:
        tool = parse_toml(read_bytes(file), str(file)).get("tool", {})
        table = tool.get("quantgate") if isinstance(tool, dict) else None
    except FileNotFoundError:
        return None
    except (OSError, UnreadableError) as error:
        raise InvalidCaseError(
            f"cannot be read: {reason(error)}", place=str(file), remedy="correct the file, which must be TOML in UTF-8"
        ) from error
    if table is None:
        return None
    if not isinstance(table, dict) or set(table) - {"root"} or not isinstance(table.get("root", "."), str):
        raise InvalidCaseError(
            "[tool.quantgate] takes one key, root, a folder of this repository",
            place=str(file),
            remedy='[tool.quantgate]\nroot = "ci/video"',
        )
    return table


def _configured_root(repository: Path) -> Path:
    named = (_settings(repository) or {}).get("root", ".")
    root: Path = (repository / named).resolve()
    if not root.is_relative_to(repository):
        raise InvalidCaseError(
            f"[tool.quantgate] root leads out of the repository: {named}",
            place=str(repository / "pyproject.toml"),
            remedy='name a folder of this repository, such as root = "ci/video"',
        )
    return root


def is_project(folder: Path) -> bool:
    """Return whether ``folder`` is the root of a project: it holds ``cases/``."""
    return Project(folder).cases.is_dir()


def project_root(folder: Path) -> Path:
    """Return the absolute root of the project at ``folder``, or the root that its ``pyproject.toml`` names.

    Raises:
        InvalidCaseError: ``folder`` is no root of a project and names none.
    """
    root = folder.resolve()
    if not is_project(root) and root.is_dir():
        root = _configured_root(root)
    if is_project(root):
        return root
    above = next((parent for parent in root.parents if is_project(parent) and Project(parent).runners.is_dir()), None)
    below = [] if above else sorted(folder for pattern in ("*/cases", "*/*/cases") for folder in root.glob(pattern))
    inside = next((folder.parent for folder in below if Project(folder.parent).runners.is_dir()), None)
    hint = f" ({above or inside})" if above or inside else ""
    start = "" if hint or not root.is_dir() else "; `quantgate init` makes a project of this folder"
    raise InvalidCaseError(
        "no cases/ folder here" if root.is_dir() else "there is no such folder",
        place=str(root),
        remedy=f"run it in the project's folder{hint}, or pass --root{start}",
    )


def local_folder(path: str, root: Path) -> Path:
    """Return the folder of a case's ``./folder``, ``/folder`` or ``~/folder``; symbolic links are followed.

    Args:
        path: as the case writes it.
        root: the repository's root, which ``./`` is relative to.

    Raises:
        InvalidCaseError: the path begins with ``~/`` and this user has no home.
    """
    if not path.startswith("~/"):
        return (root / path).resolve()
    try:
        return Path(path).expanduser().resolve()
    except RuntimeError as error:
        raise InvalidCaseError(f"{path}: this user has no home", remedy="write the path in full") from error


# Finding case files, with the same rules for every command and for pytest.


SUFFIXES = (".yaml", ".yml")
"""File name endings of a case file, in upper or lower case."""


class CaseFiles(NamedTuple):
    """The case files below a folder, and the entries that cannot be read."""

    files: tuple[Path, ...]
    """Every case file at any depth, hidden folders and folders called ``build`` included, sorted."""
    problems: tuple[str, ...]
    """One sentence per entry that cannot be read as a case file although it looks like one."""


def is_case_name(name: str) -> bool:
    """Return whether a file called ``name`` is read as a case file."""
    return name.lower().endswith(SUFFIXES)


def case_files_below(folder: Path) -> CaseFiles:
    """List the case files below ``folder``.

    Links are refused and not followed: the target of a link is no part of the commit that a plan is compared with,
    and programs differ in which links they follow.
    """
    files: list[Path] = []
    problems: list[str] = []
    if folder.is_symlink():  # a commit holds the link and not its files, so a later plan would see no case before
        problem = f"{folder.name}: a link to a folder; case files are plain files below {folder.name}/, move them there"
        return CaseFiles((), (problem,))
    for place, folders, names in os.walk(folder):
        linked = [name for name in folders if (Path(place) / name).is_symlink()]
        problems += [_linked(folder, Path(place) / name, "folder") for name in linked]
        # `os.walk` enters only folders that remain in this list
        folders[:] = [name for name in folders if name not in linked]
        for name in filter(is_case_name, names):
            path = Path(place) / name
            shown = str(path.relative_to(folder.parent))
            if not shown.isprintable():
                # bytes that are not UTF-8, line breaks, signs of reading direction: no report could show such a name
                problems.append(f"{shown!a}: not all characters of the name can be shown; rename it")
            elif path.is_symlink():
                problems.append(_linked(folder, path, "file"))
            elif not path.is_file():
                problems.append(f"{path.relative_to(folder.parent)}: no plain file; remove it")
            else:
                files.append(path)
    return CaseFiles(tuple(sorted(files)), tuple(sorted(problems)))


def case_files(root: Path) -> list[Path]:
    """Return every case file of the repository at ``root``, at any depth below ``cases/``, sorted.

    Raises:
        InvalidCaseError: a link, or something that is no plain file, lies where a case file belongs.
    """
    files = case_files_below(Project(root).cases)
    refuse(files)
    return list(files.files)


def refuse(files: CaseFiles) -> None:
    """Raise one error with all problems of ``files``, if it has any.

    Raises:
        InvalidCaseError: with a line per problem.
    """
    if files.problems:
        raise InvalidCaseError("\n".join(files.problems), remedy="quantgate cases, once these are plain files")


def _linked(folder: Path, path: Path, kind: str) -> str:
    shown = path.relative_to(folder.parent)
    return f"{shown}: a link to a {kind}; case files are plain files below {folder.name}/, move them there"


HERE = Project(Path())
"""The project in the working directory, for the defaults of options and for names relative to a root."""
