"""Find why a run is slower or larger: the first cause of a fixed list that holds, ordered by cost of its evidence."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from harness.perf.comparing import Look
from harness.perf.measures import EXPERTS, usage_of
from harness.perf.quiet import cold_cache, disturbances
from harness.perf.rule import Rule
from harness.perf.speed import pool_at_usual_speed, too_far, usual_speed
from harness.records.generation import Receipts
from harness.records.identity import Fingerprint
from harness.records.perf import BlockTime, PerfFacts, PerfReport, Profile
from harness.records.perf_file import PerfFile, PerfPool

_PACKAGES = ("torch", "diffusers", "transformers", "triton", "flashinfer-python", "sglang", "vllm-omni")
_BLOCK_OUTLIER = 4.0
"""Robust deviations from the other blocks of its expert beyond which a block is slow by itself."""
_BLOCK_EFFECT = 1.10
_LEAST_STEPS = 3
"""Warm steps of an expert below which their median is one disturbed step."""
_MORE = 1.5
"""Factor on the count of kernels or waits beyond which the run took another code path."""


class Cause(NamedTuple):
    """One cause that holds."""

    name: str
    message: str


def find_cause(
    report: PerfReport,
    looks: Sequence[Look],
    file: PerfFile | None,
    fingerprint: Fingerprint | None,
    profile: Profile | None,
) -> Cause:
    """Name the first cause that holds of a run that is slower or larger.

    Args:
        report: its comparison with the baseline.
        looks: its generations in order.
        file: the baseline.
        fingerprint: machine and packages of the run.
        profile: an instrumented generation, if one was made.
    """
    facts = file.facts if file else PerfFacts()
    cause = next(_causes(report, looks, facts, file, fingerprint, profile), None)
    if cause is not None:
        return cause
    if report.state == "leak":
        return Cause("leaking", "every generation leaves more memory allocated than the previous generation")
    if report.state == "more_memory":
        return Cause("larger", "the same modules on the same versions hold more memory")
    slow = _share(looks, file, report.pool)
    return Cause("everywhere", f"all of it is slow: {slow}" if slow else "all of it is slow")


def _causes(
    report: PerfReport,
    looks: Sequence[Look],
    facts: PerfFacts,
    file: PerfFile | None,
    fingerprint: Fingerprint | None,
    profile: Profile | None,
) -> Iterator[Cause]:
    generation, usage = looks[0].generation, looks[0].generation.usage
    pool = _pool_of(file, report.pool)
    for expert in EXPERTS:
        now, usual = generation.receipts.count(expert), facts.receipts.get(expert)
        if isinstance(usual, dict) and now != usual:
            yield Cause("other_kernel", f"{expert} runs {_counts(now)}, and the baseline {_counts(usual)}")
    if usage is not None:
        compiled, usual_compiled = usage.compilations, facts.compilations
        if compiled is not None and usual_compiled is not None and compiled != usual_compiled:
            yield Cause("recompiled", f"{compiled} graphs were compiled, and {usual_compiled} in the baseline")
        if usual_compiled and compiled is None:
            yield Cause("recompiled", f"nothing was compiled, and {usual_compiled} graphs in the baseline")
        if facts.attention and usage.attention != facts.attention:
            yield Cause("attention_backend", f"attention is {usage.attention}, and {facts.attention} in the baseline")
    for look in looks:
        for disturbance in disturbances(look.conditions, facts.sm_clock):
            yield Cause(disturbance.cause, disturbance.message)
        if far := too_far(look.cpu, usual_speed(pool) if pool else None):
            yield Cause(far.cause, far.message)
    if report.state == "slower" and any(row.measure in ("read", "total") and row.gates for row in report.comparisons):
        cold = cold_cache(looks[0].engine.load) if looks[0].engine else None
        if cold is not None:
            yield Cause(cold.cause, cold.message)
    if fingerprint is not None and (moved := list(_versions(fingerprint, facts))):
        yield Cause("other_version", "; ".join(moved))
    if profile is not None and report.state == "slower":
        yield from _profiled(profile, facts.profile, generation.receipts)
    if report.state == "slower" and (only := _one_expert(looks, file, report.pool)):
        yield Cause("one_expert", only)


def _versions(fingerprint: Fingerprint, facts: PerfFacts) -> Iterator[str]:
    if facts.driver and fingerprint.driver != facts.driver:
        yield f"driver {facts.driver} -> {fingerprint.driver}"
    for name in _PACKAGES:
        before, now = facts.packages.get(name), fingerprint.packages.get(name)
        if facts.packages and before != now:
            yield f"{name} {before or 'absent'} -> {now or 'absent'}"


def _profiled(profile: Profile, usual: Profile | None, receipts: Receipts) -> Iterator[Cause]:
    linears = len(receipts.modules)
    waits, kernels = profile.synchronizations, profile.kernels
    if waits is not None:
        before = usual.synchronizations if usual and usual.synchronizations is not None else None
        if (before is not None and waits > _MORE * before + 1) or (before is None and linears and waits >= linears):
            against = f", and {before} times in the baseline" if before is not None else f" for {linears} Linears"
            yield Cause("synchronizing", f"the host waits for the device {waits} times a step{against}")
    if kernels is not None and usual and usual.kernels and kernels > _MORE * usual.kernels:
        yield Cause("more_kernels", f"a step launches {kernels} kernels, and {usual.kernels} in the baseline")
    slow = list(slow_blocks(profile, usual, receipts))
    if slow:
        shown = ", ".join(f"{name} ({ratio:.2f} times {against})" for name, ratio, against in slow[:3])
        yield Cause("some_blocks", f"only some blocks are slow: {shown}" + (", ..." if len(slow) > 3 else ""))


def slow_blocks(profile: Profile, usual: Profile | None, receipts: Receipts) -> Iterator[tuple[str, float, str]]:
    """Yield the blocks that are slow by themselves, the slowest first.

    Blocks of an expert that run the same formats and kernels are built alike, so that each is compared with those
    siblings in the same generation; where the baseline was profiled too, relative to its own share then. The first and
    the last block are often left unquantized: they are no siblings of the others.

    Yields:
        Name, factor, and the quantity that the factor applies to.
    """
    before = {block.block: block.seconds for block in usual.blocks} if usual else {}
    rows: list[tuple[str, float, str]] = []
    for blocks in _alike(profile.blocks, receipts):
        against = "its siblings"
        values = {block.block: block.seconds for block in blocks}
        if blocks and all(before.get(block.block) for block in blocks):
            values = {name: seconds / before[name] for name, seconds in values.items()}
            against = "the baseline, beside its siblings"
        if len(values) < 3:
            continue
        middle = statistics.median(values.values())
        deviation = 1.4826 * statistics.median(abs(value - middle) for value in values.values())
        for name, value in values.items():
            apart = value - middle > _BLOCK_OUTLIER * deviation and middle > 0
            if apart and value > _BLOCK_EFFECT * middle:
                rows.append((name, value / middle, against))
    yield from sorted(rows, key=lambda row: -row[1])


def _pool_of(file: PerfFile | None, label: str) -> PerfPool | None:
    return next((pool for pool in file.pools if pool.label == label), None) if file else None


def _alike(blocks: Sequence[BlockTime], receipts: Receipts) -> Iterator[list[BlockTime]]:
    """Group blocks by expert, and by the formats and kernels that ran in them."""
    groups: dict[tuple[str, ...], list[BlockTime]] = {}
    for block in blocks:
        expert, _, place = block.block.partition(".")
        inside = sorted(
            f"{module.module.removeprefix(place)} {module.format}/{module.kernel}"
            for module in receipts.modules
            if module.expert == expert and module.module.startswith(f"{place}.")
        )
        groups.setdefault((expert, *inside), []).append(block)
    yield from groups.values()


def _by_expert(looks: Sequence[Look], file: PerfFile | None, pool: str) -> dict[str, float]:
    """Return, per expert, the ratio of its warm steps to the baseline's steps at the same places."""
    chosen = _pool_of(file, pool)
    if chosen is None:
        return {}
    first = looks[0].at_speed(usual_speed(chosen))
    usage = usage_of(first.generation)
    if usage is None:
        return {}
    past = pool_at_usual_speed(chosen) if first.cpu is not None else chosen
    runs = [run.steps for run in past.runs if len(run.steps) == len(usage.steps)]
    if not runs:
        return {}
    usual = [statistics.median(column) for column in zip(*runs, strict=True)]
    ratios: dict[str, list[float]] = {}
    for place, (seconds, expert) in enumerate(zip(usage.steps, usage.experts, strict=False)):
        if place and usual[place] > 0:
            ratios.setdefault(expert, []).append(seconds / usual[place])
    return {expert: statistics.median(values) for expert, values in ratios.items() if len(values) >= _LEAST_STEPS}


def _one_expert(looks: Sequence[Look], file: PerfFile | None, pool: str) -> str:
    ratios = _by_expert(looks, file, pool)
    if len(ratios) < 2:
        return ""
    slow, fast = max(ratios, key=lambda name: ratios[name]), min(ratios, key=lambda name: ratios[name])
    if ratios[slow] > 1 + Rule().effect and ratios[fast] < 1 + Rule().effect / 2:
        return f"only the steps of {slow} are slow: {ratios[slow] - 1:+.0%}, those of {fast} {ratios[fast] - 1:+.0%}"
    return ""


def _share(looks: Sequence[Look], file: PerfFile | None, pool: str) -> str:
    return ", ".join(f"{expert} {ratio - 1:+.0%}" for expert, ratio in _by_expert(looks, file, pool).items())


def _counts(counts: Mapping[str, object]) -> str:
    return ", ".join(f"{number} x {kind}" for kind, number in counts.items()) or "nothing quantized"
