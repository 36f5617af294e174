"""Load ``cases/*.yaml`` as frozen cases. All faults of all files become ``file:line: field: fault; advice``."""

from __future__ import annotations

import itertools
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from harness.definitions.case import Case, Located
from harness.definitions.checks import Finding, absent_golden_of, check_case, check_golden_of, with_digests
from harness.definitions.program import at_its_place
from harness.definitions.runner import load_runners
from harness.definitions.validation import Written, did_you_mean, validate
from harness.definitions.yaml_tree import Node, Problem, YamlError, parse, read_text, shown
from harness.errors import InvalidCaseError
from harness.project import Project
from harness.text import problem_list

# Expanding ``defaults`` and ``matrix`` to the plain fields of each case.


MAX_VARIANTS: Final = 1000
"""Most cases of one ``matrix``."""

Plain = dict[str, Any]


class Variant(NamedTuple):
    """One case before validation."""

    id: str
    fields: Plain
    nodes: dict[str, Node]
    """Matrix value by its dotted field."""

    @property
    def chosen(self) -> dict[str, int]:
        """Line of each matrix value, by its dotted field."""
        return {field: node.line for field, node in self.nodes.items()}


def merge(under: Any, over: Any) -> Any:
    """Return ``over`` merged over ``under``, mapping by mapping; lists and scalars are replaced whole.

    A mapping with a ``path`` is replaced whole too, so that a checkpoint never gets another checkpoint's revision. For
    example, ``merge({"a": {"x": 1, "y": 2}}, {"a": {"x": 3}})`` is ``{"a": {"x": 3, "y": 2}}``.
    """
    if not (isinstance(under, dict) and isinstance(over, dict)) or "path" in over:
        return over
    return {**under, **{key: merge(under[key], value) if key in under else value for key, value in over.items()}}


def expand(name: str, entry: Node, defaults: Plain) -> tuple[list[Variant], list[Problem]]:
    """Return the cases of the entry ``name`` of ``cases:``, in the order written.

    Returns:
        The variants (a single one without ``matrix``), and the faults of the matrix.
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
    # counted before the product is built: a small file can describe millions of cases
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
    """Return a copy of ``fields`` with ``value`` at ``path``; values outside the path are shared with the original."""
    head, *rest = path
    if rest:
        inner = fields.get(head)
        value = put(inner if isinstance(inner, dict) else {}, rest, value)
    return {**fields, head: value}


def _problems(name: str, matrix: Node) -> Iterator[Problem]:
    source = f"cases.{name}.matrix"
    if not isinstance(matrix.value, dict) or not matrix.value:
        yield Problem(matrix.line, f"{source}: write dotted fields and their values, such as `sampling.seed: [0, 1]`")
        return
    for field, values in matrix.value.items():
        line, at = matrix.keys[field], f"{source}.{field}"
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
    """Return label and value of each choice: the written label, else last word of the field and value (``seed_1``)."""
    if isinstance(values.value, dict):
        return [(_slug(label), node) for label, node in values.value.items()]
    leaf = _slug(field.rpartition(".")[2])
    return [(f"{leaf}_{_slug(str(node.value))}", node) for node in values.value]


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9_.]+", "_", text.lower()).strip("_.") or "empty"


# Checking the valid fields of a case with faults, so that one mistyped number does not hide the other faults.


_PLACEHOLDERS: Final[dict[str, Any]] = {
    "id": "x",
    "model": {"path": "./"},
    "sampling": {
        "prompt": "",
        "width": 16,
        "height": 16,
        "num_frames": 1,
        "num_inference_steps": 1,
        "guidance_scale": 0,
    },
}
_DECIDES_OTHERS: Final = {"backend", "command", "pass_env", "quantization"}
"""Fields that other fields are checked by: if one of them is wrong, the other fields are not checked."""
_CHECKPOINTS: Final = {"model", "base", "transformer", "transformer_2"}


def check_rest(
    fields: dict[str, Any], wrong: Iterable[Finding], *, root: Path, runners: frozenset[str]
) -> Iterator[Finding]:
    """Yield the faults that :func:`check_case` finds in the fields that are not ``wrong``."""
    bad = [loc for loc, _ in wrong]
    if any(loc and loc[0] in _DECIDES_OTHERS for loc in bad):
        return
    rest: Any = fields
    for loc in bad:
        rest = _without(rest, loc)
    placeholders = {**_PLACEHOLDERS, "runners": sorted(runners)[:1] or ["x"]}
    case, still = validate(Case, merge(placeholders, rest))
    if case is None:
        # A mapping lost a field that it needs, so the whole mapping is dropped.
        case, _ = validate(
            Case, merge(placeholders, {key: rest[key] for key in rest if key not in {loc[0] for loc, _ in still}})
        )
    if case is not None:
        for loc, problem in check_case(case, root=root, runners=runners):
            if not any(_same(loc, other) for other in bad):
                yield loc, problem


def _without(fields: Any, path: tuple[str | int, ...]) -> Any:
    """Return a copy without the value at ``path``; a list is dropped whole, so that no index shifts."""
    if not isinstance(fields, dict) or not path or path[0] not in fields:
        return fields
    head, *rest = path
    if rest and isinstance(fields[head], dict):
        return {**fields, head: _without(fields[head], tuple(rest))}
    return {key: value for key, value in fields.items() if key != head}


def _same(path: tuple[str | int, ...], other: tuple[str | int, ...]) -> bool:
    """Return whether one path contains the other. All fields of a checkpoint count as one path."""
    if not other or (path[0] == other[0] and path[0] in _CHECKPOINTS):
        return True
    return all(step == other_step for step, other_step in zip(path, other, strict=False))


TOP_LEVEL: Final = ("defaults", "cases")


class FileProblem(NamedTuple):
    """One fault of a case file."""

    path: Path
    line: int
    message: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.message}"


def load_cases(paths: Sequence[Path], root: Path, *, runners: Collection[str] | None = None) -> tuple[Located, ...]:
    """Read case files.

    Args:
        paths: YAML files; a case id may occur once in all of them.
        root: the repository: ``./folder`` of a checkpoint and the paths in messages are relative to it.
        runners: names that a case may use; by default the profiles in ``root/runners``.

    Returns:
        The cases, file by file in the order given and written. ``Located.path`` is relative to ``root`` if the file
        lies inside it.

    Raises:
        InvalidCaseError: with all problems of all files, in order.
    """
    located, problems = check_cases(paths, root, runners=runners)
    if problems:
        raise invalid(problems)
    return located


def check_cases(
    paths: Sequence[Path], root: Path, *, runners: Collection[str] | None = None
) -> tuple[tuple[Located, ...], tuple[FileProblem, ...]]:
    """Return the valid cases, and every problem of the other cases.

    Raises:
        InvalidCaseError: the runner profiles themselves cannot be read.
    """
    names = frozenset(load_runners(Project(root).runners) if runners is None else runners)
    located: list[Located] = []
    problems: list[FileProblem] = []
    first: dict[str, Located] = {}
    for path in paths:
        entries, wrong = _file(path, root, names)
        for item in entries:
            problem = _taken(item, first)
            if problem is None:
                located.append(item)
            else:
                wrong.append(Problem(item.line, problem))
        # a set: variants of one entry repeat the fault of their common line
        problems += [FileProblem(shown(path, root), *problem) for problem in sorted(set(wrong))]
    return tuple(located), tuple(problems)


def check_unique(located: Iterable[Located]) -> None:
    """Check that case ids are unique among files that were loaded separately.

    Raises:
        InvalidCaseError: two cases have one id, so that one golden and one set of limits would serve both.
    """
    first: dict[str, Located] = {}
    problems = [
        FileProblem(entry.path, entry.line, problem)
        for entry in located
        if (problem := _taken(entry, first)) is not None
    ]
    if problems:
        raise invalid(problems)


def _taken(item: Located, first: dict[str, Located]) -> str | None:
    other = first.setdefault(item.case.id, item)
    return None if other is item else f"cases.{item.case.id}: duplicate case id; it is at {other.place} already"


_READ_AGAIN = "`quantgate cases` reads the files again, without a run"


def invalid(problems: Sequence[FileProblem]) -> InvalidCaseError:
    """Return one error that lists all ``problems``."""
    if len(problems) == 1:
        only = problems[0]
        return InvalidCaseError(
            only.message, place=f"{only.path}:{only.line}", remedy=f"correct this line; {_READ_AGAIN}"
        )
    remedy = f"correct these {len(problems)} places; {_READ_AGAIN}"
    return InvalidCaseError(problem_list(map(str, problems)), remedy=remedy)


def _file(path: Path, root: Path, runners: frozenset[str]) -> tuple[list[Located], list[Problem]]:
    try:
        tree = parse(read_text(path))
    except YamlError as error:
        return [], list(error.problems)
    problems = list(_top_level(tree))
    if problems:
        return [], problems
    shared = tree.value.get("defaults")
    # A field that the entry does not state comes from these defaults, and so does its line in messages.
    defaults: dict[str, Any] = shared.plain() if shared is not None and shared.value else {}
    located: list[Located] = []
    origin: dict[str, tuple[str, _Lines]] = {}
    entries = {name: expand(name, entry, defaults) for name, entry in tree.value["cases"].value.items()}
    ids = {variant.id for variants, _ in entries.values() for variant in variants}
    for name, entry in tree.value["cases"].value.items():
        line = tree.value["cases"].keys[name]
        variants, wrong = entries[name]
        problems += wrong
        for variant in variants:
            lines = _Lines(entry, shared, line, variant)
            case, findings = _case(variant, root, runners, lines.written)
            named = variant.fields.get("golden_of") if isinstance(variant.fields, dict) else None
            # a broken matrix leaves ids unknown, so no `golden_of` is judged then
            absent = None if any(bad for _, bad in entries.values()) else absent_golden_of(named, ids)
            if absent is not None:
                findings.append((("golden_of",), absent))
            problems += [Problem(lines.of(loc), _named(name, loc, problem)) for loc, problem in findings]
            if case is not None and not findings:
                command = at_its_place(case.command, shown(path, root))
                case = case.model_copy(update={"command": command}) if command != case.command else case
                located.append(Located.model_construct(case=case, path=shown(path, root), line=line))
                origin[case.id] = (name, lines)
    if located:
        for id_, field, problem in check_golden_of([item.case for item in located]):
            name, lines = origin[id_]
            problems.append(Problem(lines.of((field,)), _named(name, (field,), problem)))
    return located, problems


def _case(
    variant: Variant, root: Path, runners: frozenset[str], written: Written
) -> tuple[Case | None, list[tuple[tuple[str | int, ...], str]]]:
    if not isinstance(variant.fields, dict):
        return None, [((), "must be a mapping of fields")]
    fields = {**variant.fields, "id": variant.id}
    case, findings = validate(Case, fields, written)
    if case is not None:
        case = with_digests(case.resolved(), root)
        findings = list(check_case(case, root=root, runners=runners))
    else:
        findings += check_rest(fields, findings, root=root, runners=runners)
    findings = [((), _bad_id(variant.id)) if loc == ("id",) else (loc, problem) for loc, problem in findings]
    if "id" in variant.fields:
        findings.append((("id",), "the id of a case is its key under `cases`"))
    return case, findings


def _bad_id(name: str) -> str:
    if name.endswith(".perf"):
        return f"bad case id {name!r}: <case>.perf.json in thresholds/ holds the times of <case>"
    return f"bad case id {name!r}: at most 80 of a-z 0-9 _ . - and a letter or digit first"


class _Lines(NamedTuple):
    """Find the line of a field: in the matrix, in the entry, in the defaults, else the line of the entry."""

    entry: Node
    defaults: Node | None
    line: int
    variant: Variant

    def of(self, path: tuple[str | int, ...]) -> int:
        for end in range(len(path), 0, -1):
            dotted = ".".join(map(str, path[:end]))
            if dotted in self.variant.chosen:
                return self.variant.chosen[dotted]
            for tree in (self.entry, self.defaults):
                line = tree.find(path[:end]) if tree is not None else None
                if line is not None:
                    return line
        return self.line

    def written(self, path: tuple[str | int, ...]) -> str | None:
        """Return the scalar at ``path`` as it was written."""
        for end in range(len(path), 0, -1):
            node = self.variant.nodes.get(".".join(map(str, path[:end])))
            if node is not None:
                return node.written(path[end:])
        for tree in (self.entry, self.defaults):
            if tree is not None and tree.find(path) is not None:
                return tree.written(path)
        return None


def _named(name: str, loc: tuple[str | int, ...], problem: str) -> str:
    return f"cases.{'.'.join(map(str, (name, *loc)))}: {problem}"


def _top_level(tree: Node) -> Iterator[Problem]:
    if not isinstance(tree.value, dict):
        yield Problem(tree.line, "a case file is a mapping with `cases` and, if wanted, `defaults`")
        return
    for key, line in tree.keys.items():
        if key not in TOP_LEVEL:
            yield Problem(line, f"{key}: unknown key; {did_you_mean(key, TOP_LEVEL)}")
    cases = tree.value.get("cases")
    if cases is None:
        yield Problem(tree.line, "no `cases`: a mapping from an id to the fields of a case")
    elif not isinstance(cases.value, dict) or not cases.value:
        yield Problem(
            tree.keys["cases"], "cases: must be a mapping from an id to the fields of a case, with one at least"
        )
    defaults = tree.value.get("defaults")
    if defaults is not None and not isinstance(defaults.value, dict | None):
        yield Problem(tree.keys["defaults"], "defaults: must be a mapping of fields")
