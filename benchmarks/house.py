"""Print the size and the shape of the source tree: ``python -m benchmarks.house``.

The figures: files with their median and largest size, import cycles, packages that import each other, lines with and
without comments and docstrings, files that name ``nvfp4``, comments per 1,000 lines. ``--list`` also names the members
of each cycle and the pairs of packages. ``--rooms`` prints the lines of code per folder below the package, and
``--since COMMIT`` those of an earlier commit beside them. The exit code is 1 if there is a cycle or a pair of packages,
otherwise 0.

Imports are read by grimp (the library behind import-linter): every import counts, also one inside a function and one
under ``TYPE_CHECKING``.
"""

from __future__ import annotations

import argparse
import ast
import io
import re
import subprocess
import sys
import tarfile
import tokenize
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from statistics import median

import grimp
import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

# Comments that a tool reads. They explain nothing to a reader, so they do not count as comments.
DIRECTIVE = re.compile(r"#\s*(?:noqa|type:\s*ignore|pragma|fmt:|ruff:|mypy:|!|-\*-)")


@dataclass(frozen=True)
class Lines:
    """Lines of one file: all of them, those with code, and the comments.

    ``code`` leaves out blank lines, lines with nothing but a comment, and docstrings.
    """

    total: int
    code: int
    comments: int


def count_lines(source: str) -> Lines:
    """Count the lines of one Python file.

    A comment behind code counts as a comment, and its line as code. A run of comment lines counts line by line.
    """
    code: set[int] = set()
    comments = 0
    silent = {tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER, tokenize.ENCODING}
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            comments += DIRECTIVE.match(token.string) is None
        elif token.type not in silent:
            code.update(range(token.start[0], token.end[0] + 1))
    return Lines(total=len(source.splitlines()), code=len(code - _docstring_lines(source)), comments=comments)


def _docstring_lines(source: str) -> set[int]:
    """Return the numbers (from 1) of the lines that docstrings fill: of modules, classes, functions and attributes.

    The docstring of an attribute is a string that stands alone directly below its assignment (PEP 257).
    """
    numbers: set[int] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            for before, statement in zip([None, *node.body], node.body, strict=False):
                if (
                    isinstance(before, ast.Assign | ast.AnnAssign | None)
                    and isinstance(statement, ast.Expr)
                    and isinstance(statement.value, ast.Constant)
                    and isinstance(statement.value.value, str)
                ):
                    numbers.update(range(statement.lineno, (statement.end_lineno or statement.lineno) + 1))
    return numbers


def cycles(imports: Mapping[str, Iterable[str]]) -> list[list[str]]:
    """Return the import cycles: each a sorted list of modules which all reach each other.

    ``imports`` maps a module to the modules that it imports. Two cycles that share a module are one: the strongly
    connected components of the graph with more than one member, largest first.
    """
    names = sorted(set(imports) | {target for targets in imports.values() for target in targets})
    if not names:
        return []
    number = {name: index for index, name in enumerate(names)}
    edges = [(number[source], number[target]) for source, targets in imports.items() for target in targets]
    rows, columns = zip(*edges, strict=True) if edges else ((), ())
    matrix = coo_array((np.ones(len(edges)), (rows, columns)), shape=(len(names), len(names)))
    count, labels = connected_components(matrix, directed=True, connection="strong")
    groups = [[name for name, label in zip(names, labels, strict=True) if label == index] for index in range(count)]
    return sorted((group for group in groups if len(group) > 1), key=lambda group: (-len(group), group))


def mutual_packages(imports: Mapping[str, Iterable[str]], packages: set[str]) -> list[tuple[str, str]]:
    """Return the pairs of neighbouring packages that import each other.

    Neighbours have the same parent: ``harness.judge`` and ``harness.session`` are, ``harness.judge`` and
    ``harness.judge.attribution`` are not. Whatever lies below a package counts as the package.
    """
    directed: set[tuple[str, str]] = set()
    for source, targets in imports.items():
        for target in targets:
            pair = _neighbours(source, target)
            if pair is not None and packages.issuperset(pair):
                directed.add(pair)
    names = sorted({name for pair in directed for name in pair})
    return [(a, b) for a, b in combinations(names, 2) if (a, b) in directed and (b, a) in directed]


def _neighbours(source: str, target: str) -> tuple[str, str] | None:
    """Return the first pair of ancestors (or the modules themselves) in which two dotted names differ."""
    left, right = source.split("."), target.split(".")
    for depth in range(1, min(len(left), len(right)) + 1):
        if left[:depth] != right[:depth]:
            return ".".join(left[:depth]), ".".join(right[:depth])
    return None


def read_imports(package: str) -> dict[str, set[str]]:
    """Return what each module of an importable package imports from the same package."""
    graph = grimp.build_graph(package, cache_dir=None)
    return {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}


@dataclass(frozen=True)
class House:
    """All figures of one package."""

    package: str
    files: dict[str, Lines]
    naming: list[str]
    cycles: list[list[str]]
    mutual: list[tuple[str, str]]

    def table(self) -> str:
        """Return the figures as text, one a line."""
        sizes = {name: lines.total for name, lines in self.files.items()}
        largest = max(sizes, key=lambda name: sizes[name])
        total = sum(sizes.values())
        comments = sum(lines.comments for lines in self.files.values())
        rows = [
            ("files", f"{len(sizes)}"),
            ("median file", f"{median(sizes.values()):.0f} lines"),
            ("largest file", f"{sizes[largest]} lines ({largest})"),
            ("import cycles", f"{len(self.cycles)}"),
            ("mutually importing packages", f"{len(self.mutual)}"),
            ("lines in all", f"{total:,}"),
            ("lines of code", f"{sum(lines.code for lines in self.files.values()):,} (no comment, docstring, blank)"),
            ("files that name nvfp4", f"{len(self.naming)}"),
            ("comments per 1,000 lines", f"{1000 * comments / total:.1f}"),
        ]
        return "\n".join(f"{name:<28} {value}" for name, value in [("package", self.package), *rows])

    def members(self) -> str:
        """Return the members of each cycle and the pairs of packages, one a line."""
        lines = [f"cycle: {' '.join(cycle)}" for cycle in self.cycles]
        lines += [f"import each other: {a} {b}" for a, b in self.mutual]
        lines += [f"names nvfp4: {name}" for name in self.naming]
        return "\n".join(lines)


def lines_by_room(files: Mapping[str, str]) -> Counter[str]:
    """Return the lines of code per room: per folder directly below the package; its own modules count as ``(top)``.

    Args:
        files: source text by path, relative to the package's parent, such as ``harness/judge/verdict.py``.
    """
    rooms: Counter[str] = Counter()
    for name, text in files.items():
        parts = Path(name).parts
        rooms[parts[1] if len(parts) > 2 else "(top)"] += count_lines(text).code
    return rooms


def sources_at(folder: Path, commit: str) -> dict[str, str]:
    """Return the source texts of a package at a commit, by path relative to the package's parent.

    Raises:
        SystemExit: git has no such commit, or the package did not exist in it.
    """
    archive = subprocess.run(
        ["git", "-C", str(folder.parent), "archive", commit, folder.name], capture_output=True, check=False
    )
    if archive.returncode:
        raise SystemExit(f"{commit}: {archive.stderr.decode(errors='replace').strip()}")
    texts: dict[str, str] = {}
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as tar:
        for member in tar:
            content = tar.extractfile(member) if member.name.endswith(".py") else None
            if content is not None:
                texts[member.name] = content.read().decode("utf-8")
    return texts


def rooms_table(folder: Path, since: str = "") -> str:
    """Return the lines of code per room, the largest first, and beside them those at the commit ``since``."""
    now = lines_by_room(
        {str(path.relative_to(folder.parent)): path.read_text(encoding="utf-8") for path in folder.rglob("*.py")}
    )
    before = lines_by_room(sources_at(folder, since)) if since else None
    rows = [
        f"{room:<14} {now[room]:>7,}" + (f" {before[room]:>9,}" if before is not None else "")
        for room in sorted(now | (before or Counter()), key=lambda room: (-now[room], room))
    ]
    total = f"{'all':<14} {now.total():>7,}" + (f" {before.total():>9,}" if before is not None else "")
    head = f"{'room':<14} {'now':>7}" + (f" {since[:9]:>9}" if since else "")
    return "\n".join([head, *rows, total])


def measure(folder: Path) -> House:
    """Measure the package in ``folder``, whose parent must be importable (on ``sys.path``)."""
    sources = {path: path.read_text(encoding="utf-8") for path in sorted(folder.rglob("*.py"))}
    if not sources:
        raise SystemExit(f"{folder}: no Python file; name the folder of a package with --root")
    packages = {".".join(path.parent.relative_to(folder.parent).parts) for path in sources}
    imports = read_imports(folder.name)
    return House(
        package=folder.name,
        files={str(path.relative_to(folder.parent)): count_lines(text) for path, text in sources.items()},
        naming=[str(path.relative_to(folder.parent)) for path, text in sources.items() if "nvfp4" in text.lower()],
        cycles=cycles(imports),
        mutual=mutual_packages(imports, packages),
    )


def main() -> int:
    """Print the figures; return 1 if modules or packages import each other in a circle."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.house", description=__doc__)
    parser.add_argument("--root", type=Path, default=Path("harness"), help="folder of the package (default: harness)")
    parser.add_argument("--list", action="store_true", help="name the members of cycles and pairs, and the files")
    parser.add_argument("--rooms", action="store_true", help="print the lines of code per room instead")
    parser.add_argument("--since", default="", metavar="COMMIT", help="with --rooms: compare with this commit")
    arguments = parser.parse_args()
    folder = arguments.root.resolve()
    if arguments.rooms:
        print(rooms_table(folder, arguments.since))
        return 0
    sys.path.insert(0, str(folder.parent))
    house = measure(folder)
    print(house.table())
    if arguments.list:
        print(house.members())
    return 1 if house.cycles or house.mutual else 0


if __name__ == "__main__":
    sys.exit(main())
