"""Build the inspection report from findings and evidence, with lists of work done and not done."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from harness.formats.modules import block_of, is_scale, summary_format
from harness.inspector.assemble import Assembly
from harness.inspector.checks.contract_rules import resolved
from harness.inspector.checks.encoding import declared_of, related
from harness.inspector.context import Context
from harness.inspector.explain import recipe_of
from harness.inspector.findings import finding, jsonable
from harness.inspector.gates import state_of
from harness.inspector.gather import Gathered, Plan
from harness.inspector.measure import Measured
from harness.inspector.sources import Meter
from harness.records.inspection import (
    ContractReport,
    ExpertSummary,
    InspectionFinding,
    InspectionOutcome,
    InspectionReport,
    LayerEvidence,
)


def build_report(
    context: Context,
    findings: Sequence[InspectionFinding],
    *,
    plan: Plan,
    subject: Assembly,
    anchor: Assembly | None,
    gathered: Gathered,
    digests: dict[str, str],
    meter: Meter,
    seconds: float,
) -> InspectionReport:
    """Return the report of one inspection."""
    outcome, cause = decide(findings)
    # a fault proven before the source failed stays a fault; a clean part of the reads must not pass
    if gathered.failed is not None:
        text = f"the source failed: {gathered.failed.message}"
        findings = [
            *findings,
            finding("inconclusive", "source_failed", text, evidence={"place": gathered.failed.place}),
        ]
        outcome, cause = ("fault", cause) if outcome == "fault" else ("infra", "source_failed")
    checked, unchecked = coverage(context, plan, gathered)
    return InspectionReport(
        reference=subject.reference,
        base=anchor.reference if anchor else None,
        outcome=outcome,
        cause=cause,
        summary=_summary(context, findings),
        findings=tuple(findings),
        experts=tuple(expert_summary(context, expert) for expert in context.experts),
        layers=tuple(layer for expert in context.experts for layer in layers(context, expert)),
        contracts=tuple(report for expert in context.experts for report in contract_reports(context, expert, findings)),
        digests=digests,
        done=(*checked, *subject.parts.done),
        not_done=(*unchecked, *subject.parts.not_done),
        bytes_read=meter.bytes,
        requests=meter.requests,
        seconds=round(seconds, 3),
    )


def decide(findings: Sequence[InspectionFinding]) -> tuple[InspectionOutcome, str]:
    """Return outcome and leading cause: the first fault, else the first inconclusive finding, else clean."""
    for outcome in ("fault", "inconclusive"):
        first = next((item for item in findings if item.severity == outcome), None)
        if first is not None:
            return ("fault" if outcome == "fault" else "inconclusive"), first.code
    return "clean", "none"


def _summary(context: Context, findings: Sequence[InspectionFinding]) -> str:
    leading = next((item for item in findings if item.severity in ("fault", "inconclusive")), None)
    if leading is not None:
        return leading.message
    parts = []
    for expert in context.experts:
        item = expert_summary(context, expert)
        parts.append(f"{expert} {item.format}" + (f" {item.encoding}" if item.encoding else ""))
    return ", ".join(parts)


def expert_summary(context: Context, expert: str) -> ExpertSummary:
    """Return the summary of one transformer: format, dialect, recipe, proven reading, sizes."""
    component, modules, quantized = context.experts[expert], context.modules[expert], context.quantized(expert)
    measured = related(context, expert)
    readings = Counter(
        item.fit.best for name, item in measured.items() if item.fit and state_of(item, item.fit.best) == "proven"
    )
    recipes = Counter(recipe_of(item) for item in measured.values())
    dialects = Counter(module.dialect for module in quantized.values())
    plain = [name for name, module in modules.items() if not module.quantized]
    return ExpertSummary(
        expert=expert,
        source=component.place,
        role="override" if component.role == "override" else "model",
        format=summary_format(modules),
        dialect=dialects.most_common(1)[0][0] if dialects else "plain",
        recipe=recipes.most_common(1)[0][0] if recipes else "",
        encoding=readings.most_common(1)[0][0] if readings else "",
        quantized_modules=len(quantized),
        unquantized_linears=len(plain),
        tensors=len(component.tensors),
        parameters=_parameters(context, expert),
        bytes_on_disk=sum(component.source.files[path].size for path in component.shards),
        excluded=collapse(plain) if quantized else (),
    )


def _parameters(context: Context, expert: str) -> int:
    """Count logical parameters, independent of a weight's packing; scales are not parameters."""
    logical = {
        module.weight.name: module.shape[0] * module.shape[1]
        for module in context.quantized(expert).values()
        if module.logical is not None or len(module.weight.shape) == 2
    }
    tensors = context.experts[expert].tensors
    return sum(logical.get(name, entry.elements) for name, entry in tensors.items() if not is_scale(name))


def collapse(names: Sequence[str]) -> tuple[str, ...]:
    """Return module names with block numbers joined, such as ``blocks.{0,1}.attn1.to_q``.

    Blocks with several modules become ``blocks.{0,1}.(4 Linears)``.
    """
    by_block: dict[int, set[str]] = {}
    rest: list[str] = []
    for name in names:
        number = block_of(name)
        if number is None:
            rest.append(name)
        else:
            by_block.setdefault(number, set()).add(name.split(f"blocks.{number}.", 1)[1])
    groups: dict[frozenset[str], list[int]] = {}
    for number, members in by_block.items():
        groups.setdefault(frozenset(members), []).append(number)
    out = []
    for names_in, numbers in groups.items():
        blocks = ",".join(map(str, sorted(numbers)))
        inner = next(iter(names_in)) if len(names_in) == 1 else f"({len(names_in)} Linears)"
        out.append(f"blocks.{{{blocks}}}.{inner}")
    return tuple(sorted(rest) + sorted(out))


def layers(context: Context, expert: str) -> list[LayerEvidence]:
    """Return one row per quantized Linear, and one per excluded Linear that was compared."""
    rows: list[LayerEvidence] = []
    for name, item in context.measured.get(expert, {}).items():
        rows.append(_layer(context, expert, name, item))
    linear = {module.weight.name: module for module in context.modules[expert].values() if not module.quantized}
    for compared in context.compared.get(expert, ()):
        if compared.tensor in linear:
            module = linear[compared.tensor]
            rows.append(
                LayerEvidence(
                    expert=expert,
                    block=block_of(module.name),
                    module=module.name,
                    format=module.format,
                    hypothesis="equal" if compared.equal else "differs",
                    declared="equal",
                    cosine=_number(compared.cosine),
                    relative_error=_number(compared.relative_error),
                    rows=compared.elements // max(module.shape[1], 1),
                    state="proven" if compared.equal else "contradicted",
                )
            )
    return rows


def _layer(context: Context, expert: str, name: str, item: Measured) -> LayerEvidence:
    declared = declared_of(context, expert, item)
    best_fit = item.fit
    score = best_fit.scores[best_fit.best] if best_fit else None
    blind = f"?/{item.blind.layout}" if item.blind and item.blind.layout else "?"
    return LayerEvidence(
        expert=expert,
        block=block_of(name),
        module=name,
        format=item.module.format,
        hypothesis=best_fit.best if best_fit else blind,
        declared=declared,
        cosine=_number(score.cosine) if score else None,
        relative_error=_number(score.relative_error) if score else None,
        gain=_number(score.gain) if score else None,
        gap=_number(best_fit.gap) if best_fit else None,
        runner_up=best_fit.runner_up if best_fit else "",
        rows=len(item.rows),
        state=state_of(item, declared),
    )


def _number(value: float | None) -> float | None:
    """Return six significant digits; ``None`` if the value is not a finite number."""
    clean = jsonable(value)
    return clean if isinstance(clean, float) else None


OF_FP4 = ("nibble_order", "scale_layout", "fp4_backend")


def contract_reports(context: Context, expert: str, findings: Sequence[InspectionFinding]) -> list[ContractReport]:
    """Return every runtime's assumptions for one expert, and whether the bytes agree (``None``: not proven)."""
    reports = []
    quantized = context.quantized(expert)
    four = any(module.spec.two_level for module in quantized.values())
    for runtime in resolved(context, expert):
        of_contract = [item for item in findings if item.contract == runtime.name and item.expert in (expert, "")]
        wrong = any(item.severity == "fault" for item in of_contract)
        unproven = four and any(item.severity == "inconclusive" for item in of_contract)
        reports.append(
            ContractReport(
                contract=runtime.name,
                expert=expert,
                # how a runtime reads FP4 says nothing about an expert without it
                assumptions=tuple(item for item in runtime.assumptions if four or item.field not in OF_FP4),
                # without a quantized Linear, nothing of the bytes was compared
                agrees=False if wrong else None if unproven or not quantized else True,
            )
        )
    return reports


def coverage(context: Context, plan: Plan, gathered: Gathered) -> tuple[list[str], list[str]]:
    """Return sentences on the checks that were made, and on those that were not."""
    checked = ["headers, indexes, configurations and key sets of every shard", "every global and input scale"]
    unchecked: list[str] = []
    for expert, component in context.experts.items():
        items = related(context, expert)
        if items:
            rows = sum(item.fit.rows for item in items.values() if item.fit)
            total = sum(item.module.shape[0] for item in items.values())
            checked.append(f"{expert}: {rows} of {total} rows of {len(items)} quantized Linears against the base")
            if rows < total:
                unchecked.append(f"{expert}: {total - rows} rows of quantized Linears were not read")
        if any(module.spec.two_level for module in context.quantized(expert).values()):
            if plan.scan[expert]:
                names = gathered.scanned.get(expert, {})
                total, read = sum(component.tensors[name].nbytes for name in names), gathered.scale_bytes.get(expert, 0)
                share = "every block scale" if read >= total else f"{read} of {total} block scales"
                checked.append(f"{expert}: {share} of {len(names)} tensors")
                if read < total:
                    unchecked.append(
                        f"{expert}: {total - read} block scales were not read for NaN and zero; --full reads them"
                    )
            else:
                unchecked.append(
                    f"{expert}: block scales outside the sampled strips were not read (NaN and zero); --full reads them"
                )
        compared = context.compared.get(expert, ())
        if compared:
            whole = sum(item.whole for item in compared)
            checked.append(f"{expert}: {len(compared)} excluded tensors against the base, {whole} of them whole")
            if whole < len(compared):
                unchecked.append(
                    f"{expert}: the rest of {len(compared) - whole} large excluded tensors; --full reads all bytes"
                )
        sane = context.sanity.get(expert)
        if sane:
            checked.append(f"{expert}: values of {len(sane)} unquantized tensors for NaN, infinity and zero")
        if expert not in plan.base and not context.quantized(expert) and component.tensors:
            unchecked.append(f"{expert}: without its base nothing shows that these are the weights that they should be")
        if expert not in plan.base and context.quantized(expert):
            four = any(module.spec.values_per_byte > 1 for module in context.quantized(expert).values())
            order = "nibble order, " if four else ""
            unchecked.append(f"{expert}: without its base: {order}gains, stale or swapped experts, excluded tensors")
        if component.source.is_local is False and gathered.failed is not None:
            unchecked.append(f"{expert}: {gathered.planned - gathered.finished} of {gathered.planned} planned reads")
    if not context.options.contracts:
        unchecked.append("no runtime contract was asked for")
    return checked, unchecked
