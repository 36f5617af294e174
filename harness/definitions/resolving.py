"""Replace ``revision: unresolved`` in case files by the commit that the hub has now.

Only this word is replaced, at its place in the text: comments, order and layout stay as they are, byte for byte.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from harness.definitions.case import UNRESOLVED, Case
from harness.definitions.loading import expand
from harness.definitions.yaml_tree import Node, YamlError, parse, read_text, scalar, shown
from harness.errors import InfraError, InvalidCaseError
from harness.records.base import write_text_atomic

Lookup = Callable[[str, str], str]
"""(repository, branch or tag) -> full commit."""


class Resolved(NamedTuple):
    """One revision that was written."""

    path: Path
    line: int
    repository: str
    commit: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.repository} -> {self.commit}"


def require_resolved(case: Case) -> Case:
    """Return ``case`` if every checkpoint and picture in it has a commit.

    Raises:
        InvalidCaseError: a revision is not resolved; the remedy is the command that resolves it.
    """
    open_refs = [f"{role} {ref.path}" for role, ref in case.checkpoints().items() if ref.revision == UNRESOLVED]
    open_refs += [f"{field} {ref.name}" for field, ref in case.sampling.images().items() if ref.revision == UNRESOLVED]
    if open_refs:
        raise InvalidCaseError(
            f"no commit is known for {', '.join(open_refs)}; a branch would be another checkpoint tomorrow",
            place=case.id,
            remedy=f"quantgate resolve {case.id}",
        )
    return case


def resolve_cases(
    paths: Sequence[Path],
    root: Path,
    ids: Collection[str] = (),
    *,
    revision: str = "main",
    lookup: Lookup | None = None,
) -> tuple[Resolved, ...]:
    """Write the commits of all unresolved revisions in the given cases.

    Args:
        paths: case files.
        root: the repository, to which paths in the result are relative.
        ids: cases to resolve; empty means all. A revision that a case takes from ``defaults`` is resolved there.
        revision: branch or tag whose commit is taken.
        lookup: function that returns the commit; :func:`hub_commit` by default. It is called once per repository.

    Returns:
        The written revisions, sorted by file and line; empty if all were resolved before.

    Raises:
        InvalidCaseError: a file is not YAML, or no case is called like one of ``ids``.
        InfraError: the hub gave no commit; then no file was written.
    """
    ask = lookup or hub_commit
    commits: dict[str, str] = {}
    resolved: list[Resolved] = []
    existing: set[str] = set()
    texts: list[tuple[Path, str]] = []
    for path in paths:
        try:
            text = read_text(path)
            tree = parse(text)
        except YamlError as error:
            raise InvalidCaseError(str(error), place=str(shown(path, root))) from None
        edits: dict[tuple[int, int], str] = {}
        for repository, node in _open_refs(tree, ids, existing):
            # an alias yields its node again: one place in the text is written once
            if node.span not in edits:
                commits[repository] = commits.get(repository) or ask(repository, revision)
                edits[node.span] = commits[repository]
                resolved.append(Resolved(shown(path, root), node.line, repository, commits[repository]))
        if edits:
            texts.append((path, _edited(text, edits)))
    if missing := sorted(set(ids) - existing):
        raise InvalidCaseError(f"no case is called {', '.join(missing)}", remedy="quantgate cases")
    # written last: an error of the hub or a wrong id must leave every file unchanged
    for path, text in texts:
        write_text_atomic(path, text)
    return tuple(sorted(resolved, key=lambda item: (str(item.path), item.line)))


def hub_commit(repository: str, revision: str) -> str:
    """Return the commit of ``revision`` of a model repository, from the hub that ``HF_ENDPOINT`` names.

    Raises:
        InfraError: no answer, no such repository or revision, or no right to read it.
    """
    from huggingface_hub import HfApi  # lazily: collection must not pay for its import
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        commit = HfApi().model_info(repository, revision=revision, timeout=30).sha
    except (HfHubHTTPError, HFValidationError, OSError, ValueError) as error:
        lines = str(error).strip().splitlines()
        raise InfraError(
            f"the hub gave no commit of {repository} at {revision}: {lines[0] if lines else type(error).__name__}",
            remedy="check the network, HF_ENDPOINT, HF_HUB_OFFLINE and HF_TOKEN, then repeat the command",
            kind="download",
        ) from None
    if not commit or len(commit) != 40:
        raise InfraError(f"the hub names {commit!r} as commit of {repository}, which is none", kind="download")
    return commit


def _open_refs(tree: Node, ids: Collection[str], present_ids: set[str]) -> Iterator[tuple[str, Node]]:
    """Yield repository and ``unresolved`` scalar of each reference in the cases ``ids`` and their defaults."""
    cases = tree.value.get("cases") if isinstance(tree.value, dict) else None
    if cases is None or not isinstance(cases.value, dict):
        return
    defaults = tree.value.get("defaults")
    taken = False
    for name, entry in cases.value.items():
        variants, _ = expand(name, entry, {})
        names = {name, *(variant.id for variant in variants)}
        if not ids or names & set(ids):
            present_ids |= names & set(ids)
            taken = True
            yield from _walk(entry)
    if taken and defaults is not None:
        yield from _walk(defaults)


def _walk(node: Node) -> Iterator[tuple[str, Node]]:
    if isinstance(node.value, list):
        for child in node.value:
            yield from _walk(child)
    elif isinstance(node.value, dict):
        path, revision = node.value.get("path"), node.value.get("revision")
        if path is not None and revision is not None and revision.value == UNRESOLVED and isinstance(path.value, str):
            yield path.value, revision
        for child in node.value.values():
            yield from _walk(child)


def _edited(text: str, edits: dict[tuple[int, int], str]) -> str:
    # from the end: a replacement must not shift the places of the others
    for (start, end), commit in sorted(edits.items(), reverse=True):
        # In quotes if YAML would read the commit as a number.
        text = text[:start] + (commit if _reads_as_text(commit) else f'"{commit}"') + text[end:]
    return text


def _reads_as_text(commit: str) -> bool:
    return isinstance(scalar(commit), str)
