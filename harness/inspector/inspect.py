"""Inspect a checkpoint: open it, read headers, sample rows, run every check, build one report."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypedDict, Unpack

from harness.definitions.case import Loader
from harness.formats.errors import InspectionInterruptedError, SourceError
from harness.formats.modules import group
from harness.inspector.assemble import Assembly, Ref, assemble
from harness.inspector.checks import run_checks
from harness.inspector.context import Context, Options
from harness.inspector.contracts import Contract, load_contract
from harness.inspector.exchanged import find_exchanged
from harness.inspector.gather import Gathered, Plan, gather
from harness.inspector.identity import DigestCache, component_digests, digest_name
from harness.inspector.pipeline_parts import added_settings, against_base
from harness.inspector.sampling import FULL, LOCAL, LOCAL_WIDE, REMOTE, REMOTE_WIDE, Budget
from harness.inspector.sources import Meter
from harness.inspector.summarize import build_report
from harness.records.inspection import InspectionFinding, InspectionReport

WORKERS = 16
"""Reads that run at once."""


class Asked(TypedDict, total=False):
    """Arguments of an inspection beside the checkpoint; all are optional."""

    base: Ref | None
    """The BF16 checkpoint it was quantized from. Without it nibble order, gains, stale and swapped experts cannot be
    proven, and the outcome is at best ``inconclusive``."""
    transformer: Ref | None
    """Override of one expert."""
    transformer_2: Ref | None
    contracts: Sequence[str | Contract]
    """Runtimes it is deployed to, ``sglang==0.5.23``."""
    loader: Loader | None
    """The harness's own loader options, compared with the bytes like those of any runtime."""
    env: Mapping[str, str] | None
    """Environment of the runtimes."""
    expected: Mapping[str, str] | None
    """Format each expert must have (``case.quantization``)."""
    full: bool
    """Read all excluded tensors and all block scales also over the network."""
    root: Path | None
    """Folder that ``./`` is relative to."""


def inspect_checkpoint(
    ref: Ref,
    *,
    digests: bool = True,
    unread: int | None = None,
    cache: DigestCache | None = None,
    skip: Collection[str] = (),
    **arguments: Unpack[Asked],
) -> InspectionReport:
    """Prove from bytes how a checkpoint is encoded, and compare that with the assumptions of every runtime asked for.

    Args:
        ref: the checkpoint: a folder, ``owner/name@revision`` or a case's reference.
        digests: also hash local files (cached by stamp, see `harness.inspector.identity`) or take the hub's digests.
            Files are hashed while the rows are read and compared.
        unread: bytes that may be read to hash files. If the files without a cached digest are larger, they get none,
            and the report lists that; ``None``: all are hashed.
        cache: cache of digests.
        skip: names of checks to leave out; for tests that prove a check's worth.
        arguments: see ``Asked``.

    Raises:
        BadReferenceError, ContractError: nothing to inspect, or no such contract.
        InspectionInterruptedError: the source failed; ``.report`` holds the results until then.
        SourceError: the source failed before anything could be proven.
    """
    started = time.perf_counter()
    hashed: list[Future[dict[str, str]]] = []
    with ThreadPoolExecutor(1, thread_name_prefix="digests") as beside:

        def opened(subject: Assembly) -> None:
            if digests:
                hashed.append(beside.submit(component_digests, subject.experts.values(), cache, unread))

        examined = examine(ref, opened, **arguments)
        gathered = examined.gathered
        findings = run_checks(examined.context, skip)
        names = hashed[0].result() if hashed and gathered.failed is None else {}
    report = examined.report(findings, names, time.perf_counter() - started)
    if digests and gathered.failed is None and (unhashed := _unhashed(examined.subject, names)):
        sentence = f"{unhashed} files were not hashed, which would read them whole: --full does"
        report = report.model_copy(update={"not_done": (*report.not_done, sentence)})
    if gathered.failed is not None:
        error = InspectionInterruptedError(
            f"the source failed after {gathered.finished} of {gathered.planned} reads: {gathered.failed.message}",
            place=gathered.failed.place,
            remedy=gathered.failed.remedy,
            kind=gathered.failed.kind,
        )
        error.report = report
        raise error
    return report


def _unhashed(subject: Assembly, names: Mapping[str, str]) -> int:
    """Return the number of weight files without a digest."""
    return sum(
        digest_name(component, path) not in names
        for component in subject.experts.values()
        for path in component.shards
    )  # fmt: skip


@dataclass(frozen=True)
class Examined:
    """All data read of a checkpoint. Checks can run on it any number of times."""

    context: Context
    plan: Plan
    subject: Assembly
    anchor: Assembly | None
    gathered: Gathered
    meter: Meter

    def report(self, findings: list[InspectionFinding], digests: dict[str, str], seconds: float) -> InspectionReport:
        """Return the report of these findings."""
        return build_report(
            self.context,
            findings,
            plan=self.plan,
            subject=self.subject,
            anchor=self.anchor,
            gathered=self.gathered,
            digests=digests,
            meter=self.meter,
            seconds=seconds,
        )


def examine(ref: Ref, opened: Callable[[Assembly], None] | None = None, **arguments: Unpack[Asked]) -> Examined:
    """Read the data that the checks need, and run no check.

    Args:
        ref, arguments: as of ``inspect_checkpoint``, and so are the errors.
        opened: called once the checkpoint's headers are read, before its rows are.
    """
    meter, base, root = Meter(), arguments.get("base"), arguments.get("root")
    experts = {"transformer": arguments.get("transformer"), "transformer_2": arguments.get("transformer_2")}
    options = _options(arguments)
    with ThreadPoolExecutor(WORKERS, thread_name_prefix="inspect") as pool:
        subject = assemble(ref, meter, pool, experts, root)
        # hashing starts before the base is opened, so that it overlaps all further reads
        if opened is not None:
            opened(subject)
        anchor = assemble(base, meter, pool, root=root, role="base") if base is not None else None
        if anchor is not None:
            subject = _with_base(subject, anchor, pool)
        context, plan = _context(subject, anchor, options)
        gathered = gather(plan, pool)
        if gathered.failed is None:
            try:
                # after all rows: which Linears look exchanged is known only from the rows that fit no reading
                find_exchanged(plan, gathered)
            except SourceError as error:
                gathered.failed = error
    return Examined(_filled(context, gathered), plan, subject, anchor, gathered, meter)


def _with_base(subject: Assembly, anchor: Assembly, pool: Executor) -> Assembly:
    """Return the checkpoint with findings from comparing its other components with the base's."""
    comparison = against_base(subject.sources["model"], subject.parts, anchor.sources["model"], anchor.parts, pool)
    settings = tuple(added_settings(subject.experts, anchor.experts))
    not_done = tuple(line for line in subject.parts.not_done if not (comparison.done and "no weight was read" in line))
    parts = replace(subject.parts, done=(*subject.parts.done, *comparison.done), not_done=not_done)
    return replace(subject, findings=(*subject.findings, *comparison.findings, *settings), parts=parts)


def _options(arguments: Asked) -> Options:
    return Options(
        tuple(
            item if isinstance(item, Contract) else load_contract(item, arguments.get("root"))
            for item in arguments.get("contracts", ())
        ),
        arguments.get("loader"),
        dict(arguments.get("env") or {}),
        arguments.get("full", False),
        dict(arguments.get("expected") or {}),
        arguments.get("base") is not None,
    )


def _context(subject: Assembly, anchor: Assembly | None, options: Options) -> tuple[Context, Plan]:
    modules = {expert: group(component.tensors, component.hints) for expert, component in subject.experts.items()}
    base = dict(anchor.experts) if anchor else {}
    context = Context(
        options=options,
        experts=subject.experts,
        base=base,
        modules=modules,
        base_modules={expert: group(component.tensors, component.hints) for expert, component in base.items()},
        model_index=subject.model_index,
        base_index=anchor.model_index if anchor else None,
        scheduler=subject.parts.files["scheduler"].config if "scheduler" in subject.parts.files else {},
        reading_findings=subject.findings,
    )
    budgets: dict[str, Budget] = {}
    scan: dict[str, bool] = {}
    for expert, component in subject.experts.items():
        local = component.source.is_local and (expert not in base or base[expert].source.is_local)
        wide = any(module.weight.dtype == "F32" for module in context.base_modules.get(expert, {}).values())
        near, far = (LOCAL_WIDE, REMOTE_WIDE) if wide else (LOCAL, REMOTE)
        budgets[expert] = FULL if options.full else near if local else far
        # windows of all block scales are cheap on a disk, and too many requests over the network unless asked for
        scan[expert] = options.full or component.source.is_local
    return context, Plan(subject.experts, modules, base, budgets, scan)


def _filled(context: Context, gathered: Gathered) -> Context:
    compared = {
        expert: tuple(sorted(items, key=lambda item: item.tensor)) for expert, items in gathered.compared.items()
    }
    measured = {expert: dict(sorted(items.items())) for expert, items in gathered.measured.items()}
    return replace(
        context,
        scalars=gathered.scalars,
        measured=measured,
        compared=compared,
        scanned=gathered.scanned,
        sanity=gathered.sanity,
        same_experts=gathered.same,
    )
