"""Read all row evidence: one task per large tensor or batch of small tensors, many at once; keep all results."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, Executor, Future, wait
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np

from harness.formats.codecs import F32, FLOAT_DTYPES, decode_floats
from harness.formats.errors import SourceError
from harness.formats.header import DTYPE_BITS, TensorEntry
from harness.formats.modules import Module, is_scale
from harness.inspector.gates import is_doubtful
from harness.inspector.index import Component
from harness.inspector.measure import Anchor, Measured, measure
from harness.inspector.sampling import STRIP, Budget, block_scale_values, scale_windows
from harness.inspector.sources import Range, SharedReads, Source

# Tensors that were not quantized must equal the base's. A sample of each is compared, or all values.


@dataclass(frozen=True, slots=True)
class Compared:
    """Comparison of one excluded (not quantized) tensor with the base."""

    tensor: str
    equal: bool
    halves_swapped: bool
    """The first and the second half of the first axis longer than 1 are exchanged."""
    elements: int
    """Elements compared."""
    whole: bool
    cosine: float
    relative_error: float
    other_equal: bool | None = None
    """Whether it equals the OTHER expert's base instead."""
    not_finite: int = 0
    """Compared values that are NaN or infinite although the base's are finite."""
    holds: str = ""
    """Name of another Linear of the base that it equals; empty if none was found."""


@dataclass(frozen=True, slots=True)
class Sane:
    """Sanity of an unquantized tensor that has no base to compare with."""

    not_finite: int
    all_zero: bool
    elements: int
    """Elements that were read."""


def look_alone(values: F32) -> Sane:
    """Count values that are not finite and detect all zeros: no trained tensor has either. ``values`` is flat."""
    return Sane(int((~np.isfinite(values)).sum()), bool(values.size and not values.any()), int(values.size))


def windows(entry: TensorEntry, limit: int) -> list[tuple[int, int]]:
    """Return element windows ``(first, count)`` to compare: the whole tensor, or its start and the start of its half.

    For example, ``limit=4`` gives ``[(0, 4), (50, 4)]`` for 100 elements and ``[(0, 8)]`` for 8.
    """
    count = max(limit, 1)
    if entry.elements <= 2 * count:
        return [(0, entry.elements)]
    return [(0, count), (entry.elements // 2, count)]


def ranges(entry: TensorEntry, spans: Sequence[tuple[int, int]]) -> list[Range]:
    """Return the file ranges of element windows."""
    width = DTYPE_BITS[entry.dtype] // 8
    return [(entry.start + first * width, count * width) for first, count in spans]


def halves_axis(shape: tuple[int, ...]) -> bool:
    """Return whether the flat halves of a tensor are halves of its first axis longer than 1: a swap needs that."""
    leading = next((size for size in shape if size > 1), 1)
    return leading % 2 == 0


def compare(entry: TensorEntry, values: F32, base: F32, whole: bool, other: F32 | None = None) -> Compared:
    """Compare values after rounding the base to the stored dtype (an export may narrow, it may not change)."""
    dtype = FLOAT_DTYPES[entry.dtype]
    rounded = base.astype(dtype).astype(np.float32)
    equal = bool(np.array_equal(values, rounded, equal_nan=True))
    swapped = False
    if not equal and halves_axis(entry.shape) and values.size % 2 == 0:
        half = values.size // 2
        turned = np.concatenate([rounded[half:], rounded[:half]])
        swapped = bool(np.array_equal(values, turned, equal_nan=True))
    cosine, error = (1.0, 0.0) if equal else closeness(values, rounded)
    other_equal = None
    if other is not None:
        other_equal = bool(np.array_equal(values, other.astype(dtype).astype(np.float32), equal_nan=True))
    return Compared(
        entry.name,
        equal,
        swapped,
        int(values.size),
        whole,
        cosine,
        error,
        other_equal,
        int((~np.isfinite(values) & np.isfinite(base)).sum()),
    )


def closeness(values: F32, reference: F32) -> tuple[float, float]:
    """Return the cosine with ``reference`` and the error relative to its norm.

    Sums use ``einsum`` and not BLAS, whose threads would compete with the reading threads.
    """
    first, second = values.astype(np.float64), reference.astype(np.float64)
    length, norm, gap = (
        float(np.sqrt(np.einsum("i,i->", vector, vector))) for vector in (first, second, first - second)
    )
    dot = float(np.einsum("i,i->", first, second))
    cosine = dot / (norm * length) if norm and length else float(norm == length)
    return cosine, gap / norm if norm else (0.0 if gap == 0 else float("inf"))


def read_windows(source: Source, entries: Sequence[TensorEntry], limit: int) -> list[F32]:
    """Read the windows of several tensors, joined per tensor. Near windows of a file share a request."""
    by_file: dict[str, list[int]] = {}
    for index, entry in enumerate(entries):
        by_file.setdefault(entry.file, []).append(index)
    values: list[F32] = [np.zeros(0, np.float32)] * len(entries)
    for file, members in by_file.items():
        spans = [ranges(entries[index], windows(entries[index], limit)) for index in members]
        flat = [item for span in spans for item in span]
        data = iter(source.read_ranges(file, flat))
        for index, span in zip(members, spans, strict=True):
            values[index] = decode_floats(b"".join(next(data) for _ in span), entries[index].dtype)
    return values


EXCLUDED_BATCH = 24
MAX_SCALAR_BYTES = 1 << 20


@dataclass
class Gathered:
    """Row evidence per expert. It grows while tasks finish."""

    scalars: dict[str, dict[str, tuple[float, ...]]] = field(default_factory=dict)
    measured: dict[str, dict[str, Measured]] = field(default_factory=dict)
    compared: dict[str, list[Compared]] = field(default_factory=dict)
    scanned: dict[str, dict[str, tuple[int, int]]] = field(default_factory=dict)
    scale_bytes: dict[str, int] = field(default_factory=dict)
    """Per expert, block scales in which NaN and zero were counted; each has one byte."""
    sanity: dict[str, dict[str, Sane]] = field(default_factory=dict)
    same: bool | None = None
    """Whether both experts hold the same bytes, as far as sampled; ``None``: not compared, since there is a base."""
    failed: SourceError | None = None
    planned: int = 0
    finished: int = 0


@dataclass(frozen=True)
class Plan:
    """Inputs of `gather`, per expert: components, modules, base, budgets."""

    experts: Mapping[str, Component]
    modules: Mapping[str, Mapping[str, Module]]
    base: Mapping[str, Component]
    budgets: Mapping[str, Budget]
    scan: Mapping[str, bool]
    """Per expert, whether NaN and zero are counted among the block scales."""
    reads: SharedReads = field(default_factory=SharedReads)


def gather(plan: Plan, pool: Executor) -> Gathered:
    """Run all reads. If the source fails, stop early: ``failed`` holds the error, results read before are kept."""
    gathered = Gathered()
    tasks: dict[Future[Any], Callable[[Any], None]] = {}
    try:
        for expert, component in plan.experts.items():
            gathered.scalars[expert] = _scalars(component, plan.modules[expert])
        for work, keep in _work(plan, gathered):
            tasks[pool.submit(work)] = keep
        # with a base each expert is compared with its own there, which shows equal and exchanged experts too
        if not plan.base and len(plan.experts) == 2:
            tasks[pool.submit(_same_bytes, *plan.experts.values())] = partial(setattr, gathered, "same")
        gathered.planned = len(tasks)
        pending = set(tasks)
        while pending:
            # a source that fails once is not asked for the other tensors
            finished, pending = wait(pending, return_when=FIRST_EXCEPTION)
            # keep the results of this round before the first error is raised below
            for future in finished:
                if future.exception() is None:
                    tasks[future](future.result())
                    gathered.finished += 1
            for future in finished:
                future.result()
        _confirm(plan, gathered, pool)
    except SourceError as error:
        gathered.failed = error
        for future in tasks:
            future.cancel()
        for future, keep in tasks.items():
            if future.done() and not future.cancelled() and future.exception() is None:
                keep(future.result())
    return gathered


MOST_DOUBTFUL = 16
"""Linears of an expert that are read again. If more have another gain, it is no chance of the rows that were read."""


def _confirm(plan: Plan, gathered: Gathered, pool: Executor) -> None:
    """Measure Linears again whose gain is off by little, on a whole strip of rows in place of a few.

    Raises:
        SourceError: bytes could not be fetched.
    """
    for expert, component in plan.experts.items():
        doubtful = [name for name, item in sorted(gathered.measured[expert].items()) if is_doubtful(item)]
        if not 0 < len(doubtful) <= MOST_DOUBTFUL:
            continue
        wide = replace(plan, budgets={**plan.budgets, expert: replace(plan.budgets[expert], rows=STRIP)})
        again = [_measure_task(wide, gathered, component, plan.modules[expert][name]) for name in doubtful]
        for (_, keep), future in [(task, pool.submit(task[0])) for task in again]:
            keep(future.result())


SAME_TENSORS, SAME_BYTES = 16, 4096
"""Tensors of which the experts' bytes are compared without a base, and bytes of each."""


def _same_bytes(first: Component, second: Component) -> bool:
    """Return whether two experts have the same tensors, and the same first bytes in a sample of the largest ones."""
    layout = {name: (entry.dtype, entry.shape) for name, entry in first.stored.items()}
    if not layout or layout != {name: (entry.dtype, entry.shape) for name, entry in second.stored.items()}:
        return False
    large = sorted(layout, key=lambda name: (-first.stored[name].nbytes, name))
    for name in large[:: max(len(large) // (2 * SAME_TENSORS), 1)][:SAME_TENSORS]:
        first_entry, second_entry = first.stored[name], second.stored[name]
        count = min(first_entry.nbytes, SAME_BYTES)
        if first.source.read(first_entry.file, first_entry.start, count) != second.source.read(
            second_entry.file, second_entry.start, count
        ):
            return False
    return True


def _scalars(component: Component, modules: Mapping[str, Module]) -> dict[str, tuple[float, ...]]:
    """Read every global, per-tensor, per-channel and input scale, one call per file so that near ranges are merged."""
    scalars: dict[str, list[TensorEntry]] = {}
    for module in modules.values():
        outer = module.scale if module.format in ("fp8", "int8") else None
        # a Linear may carry its scale under a second name, as hybrid files for two loaders do
        second = module.parts.get("scale_weight") if outer is not None else None
        for entry in (module.global_scale, module.input_scale, outer, second):
            if entry is not None and entry.dtype in FLOAT_DTYPES and entry.nbytes <= MAX_SCALAR_BYTES:
                scalars.setdefault(entry.file, []).append(entry)
    values: dict[str, tuple[float, ...]] = {}
    for file, entries in scalars.items():
        data = component.source.read_ranges(file, [(entry.start, entry.nbytes) for entry in entries])
        for entry, raw in zip(entries, data, strict=True):
            values[entry.name] = tuple(decode_floats(raw, entry.dtype).tolist())
    return values


Task = tuple[Callable[[], Any], Callable[[Any], None]]


def _work(plan: Plan, gathered: Gathered) -> Iterator[Task]:
    for expert, component in plan.experts.items():
        base_expert, other = plan.base.get(expert), _other_base(plan, expert)
        gathered.measured[expert], gathered.compared[expert], gathered.scanned[expert] = {}, [], {}
        for module in plan.modules[expert].values():
            if module.quantized:
                yield _measure_task(plan, gathered, component, module)
                if (
                    plan.scan[expert]
                    and module.spec.two_level
                    and module.scale is not None
                    and module.scale.dtype == "F8_E4M3"
                ):
                    yield _scan_task(gathered, component, module, module.scale, plan.budgets[expert].scales)
        if base_expert is not None:
            yield from _excluded_tasks(plan, gathered, component, base_expert, other)
        else:
            yield from _sanity_tasks(plan, gathered, component)


def _other_base(plan: Plan, expert: str) -> Component | None:
    """Return the base's other expert, with which swapped files are found."""
    return next((component for name, component in plan.base.items() if name != expert), None)


def _anchor(component: Component | None, module: Module, reads: SharedReads) -> Anchor | None:
    entry = component.tensors.get(f"{module.name}.weight") if component else None
    return Anchor(component.source, entry, reads) if component and entry else None


def _measure_task(plan: Plan, gathered: Gathered, component: Component, module: Module) -> Task:
    expert = component.expert
    values = gathered.scalars[expert].get(module.global_scale.name) if module.global_scale else None
    budget, reads = plan.budgets[expert], plan.reads
    base = _anchor(plan.base.get(expert), module, reads)
    other = _anchor(_other_base(plan, expert), module, reads)

    def work() -> Measured:
        return measure(expert, component.source, module, budget, base, other, values[0] if values else None)

    def keep(result: Measured) -> None:
        gathered.measured[expert][module.name] = result

    return work, keep


def _scan_task(gathered: Gathered, component: Component, module: Module, scale: TensorEntry, limit: int) -> Task:
    rows, columns = module.shape
    padding = max(scale.elements - rows * -(-columns // 16), 0)  # a swizzled layout pads with zeros
    # zeros of padding lie anywhere, so they can be told from lost scales only in a count over the whole tensor
    windows = scale_windows(scale, scale.nbytes if padding else limit)

    def work() -> tuple[int, int]:
        nans, zeros = block_scale_values(component.source, scale, windows)
        return nans, max(zeros - padding, 0)

    def keep(result: tuple[int, int]) -> None:
        gathered.scanned[component.expert][scale.name] = result
        gathered.scale_bytes[component.expert] = gathered.scale_bytes.get(component.expert, 0) + sum(
            length for _, length in windows
        )

    return work, keep


def _sanity_tasks(plan: Plan, gathered: Gathered, component: Component) -> Iterator[Task]:
    """Yield tasks that read windows of every float tensor, in batches, for an expert without a base."""
    quantized = {module.weight.name for module in plan.modules[component.expert].values() if module.quantized}
    entries = [
        entry
        for name, entry in component.tensors.items()
        if entry.dtype in FLOAT_DTYPES and not is_scale(name) and name not in quantized
    ]
    # in the order of the file, so that near tensors of a batch share a read
    entries.sort(key=lambda entry: (entry.file, entry.start))
    limit = min(plan.budgets[component.expert].excluded, SANITY_ELEMENTS)
    rows_by_name = gathered.sanity.setdefault(component.expert, {})
    for first in range(0, len(entries), EXCLUDED_BATCH):
        batch = entries[first : first + EXCLUDED_BATCH]

        def work(batch: list[TensorEntry] = batch) -> dict[str, Sane]:
            values = read_windows(component.source, batch, limit)
            return {entry.name: look_alone(item) for entry, item in zip(batch, values, strict=True)}

        yield work, rows_by_name.update


SANITY_ELEMENTS = 4096
"""Elements read at the start and at the half of a tensor if there is no base."""


def _excluded_tasks(
    plan: Plan, gathered: Gathered, component: Component, base_expert: Component, other: Component | None
) -> Iterator[Task]:
    quantized = {module.weight.name for module in plan.modules[component.expert].values() if module.quantized}
    entries = [
        entry
        for name, entry in component.tensors.items()
        if name not in quantized
        and not is_scale(name)
        and entry.dtype in FLOAT_DTYPES
        and name in base_expert.tensors
        and base_expert.tensors[name].shape == entry.shape
        and base_expert.tensors[name].dtype in FLOAT_DTYPES
    ]
    # in the order of the file, so that near tensors of a batch share a read
    entries.sort(key=lambda entry: (entry.file, entry.start))
    limit = plan.budgets[component.expert].excluded
    for first in range(0, len(entries), EXCLUDED_BATCH):
        yield _excluded_task(gathered, component, base_expert, other, entries[first : first + EXCLUDED_BATCH], limit)


def _excluded_task(
    gathered: Gathered,
    component: Component,
    base_expert: Component,
    other: Component | None,
    batch: list[TensorEntry],
    limit: int,
) -> Task:
    def work() -> list[Compared]:
        measured = read_windows(component.source, batch, limit)
        base = read_windows(base_expert.source, [base_expert.tensors[entry.name] for entry in batch], limit)
        results = []
        for entry, values, anchor in zip(batch, measured, base, strict=True):
            whole = len(windows(entry, limit)) == 1
            result = compare(entry, values, anchor, whole)
            rival = other.tensors.get(entry.name) if other is not None else None
            # the other expert's base is read only for tensors that differ: equal ones need no second explanation
            if not result.equal and other is not None and rival is not None and rival.shape == entry.shape:
                (rival_window,) = read_windows(other.source, [rival], limit)
                result = compare(entry, values, anchor, whole, rival_window)
            results.append(result)
        return results

    def keep(results: list[Compared]) -> None:
        gathered.compared[component.expert] += results

    return work, keep
