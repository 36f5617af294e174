"""What a project's root is: the same for every command, asked before anything is read or made there."""

from __future__ import annotations

from pathlib import Path

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
