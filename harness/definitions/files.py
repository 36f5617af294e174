"""Which case files there are: the same for every command, and for pytest."""

from __future__ import annotations

from pathlib import Path

SUFFIXES = (".yaml", ".yml")


def case_files(root: Path) -> list[Path]:
    """Every case file of the repository at ``root``, at any depth below ``cases/``, sorted."""
    return sorted(path for path in (root / "cases").rglob("*") if path.suffix in SUFFIXES and path.is_file())
