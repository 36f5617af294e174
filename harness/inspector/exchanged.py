"""Find the Linear of the base that a Linear without likeness to its own really holds: exchanged q and k, moved blocks.

A converter that maps a name wrongly, or sorts ``blocks.10`` before ``blocks.2``, writes right weights under wrong
names.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TypeVar

import numpy as np

from harness.formats.codecs import F32, FLOAT_DTYPES, decode_floats
from harness.formats.evidence import Sums
from harness.formats.header import TensorEntry
from harness.inspector.decoding import decode_module
from harness.inspector.gates import gate_of
from harness.inspector.gather import Compared, Gathered, Plan, closeness, read_windows
from harness.inspector.index import Component
from harness.inspector.measure import Measured
from harness.inspector.sampling import row_range

NEAR, FAR = (12, 48), (3, 12)
"""Linears that are searched for without success before the search ends, and Linears of the base that each is compared
with: for a base on this machine, and for one over the network. Weights of another model must not cost many reads."""
UNLIKE = 0.5
"""Cosine below which an unquantized Linear is not its own base's: versions of one model stay far above."""
EQUAL = 0.999
"""Cosine from which an unquantized Linear is another one of the base."""
Item = TypeVar("Item", Measured, Compared)
_BLOCK = re.compile(r"^(.*blocks\.)(\d+)(\..*)$")


def find_exchanged(plan: Plan, gathered: Gathered) -> None:
    """Fill ``holds`` of measured and compared Linears that are unlike their own base and like another Linear of it.

    Raises:
        SourceError: the source failed.
    """
    for expert, base in plan.base.items():
        component = plan.experts.get(expert)
        if component is None:
            continue
        exchanges: dict[str, str] = {}
        tries, limit = NEAR if base.source.is_local else FAR
        measured, compared = gathered.measured.get(expert, {}), gathered.compared.get(expert, [])
        unlike = [
            item
            for _, item in sorted(measured.items())
            if item.fit is not None and item.fit.scores[item.fit.best].cosine < gate_of(item).unrelated
            if item.module.recipe == "" and not item.all_zero
        ]
        # each success is entered before the next search, which tries the same exchange first
        for item, name in _search(unlike, partial(_of_measured, component, base, exchanges, limit), tries):
            exchanges[item.module.name] = name
            measured[item.module.name] = replace(item, holds=name)
        plain = [item for item in compared if _unlike(plan, expert, item)]
        for row, name in _search(plain, partial(_of_compared, plan, component, base, exchanges, limit), tries):
            exchanges[row.tensor.removesuffix(".weight")] = name
            compared[compared.index(row)] = replace(row, holds=name)


def _search(items: Sequence[Item], look: Callable[[Item], str], tries: int) -> Iterator[tuple[Item, str]]:
    """Yield each item with the name that ``look`` finds for it; end after ``tries`` searches without a name."""
    failures = 0
    for item in items:
        if failures >= tries:
            return
        name = look(item)
        if name:
            yield item, name
        else:
            failures += 1


def _unlike(plan: Plan, expert: str, item: Compared) -> bool:
    name = item.tensor.removesuffix(".weight")
    return not item.equal and item.cosine < UNLIKE and name in plan.modules[expert] and not item.other_equal


def candidates(
    name: str, shape: tuple[int, ...], base: Mapping[str, TensorEntry], exchanges: Mapping[str, str], limit: int
) -> list[str]:
    """Return at most ``limit`` Linears of the base that ``name`` may hold, the likeliest first.

    The order is: the same exchange as in ``exchanges``, the Linears of its block, its namesakes in the nearest blocks.
    """
    match = _BLOCK.match(name)
    if match is None:
        return []
    start, number, rest = match[1], int(match[2]), match[3]
    guesses: list[str] = []
    for old, new in exchanges.items():
        before, after = _BLOCK.match(old), _BLOCK.match(new)
        if before and after and before[3] == rest:
            guesses.append(f"{start}{number + int(after[2]) - int(before[2])}{after[3]}")
    same = [
        item.removesuffix(".weight")
        for item, entry in base.items()
        if item.endswith(".weight") and entry.shape == shape and entry.dtype in FLOAT_DTYPES
    ]
    here = [item for item in same if item.startswith(f"{start}{number}.")]
    there = [item for item in same if item.startswith(start) and item.endswith(rest)]
    there.sort(key=lambda item: (abs(_number(item) - number), item))
    ordered = dict.fromkeys((*guesses, *here, *there))
    return [item for item in ordered if item in same and item != name][:limit]


def _number(name: str) -> int:
    match = _BLOCK.match(name)
    return int(match[2]) if match else 0


def _of_measured(
    component: Component, base: Component, exchanges: Mapping[str, str], limit: int, item: Measured
) -> str:
    assert item.fit is not None  # noqa: S101 - the caller chose compared Linears
    try:
        readings = decode_module(component.source, item.module, item.rows)
    except (NotImplementedError, KeyError, ValueError, IndexError):
        return ""
    gate = gate_of(item).cosine
    for name in candidates(item.module.name, item.module.shape, base.tensors, exchanges, limit):
        rows = _rows(base, base.tensors[f"{name}.weight"], item)
        if any(Sums.of(values, rows).score().cosine >= gate for values in readings.values()):
            return name
    return ""


def _rows(base: Component, entry: TensorEntry, item: Measured) -> F32:
    start, length = row_range(entry, item.rows)
    return decode_floats(base.source.read(entry.file, start, length), entry.dtype).reshape(len(item.rows), -1)


def _of_compared(
    plan: Plan, component: Component, base: Component, exchanges: Mapping[str, str], limit: int, item: Compared
) -> str:
    entry, elements = component.tensors[item.tensor], plan.budgets[component.expert].excluded
    names = candidates(item.tensor.removesuffix(".weight"), entry.shape, base.tensors, exchanges, limit)
    (values,) = read_windows(component.source, [entry], elements)
    for name in names:
        (window,) = read_windows(base.source, [base.tensors[f"{name}.weight"]], elements)
        if window.size == values.size and np.isfinite(values).all() and closeness(values, window)[0] >= EQUAL:
            return name
    return ""
