"""From a run and its baseline to a report: what is red, what is inconclusive, and what is never red."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest

from harness.perf.baseline import build
from harness.perf.causes import find_cause, slow_blocks
from harness.perf.comparing import Look
from harness.perf.judging import Judge
from harness.records.generation import ModuleReceipt, Receipts, Step, Trace
from harness.records.perf import BlockTime, PerfComparison, PerfReport, Profile
from harness.records.perf_file import PerfFile

runs: Any = sys.modules["perf_runs"]  # tests/perf/conftest.py loads it
MIB, GIB = 2**20, 2**30


@pytest.fixture
def file(machine: Any) -> PerfFile:
    made, _ = build(runs.case(), "h200", machine.history(), author="ann", reason="first")
    return made


def look(machine: Any, *arguments: Any, conditions: dict[str, Any] | None = None, **options: Any) -> Look:
    return Look(machine.generation(*arguments, **options), machine.engine(), machine.conditions(**(conditions or {})))


def judged(
    file: PerfFile | None, first: Look, *further: Look, machine: str = "GPU-a", **perf: Any
) -> tuple[PerfReport, Judge]:
    """The report of ``first`` where further generations give ``further``, one after the other."""
    left = list(further)
    judge = Judge(runs.case(**perf), file, machine)
    report = judge.report(first, lambda: left.pop(0) if left else None)
    assert not left, "each of the further generations was asked for"
    return report, judge


def again(machine: Any, count: int, *arguments: Any, **options: Any) -> list[Look]:
    return [look(machine, *arguments, ordinal=place + 2, **options) for place in range(count)]


def test_a_healthy_run_is_within_and_nothing_further_is_generated(machine: Any, file: PerfFile) -> None:
    report, _ = judged(file, look(machine))
    assert (report.state, report.confirmations, report.pool, report.runs) == ("within", 0, "h200", 12)
    step = report.comparisons[0]
    assert step.measure == "step"
    assert step.p is not None
    assert step.limit == pytest.approx(step.baseline * 1.05, rel=0.02)


def test_ten_percent_is_slower_after_two_further_generations(machine: Any, file: PerfFile) -> None:
    report, _ = judged(file, look(machine, 1.10), *again(machine, 2, 1.10))
    assert (report.state, report.confirmations) == ("slower", 2)
    assert report.message.startswith("+1")
    assert "% per step (p = " in report.message
    assert "pool h200" in report.message


def test_what_passes_by_is_within_and_told(machine: Any, file: PerfFile) -> None:
    report, _ = judged(file, look(machine, 1.3), *again(machine, 1))
    assert report.state == "within"
    assert "not borne out" in report.comparisons[0].message
    assert "further one" in report.reasons[0]


@pytest.mark.parametrize(
    ("conditions", "message"),
    [
        ({"throttle": ("hardware thermal slowdown",), "temperature": 88}, "slowed itself down"),
        ({"foreign": ("python (pid 7)",)}, "shared with python"),
        ({"waiting": 0.3}, "waited for a CPU 30%"),
        ({"sm_clock": 1200}, "1200 MHz"),
    ],
)
def test_a_slow_run_on_a_disturbed_machine_is_inconclusive_with_its_reason(
    machine: Any, file: PerfFile, conditions: dict[str, Any], message: str
) -> None:
    first, second = (look(machine, 1.5, conditions=conditions, ordinal=place) for place in (1, 2))
    report, judge = judged(file, first, second)
    assert report.state == "inconclusive"
    assert message in report.message
    assert not any(one.gates and one.state == "slower" for one in report.comparisons)
    assert find_cause(report, judge.looks, file, None, None).name in (
        "throttled",
        "foreign_process",
        "cpu_shared",
        "clocks",
    )


def test_a_quiet_retry_decides(machine: Any, file: PerfFile) -> None:
    busy = look(machine, 1.5, conditions={"foreign": ("python (pid 7)",)})
    report, _ = judged(file, busy, *again(machine, 1))
    assert report.state == "within"
    assert "shared with python" in report.reasons[0]
    report, _ = judged(file, busy, *again(machine, 3, 1.5))
    assert report.state == "slower"


def test_a_healthy_run_on_a_busy_machine_is_within(machine: Any, file: PerfFile) -> None:
    report, _ = judged(file, look(machine, conditions={"foreign": ("python (pid 7)",)}))
    assert report.state == "within"


def test_a_run_that_cannot_be_made_again_is_not_red(machine: Any, file: PerfFile) -> None:
    judge = Judge(runs.case(), file, "GPU-a")
    report = judge.report(look(machine, 1.5), lambda: None)
    assert report.state == "inconclusive"
    assert "could not be generated again" in report.message


def test_no_baseline_is_unmeasured_and_says_so(machine: Any) -> None:
    report, _ = judged(None, look(machine))
    assert (report.state, report.reasons) == ("unmeasured", ("no baseline",))
    assert {one.measure for one in report.comparisons} >= {"step", "denoise_memory", "place"}


@pytest.mark.parametrize(
    ("change", "why"),
    [({"width": 32}, "another size (width)"), ({"num_inference_steps": 7}, "another size (num_inference_steps)")],
)
def test_another_size_has_no_baseline(machine: Any, file: PerfFile, change: dict[str, Any], why: str) -> None:
    case = runs.case()
    other = case.model_copy(update={"sampling": case.sampling.model_copy(update=change)})
    report = Judge(other, file, "GPU-a").report(look(machine), lambda: None)
    assert report.state == "unmeasured"
    assert why in report.message


def test_an_unknown_machine_has_no_baseline(machine: Any, file: PerfFile) -> None:
    report, _ = judged(file, look(machine, 1.6), machine="GPU-b")
    assert report.state == "unmeasured"
    assert "in no pool" in report.message


def test_faster_is_told_and_not_red(machine: Any, file: PerfFile) -> None:
    report, _ = judged(file, look(machine, 0.64))
    assert report.state == "faster"
    assert report.message.startswith("-3")


def test_memory_is_exact(machine: Any, file: PerfFile) -> None:
    within, _ = judged(file, look(machine, peak=20 * GIB + MIB))
    assert within.state == "within"
    report, _ = judged(file, look(machine, peak=20 * GIB + 4 * MIB), *again(machine, 2, peak=20 * GIB + 4 * MIB))
    assert report.state == "more_memory"
    assert "+4 MiB GPU memory of the steps" in report.message
    loose, _ = judged(file, look(machine, peak=20 * GIB + 4 * MIB), memory_effect=0.01)
    assert loose.state == "within"


def test_reserved_memory_never_gates(machine: Any, file: PerfFile) -> None:
    generation = machine.generation()
    memory = tuple(one.model_copy(update={"reserved": 70 * GIB}) for one in generation.usage.memory)
    usage = generation.usage.model_copy(update={"memory": memory})
    report, _ = judged(
        file, Look(generation.model_copy(update={"usage": usage}), machine.engine(), machine.conditions())
    )
    assert report.state == "within"


def test_memory_is_judged_on_a_disturbed_machine_too(machine: Any, file: PerfFile) -> None:
    busy = {"foreign": ("python (pid 7)",)}
    looks = [look(machine, peak=30 * GIB, conditions=busy, ordinal=place + 1) for place in range(3)]
    report, _ = judged(file, *looks)
    assert report.state == "more_memory"


def leaking(machine: Any, count: int, each: int) -> list[Look]:
    return [
        look(machine, ordinal=place + 1, before=10 * GIB + 4 * MIB * min(place, 1) + place * each, grows=each)
        for place in range(count)
    ]


def test_fifty_megabytes_a_run_are_a_leak(machine: Any, file: PerfFile) -> None:
    report, judge = judged(file, *leaking(machine, 4, 50 * MIB))
    assert report.state == "leak"
    assert find_cause(report, judge.looks, file, None, None).name == "leaking"


def lost_between(machine: Any, count: int, each: int, first: int = 0) -> list[Look]:
    """Each generation begins with more, and leaves nothing itself."""
    more = [first + (place + 1) * each for place in range(count)]
    return [
        look(machine, ordinal=place + 1, peak=20 * GIB + lost, before=10 * GIB + lost, grows=0)
        for place, lost in enumerate(more)
    ]


def test_memory_that_is_lost_between_generations_is_a_leak_and_not_a_larger_model(machine: Any, file: PerfFile) -> None:
    report, judge = judged(file, *lost_between(machine, 3, 50 * MIB))
    assert report.state == "leak"
    assert find_cause(report, judge.looks, file, None, None).name == "leaking"
    assert "+50 MiB" in report.message
    larger, _ = judged(file, *lost_between(machine, 3, 0, first=50 * MIB))
    assert larger.state == "more_memory"


def test_what_stays_once_is_no_leak(machine: Any, file: PerfFile) -> None:
    first = look(machine, grows=200 * MIB)
    further = [look(machine, ordinal=place, before=10 * GIB + 204 * MIB) for place in (2, 3, 4)]
    report, _ = judged(file, first, *further)
    assert report.state == "within"


def test_a_leak_of_host_memory_shows_without_a_baseline_if_the_case_generates_often(machine: Any) -> None:
    def host(place: int, each: int) -> dict[str, Any]:
        level = 2 * GIB + place * each
        return {"host_before": level, "host_peak": level + GIB, "host_after": level + each}

    for each, state in ((50 * MIB, "leak"), (0, "unmeasured")):
        looks = [look(machine, ordinal=place + 1, conditions=host(place, each)) for place in range(6)]
        report, _ = judged(None, *looks, generations=6)
        assert report.state == state


def test_a_cold_cache_is_told_and_not_red(machine: Any, file: PerfFile) -> None:
    cold = Look(machine.generation(), machine.engine(cache_resident=0.1, read_seconds=30.0), machine.conditions())
    report, _ = judged(file, cold, gates=("step", "read"))
    assert report.state == "within"
    read = next(one for one in report.comparisons if one.measure == "read")
    assert read.state == "inconclusive"
    assert "10% of the weights" in read.message


def cause(file: PerfFile, slow: Look, further: list[Look], profile: Profile | None, facts: dict[str, Any]) -> str:
    report, judge = judged(file.model_copy(update={"facts": file.facts.model_copy(update=facts)}), slow, *further)
    return find_cause(report, judge.looks, judge.file, slow_fingerprint(), profile).name


def slow_fingerprint() -> Any:
    return runs.Machine().record(0).fingerprint


def blocks(**slow: float) -> Profile:
    names = [f"transformer.blocks.{place}" for place in range(8)]
    return Profile(
        blocks=tuple(
            BlockTime(block=name, seconds=0.01 * slow.get(name[-1:] and f"b{name[-1]}", 1.0)) for name in names
        )
    )


@pytest.mark.parametrize(
    ("options", "facts", "profile", "wanted"),
    [
        ({"kernel": "dequantize+linear"}, {}, None, "other_kernel"),
        ({"compilations": 9}, {"compilations": 2}, None, "recompiled"),
        ({"compilations": None}, {"compilations": 2}, None, "recompiled"),
        ({"compilations": 2}, {"compilations": 2}, None, "everywhere"),
        ({}, {"attention": "flash"}, None, "attention_backend"),
        ({}, {"driver": "570.0"}, None, "other_version"),
        ({}, {"packages": {"torch": "2.10.0", "diffusers": "0.42.1"}}, None, "other_version"),
        ({}, {}, Profile(synchronizations=400, kernels=900), "synchronizing"),
        ({}, {}, Profile(synchronizations=1, kernels=900), "everywhere"),
        ({}, {"profile": Profile(synchronizations=10)}, Profile(synchronizations=17), "synchronizing"),
        ({}, {"profile": Profile(synchronizations=10)}, Profile(synchronizations=16), "everywhere"),
        ({}, {"profile": Profile(kernels=400)}, Profile(kernels=900, synchronizations=0), "more_kernels"),
        ({}, {"profile": Profile(kernels=400)}, Profile(kernels=600, synchronizations=0), "everywhere"),
        ({}, {}, blocks(b3=2.0), "some_blocks"),
        ({}, {"profile": blocks()}, blocks(b3=2.0), "some_blocks"),
        ({}, {"profile": blocks(b3=2.0)}, blocks(b3=2.0), "everywhere"),
        ({}, {}, blocks(), "everywhere"),
        ({}, {}, None, "everywhere"),
        ({"by_step": lambda place: 1.0 if place < 6 else 1.25}, {}, None, "one_expert"),
    ],
)
def test_the_first_cause_that_holds_is_named(
    machine: Any,
    file: PerfFile,
    options: dict[str, Any],
    facts: dict[str, Any],
    profile: Profile | None,
    wanted: str,
) -> None:
    slow = 1.25 if "by_step" not in options else 1.0
    assert cause(file, look(machine, slow, **options), again(machine, 2, slow, **options), profile, facts) == wanted


def test_a_slow_expert_that_runs_in_few_steps_is_seen(machine: Any) -> None:
    """Three of twelve warm steps: the median over all of them does not move."""
    experts = tuple("transformer" if place < 4 else "transformer_2" for place in range(runs.STEPS))

    def slow(place: int) -> float:
        return 1.3 if place < 4 else 1.0

    history = [machine.record(day, machine.generation(experts=experts)) for day in range(12)]
    file, _ = build(runs.case(), "h200", history, author="ann", reason="first")
    looks = [look(machine, experts=experts, by_step=slow, ordinal=place + 1) for place in range(3)]
    report, judge = judged(file, *looks)
    assert report.state == "slower"
    assert "per step of transformer (" in report.message
    assert find_cause(report, judge.looks, file, slow_fingerprint(), None).name == "one_expert"


def host(place: int, each: int, first: int = 60 * MIB) -> dict[str, Any]:
    """Host memory of generation ``place``: the first fills caches, and each leaves so much more."""
    level = 2 * GIB + (first if place else 0) + place * each
    return {"host_before": level, "host_peak": level + GIB, "host_after": level + (0 if place else first) + each}


@pytest.mark.parametrize(("each", "state"), [(50 * MIB, "leak"), (0, "within")])
def test_a_leak_of_host_memory_is_told_from_caches_that_fill_once(machine: Any, each: int, state: str) -> None:
    history = [machine.record(day, conditions=machine.conditions(**host(0, 0, (56 + day) * MIB))) for day in range(8)]
    file, _ = build(runs.case(), "h200", history, author="ann", reason="first")
    first = look(machine, conditions=host(0, each, 80 * MIB))
    further = [look(machine, ordinal=place + 1, conditions=host(place, each, 80 * MIB)) for place in (1, 2, 3)]
    report, _ = judged(file, first, *further)
    assert report.state == state


def test_a_runtime_that_tells_only_its_steps_is_judged_by_them(machine: Any) -> None:
    """A runtime that is driven step by step has seconds in its trace, and measures nothing else."""

    def traced(slower: float) -> Any:
        whole = machine.generation(slower)
        steps = tuple(
            Step(index=place, timestep=999.0 - place, expert=expert, guidance_scale=3.0, latent_norm=1.0, seconds=took)
            for place, (took, expert) in enumerate(zip(whole.usage.steps, whole.usage.experts, strict=True))
        )
        return whole.model_copy(update={"usage": None, "trace": Trace(steps=steps)})

    history = [machine.record(day, traced(1.0)) for day in range(8)]
    file, _ = build(runs.case(), "h200", history, author="ann", reason="first")
    looks = [Look(traced(1.2), machine.engine(), machine.conditions()) for _ in range(3)]
    report, _ = judged(file, *looks)
    assert report.state == "slower"
    assert "per step" in report.message
    healthy, _ = judged(file, Look(traced(1.0), machine.engine(), machine.conditions()))
    assert healthy.state == "within"


def test_more_memory_on_the_same_versions_is_larger(machine: Any, file: PerfFile) -> None:
    peak = 20 * GIB + 64 * MIB
    report, judge = judged(file, look(machine, peak=peak), *again(machine, 2, peak=peak))
    assert report.state == "more_memory"
    assert find_cause(report, judge.looks, file, slow_fingerprint(), None).name == "larger"


def test_less_memory_is_told_and_a_segment_less_is_within(machine: Any, file: PerfFile) -> None:
    report, _ = judged(file, look(machine, peak=10 * GIB))
    assert report.state == "less_memory"
    assert report.message.startswith("-10 GiB GPU memory of the steps")
    within, _ = judged(file, look(machine, peak=20 * GIB - MIB))
    assert within.state == "within"


@pytest.mark.parametrize(("resident", "name"), [(0.1, "cold_cache"), (1.0, "everywhere")])
def test_a_slow_run_from_a_cold_cache_has_it_as_its_cause(
    machine: Any, file: PerfFile, resident: float, name: str
) -> None:
    row = PerfComparison(measure="total", unit="s", value=40.0, baseline=9.0, limit=9.5, state="slower", gates=True)
    report = PerfReport(state="slower", pool="h200", comparisons=(row,))
    cold = Look(machine.generation(), machine.engine(cache_resident=resident), machine.conditions())
    assert find_cause(report, [cold], file, slow_fingerprint(), None).name == name
    ungated = report.model_copy(update={"comparisons": (row.model_copy(update={"gates": False}),)})
    assert find_cause(ungated, [cold], file, slow_fingerprint(), None).name == "everywhere"


@pytest.mark.parametrize(("emulated", "state"), [(True, "unmeasured"), (False, "within")])
def test_times_of_emulated_products_are_not_compared(machine: Any, file: PerfFile, emulated: bool, state: str) -> None:
    report, _ = judged(file, look(machine, emulated=emulated))
    assert report.state == state
    assert ("the products are emulated" in report.message) is emulated


def test_an_improvement_on_a_disturbed_machine_says_what_disturbed_it(machine: Any, file: PerfFile) -> None:
    report, _ = judged(file, look(machine, 0.64, conditions={"foreign": ("python (pid 7)",)}))
    assert report.state == "faster"
    assert "shared with python (pid 7)" in report.reasons[0]
    assert judged(file, look(machine, 0.64))[0].reasons == ()


def test_a_baseline_without_any_gating_measure_is_unmeasured(machine: Any, file: PerfFile) -> None:
    report, _ = judged(file, look(machine), gates=("text_encoder",))
    assert report.state == "unmeasured", "its text encoder costs less than 1 % of the run, so nothing gates"
    report, _ = judged(file, look(machine), gates=("step",))
    assert report.state == "within"


def blocks(expert: str, *seconds: float) -> tuple[BlockTime, ...]:
    return tuple(BlockTime(block=f"{expert}.blocks.{place}", seconds=value) for place, value in enumerate(seconds))


def test_blocks_are_compared_with_those_that_run_the_same_formats() -> None:
    """The first and last block are unquantized and take half as long: they hid the slow one from its siblings."""
    profile = Profile(blocks=blocks("transformer", 0.0030, 0.0173, 0.0076, 0.0072, 0.0070, 0.0035))
    formats = ("bf16", "fp8", "fp8", "fp8", "fp8", "bf16")
    receipts = Receipts(
        modules=tuple(
            ModuleReceipt(expert="transformer", module=f"blocks.{place}.attn1.to_q", format=form, kernel="k", calls=2)
            for place, form in enumerate(formats)
        )
    )
    [(name, ratio, against)] = slow_blocks(profile, None, receipts)
    assert (name, against) == ("transformer.blocks.1", "its siblings")
    assert ratio == pytest.approx(0.0173 / 0.0074)
    assert [*slow_blocks(profile, None, Receipts(modules=()))] == []
    even = Profile(blocks=blocks("transformer", 0.0030, 0.0071, 0.0076, 0.0072, 0.0070, 0.0035))
    assert [*slow_blocks(even, None, receipts)] == []


def test_one_warm_step_of_an_expert_names_no_expert(machine: Any, file: PerfFile) -> None:
    def ordinal(place: int, few: int) -> Look:
        experts = tuple("transformer" if step < few else "transformer_2" for step in range(runs.STEPS))
        slow = machine.generation(1.0, ordinal=place, by_step=lambda step: 0.6 if step < few else 1.3, experts=experts)
        return Look(slow, machine.engine(), machine.conditions())

    for few, expected in ((2, "everywhere"), (6, "one_expert")):
        report, judge = judged(file, ordinal(1, few), ordinal(2, few), ordinal(3, few))
        assert report.state == "slower"
        assert find_cause(report, judge.looks, file, None, None).name == expected


def test_a_further_generation_that_a_healthy_run_may_equal_confirms_nothing(machine: Any) -> None:
    """The runs scatter by 10 %: +7 % exceeds the smallest effect, and is nothing unusual."""
    slow, usual = 0.10, np.random.default_rng(1).normal(0, 0.10, 12)
    records = [machine.record(number, machine.generation(float(np.exp(usual[number])))) for number in range(12)]
    made, _ = build(runs.case(), "h200", records, author="ann", reason="first")
    report, _ = judged(made, look(machine, 2.0), look(machine, 1.0 + slow * 0.7, ordinal=2))
    assert report.state == "within"
    assert "not borne out" in report.comparisons[0].message
    report, _ = judged(made, look(machine, 2.0), *again(machine, 2, 2.0))
    assert report.state == "slower"


def test_a_leak_leads_where_it_raises_the_peak_too(machine: Any) -> None:
    history = [machine.record(day, conditions=machine.conditions(**host(0, 0, 10 * MIB))) for day in range(8)]
    made, _ = build(runs.case(), "h200", history, author="ann", reason="first")

    def leaks(place: int) -> dict[str, Any]:
        conditions = host(place, 400 * MIB, 10 * MIB)
        return {**conditions, "host_peak": int(1.3 * conditions["host_peak"])}

    report, judge = judged(
        made,
        look(machine, conditions=leaks(0)),
        *(look(machine, ordinal=n + 1, conditions=leaks(n)) for n in (1, 2, 3)),
    )
    assert {row.state for row in report.comparisons if row.gates} >= {"leak", "more_memory"}
    assert report.state == "leak"
    assert find_cause(report, judge.looks, made, None, None).name == "leaking"
