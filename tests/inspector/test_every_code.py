"""Every code that the inspector can yield is expected somewhere: by a fault of the corpus, or by a test."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
SOURCE = ROOT / "harness" / "inspector"
WORD = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")
MAKERS = ("finding", "report")
"""What is called with a severity and a code."""


def words(*nodes: ast.AST | None) -> set[str]:
    """Constants below these nodes that could be codes."""
    found = (one.value for node in nodes if node is not None for one in ast.walk(node) if isinstance(one, ast.Constant))
    return {value for value in found if isinstance(value, str) and WORD.fullmatch(value)}


def chosen(node: ast.expr) -> set[str]:
    """The constants that an expression can be; of a choice, both."""
    if isinstance(node, ast.IfExp):
        return chosen(node.body) | chosen(node.orelse)
    return words(node) if isinstance(node, ast.Constant) else set()


def made(tree: ast.Module) -> Iterator[ast.expr]:
    """Every expression that is given as a code."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in MAKERS:
            yield node.args[1]


def carried(tree: ast.Module) -> set[str]:
    """What a variable called ``code`` can hold in a module: assigned, iterated over, looked up by, or passed."""
    takers = {
        node.name: [argument.arg for argument in node.args.args].index("code")
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef) and "code" in [argument.arg for argument in node.args.args]
    }
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign | ast.AnnAssign):
            name = ast.unparse(node.targets[0] if isinstance(node, ast.Assign) else node.target)
            if name == "code":
                found |= chosen(node.value) if node.value else set()
            elif isinstance(node.value, ast.Dict) and name in tables(tree):
                found |= words(*node.value.keys)
        elif isinstance(node, ast.For) and "code" in names(node.target):
            rows = node.iter.elts if isinstance(node.iter, ast.Tuple) else []
            found |= words(*(row.elts[names(node.target).index("code")] for row in rows if isinstance(row, ast.Tuple)))
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "setdefault":
            found |= chosen(node.args[0])
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in takers:
            found |= chosen(node.args[takers[node.func.id]])
    return found


def names(target: ast.expr) -> list[str]:
    """Variables that a loop sets, in order."""
    return [ast.unparse(one) for one in (target.elts if isinstance(target, ast.Tuple) else [target])]


def tables(tree: ast.Module) -> set[str]:
    """Dictionaries that are looked up by a code."""
    return {
        ast.unparse(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Subscript) and ast.unparse(node.slice) == "code"
    }


def codes() -> set[str]:
    """Every code of ``harness/inspector``."""
    found: set[str] = set()
    for path in SOURCE.rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        given = list(made(tree))
        for expression in given:
            found |= chosen(expression)
        if any(isinstance(expression, ast.Name) for expression in given):
            found |= carried(tree)
    return found


def expected() -> set[str]:
    """Every constant of the corpus and of the tests beside this one that could be a code."""
    files = [ROOT / "benchmarks" / "corpus" / "faults.py", *HERE.glob("*.py")]
    return words(*(ast.parse(path.read_text(encoding="utf-8")) for path in files if path != Path(__file__)))


def test_the_search_finds_codes_however_they_are_given() -> None:
    constant, choice, looked_up, looped, assigned, passed, grouped = (
        "tensor_missing", "base_missing", "global_scale_inverted", "scale_layout", "halves_swapped", "base_stale",
        "fp8_code_table",
    )  # fmt: skip
    assert {constant, choice, looked_up, looped, assigned, passed, grouped} <= codes()


def test_no_code_is_without_a_test() -> None:
    assert sorted(codes() - expected()) == []
