"""List the cases that another version of a runtime would load differently, from headers alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from harness.definitions.case import Case
from harness.errors import QuantgateError
from harness.inspector.assemble import assemble
from harness.inspector.contracts.model import Rules, load_contract
from harness.inspector.contracts.predict import Prediction, predict
from harness.inspector.contracts.resolve import LAYOUTS, ORDERS, declared_by
from harness.inspector.sources import Meter

READERS = 8


def affected(cases: Iterable[Case], runtime: str, rules: Rules, root: Path) -> Iterator[str]:
    """Yield a line per case whose contracts name the runtime: the changes that the new rules make for its checkpoint.

    A checkpoint that cannot be read gets a line with the reason, and the other cases go on.

    Args:
        cases: cases of the project.
        runtime: such as ``sglang``.
        rules: rules of the version to compare with the version that each case names.
        root: folder that ``./`` is relative to.
    """
    for case in cases:
        for name in case.contracts:
            if name.partition("==")[0] != runtime:
                continue
            try:
                changes = list(_changes(case, load_contract(name, root).rules, rules, root))
            except QuantgateError as error:
                yield f"{case.id} ({name}): its checkpoint could not be read here ({error.message})"
                continue
            yield f"{case.id} ({name}): {'; '.join(changes) if changes else 'loaded the same'}"


def _changes(case: Case, old: Rules, new: Rules, root: Path) -> Iterator[str]:
    overrides = {"transformer": case.transformer, "transformer_2": case.transformer_2}
    with ThreadPoolExecutor(READERS) as pool:
        experts = assemble(case.model, Meter(), pool, overrides, root).experts
    for expert, component in experts.items():
        declared = declared_by(component)
        for field, before, after in _differences(predict(old, declared), predict(new, declared)):
            yield f"{expert}: {field} {before} -> {after}"


def _differences(before: Prediction, after: Prediction) -> Iterator[tuple[str, object, object]]:
    def rows(item: Prediction) -> dict[str, object]:
        if item.refused or item.unmodelled:
            return {"loads": item.refused or f"no rule for {item.unmodelled}"}
        return {
            "loads": "yes",
            "method": item.method or "plain",
            "nibble order": ORDERS[item.swap.on],
            "scale layout": LAYOUTS[item.tiled.on],
            "quantized Linears": len(item.quantized),
            "input scales of 1": len(item.input_scale_of_one),
        }

    old, new = rows(before), rows(after)
    for field in {**old, **new}:
        if old.get(field) != new.get(field) and field in old and field in new:
            yield field, old[field], new[field]
