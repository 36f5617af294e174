"""The rest of a case with wrong fields, so that one mistyped number does not hide the other mistakes of the entry."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

from harness.definitions.case import Case
from harness.definitions.checks import Finding, check_case
from harness.definitions.expansion import merge
from harness.definitions.validation import validate

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
"""Fields by which other fields are judged: where one of them is wrong, nothing is said of the others."""
_CHECKPOINTS: Final = {"model", "base", "transformer", "transformer_2"}


def check_rest(
    fields: dict[str, Any], wrong: Iterable[Finding], *, root: Path, runners: frozenset[str]
) -> Iterator[Finding]:
    """What :func:`check_case` says of the fields that are not ``wrong``."""
    bad = [loc for loc, _ in wrong]
    if any(loc and loc[0] in _DECIDES_OTHERS for loc in bad):
        return
    rest: Any = fields
    for loc in bad:
        rest = _without(rest, loc)
    known = {**_PLACEHOLDERS, "runners": sorted(runners)[:1] or ["x"]}
    case, still = validate(Case, merge(known, rest))
    if case is None:
        # A mapping lost a field that it needs; then the mapping goes too.
        case, _ = validate(
            Case, merge(known, {key: rest[key] for key in rest if key not in {loc[0] for loc, _ in still}})
        )
    if case is not None:
        for loc, said in check_case(case, root=root, runners=runners):
            if not any(_same(loc, other) for other in bad):
                yield loc, said


def _without(fields: Any, path: tuple[str | int, ...]) -> Any:
    """A copy without what is at ``path``; a list is dropped whole, so that no index shifts."""
    if not isinstance(fields, dict) or not path or path[0] not in fields:
        return fields
    head, *rest = path
    if rest and isinstance(fields[head], dict):
        return {**fields, head: _without(fields[head], tuple(rest))}
    return {key: value for key, value in fields.items() if key != head}


def _same(a: tuple[str | int, ...], b: tuple[str | int, ...]) -> bool:
    """Whether two paths speak of one thing; a checkpoint is one thing."""
    if not b or (a[0] == b[0] and a[0] in _CHECKPOINTS):
        return True
    return all(x == y for x, y in zip(a, b, strict=False))
