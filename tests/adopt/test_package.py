"""The package: its metadata names all that it imports, and the wheel's list of files leads to files."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

from harness import __version__
from harness.adopt.embedded import constraints_file, embedded_root

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
WHEEL = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]
OPTIONAL = {
    "_pytest", "av", "axe_playwright_python", "lpips", "modelopt", "playwright", "sglang", "torchao",
    "torchvision", "triton",
}  # fmt: skip
"""Imported only where a person asked for it: an extra, a runtime, the reader of MP4, what torch brings on a GPU."""
PARTS = {"markupsafe": "jinja2", "pydantic_core": "pydantic"}
"""Libraries that another one requires and hands on as a part of its own interface."""


def canonical(name: str) -> str:
    match = re.match(r"[A-Za-z0-9._-]+", name)
    assert match is not None
    return re.sub(r"[-_.]+", "-", match[0]).lower()


@cache
def imported() -> dict[str, str]:
    """Top-level name of each library that the package imports, and a file that does."""
    names: dict[str, str] = {}
    for path in sorted((ROOT / "harness").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level and node.module:
                modules = [node.module]
            for module in modules:
                names.setdefault(module.partition(".")[0], str(path.relative_to(ROOT)))
    return {name: path for name, path in names.items() if name not in sys.stdlib_module_names and name != "harness"}


def test_every_library_that_is_imported_is_a_dependency() -> None:
    declared = {canonical(text) for text in PROJECT["dependencies"]}
    distributions = packages_distributions()
    missing = {
        name: path
        for name, path in imported().items()
        if name not in OPTIONAL
        and not declared & {canonical(dist) for dist in (PARTS.get(name, name), *distributions.get(name, ()))}
    }
    assert {"torch", "pydantic", "pytest"} <= imported().keys()
    assert missing == {}


def test_every_dependency_has_a_tested_version() -> None:
    constraints = constraints_file()
    assert constraints is not None
    pinned = {canonical(line) for line in constraints.read_text().splitlines() if "==" in line}
    extras = PROJECT["optional-dependencies"]
    assert {canonical(text) for text in [*PROJECT["dependencies"], *extras["test"]]} <= pinned


def test_the_files_of_the_wheel_are_there() -> None:
    assert PROJECT["version"] == __version__
    assert "Apache License" in (ROOT / PROJECT["license-files"][0]).read_text()
    assert (ROOT / "harness/py.typed").is_file()
    sources = WHEEL["wheel"]["force-include"]
    assert all((ROOT / source).exists() for source in sources)
    assert all(f"/{source}" in WHEEL["sdist"]["include"] for source in sources), "a wheel is built from the sdist, too"
    assert embedded_root() == ROOT
