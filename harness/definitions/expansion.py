"""``defaults`` and ``matrix``: from what is written to the plain fields of each case."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from harness.definitions.yaml_tree import Node, Problem

MAX_VARIANTS: Final = 1000
"""Cases that one ``matrix`` may give."""

Plain = dict[str, Any]


class Variant(NamedTuple):
    """One case before validation."""

    id: str
    fields: Plain
    nodes: dict[str, Node]
    """The matrix value by the dotted field that it was put into."""

    @property
    def chosen(self) -> dict[str, int]:
        """Line of each of them."""
        return {field: node.line for field, node in self.nodes.items()}


def merge(under: Any, over: Any) -> Any:
    """``over`` laid on ``under``, mapping by mapping; lists and scalars are replaced whole.

    So is a mapping that names a ``path``: a checkpoint never gets the revision of another one.
    """
    if not (isinstance(under, dict) and isinstance(over, dict)) or "path" in over:
        return over
    return {**under, **{key: merge(under[key], value) if key in under else value for key, value in over.items()}}


def expand(name: str, entry: Node, defaults: Plain) -> tuple[list[Variant], list[Problem]]:
    """The cases that the entry ``name`` of ``cases:`` stands for, in the order written.

    Returns:
        The variants, one where there is no ``matrix``; and what is wrong with the matrix.
    """
    written = entry.plain() or {}
    matrix = entry.value.get("matrix") if isinstance(entry.value, dict) else None
    if matrix is None or not isinstance(written, dict):
        return [Variant(name, merge(defaults, written), {})], []
    del written["matrix"]
    fields = merge(defaults, written)
    problems = list(_problems(name, matrix))
    if problems:
        return [], problems
    axes = [[(field, *choice) for choice in _choices(field, values)] for field, values in matrix.value.items()]
    count = 1
    for axis in axes:
        count *= len(axis)
    if count > MAX_VARIANTS:
        return [], [Problem(matrix.line, f"cases.{name}.matrix: {count} cases; at most {MAX_VARIANTS} from one entry")]
    variants = []
    for picks in itertools.product(*axes):
        laid, suffix = fields, ""
        for field, label, node in picks:
            laid = put(laid, field.split("."), node.plain())
            suffix += f"-{label}"
        variants.append(Variant(name + suffix, laid, {field: node for field, _, node in picks}))
    return variants, []


def put(fields: Plain, path: list[str], value: Any) -> Plain:
    """A copy of ``fields`` with ``value`` at ``path``; what is not on the path is shared with the original."""
    head, *rest = path
    if rest:
        inner = fields.get(head)
        value = put(inner if isinstance(inner, dict) else {}, rest, value)
    return {**fields, head: value}


def _problems(name: str, matrix: Node) -> Iterator[Problem]:
    where = f"cases.{name}.matrix"
    if not isinstance(matrix.value, dict) or not matrix.value:
        yield Problem(matrix.line, f"{where}: write dotted fields and their values, such as `sampling.seed: [0, 1]`")
        return
    for field, values in matrix.value.items():
        line, at = matrix.keys[field], f"{where}.{field}"
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*", field) or field in ("id", "matrix"):
            yield Problem(line, f"{at}: not a dotted field of a case, such as sampling.seed")
        elif not isinstance(values.value, list | dict) or not values.value:
            yield Problem(line, f"{at}: write a list of values, or a mapping from a label to its value")
        elif isinstance(values.value, list):
            if any(isinstance(node.value, list | dict) for node in values.value):
                yield Problem(line, f"{at}: values that are lists or mappings need a label each: `label: value`")
                continue
            labels = [label for label, _ in _choices(field, values)]
            for label in sorted({label for label in labels if labels.count(label) > 1}):
                yield Problem(line, f"{at}: two values are called {label!r}; give each a label: `label: value`")


def _choices(field: str, values: Node) -> list[tuple[str, Node]]:
    """Label and value of each choice: the label written, else the field's last word and the value."""
    if isinstance(values.value, dict):
        return [(_slug(label), node) for label, node in values.value.items()]
    leaf = _slug(field.rpartition(".")[2])
    return [(f"{leaf}_{_slug(str(node.value))}", node) for node in values.value]


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9_.]+", "_", text.lower()).strip("_.") or "empty"
