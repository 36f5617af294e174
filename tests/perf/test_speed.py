"""Times at the usual speed of the CPU: a host that is slower for an hour is no regression, and hides none."""

from __future__ import annotations

from typing import Any

import numpy as np
import perf_runs
import pytest

from harness.perf.baseline import build
from harness.perf.causes import find_cause
from harness.perf.ceilings import raised
from harness.perf.comparing import Look
from harness.perf.judging import Judge
from harness.perf.speed import pool_at_usual_speed, usage_at_usual_speed, usual_speed
from harness.records.generation import Generation
from harness.records.perf import CpuSpeed, PerfReport, Usage
from harness.records.perf_file import PerfFile

runs: Any = perf_runs
USUAL = 0.002


def on_cpu(machine: Any, host: float, slower: float = 1.0, **more: Any) -> Generation:
    """A generation while the host is ``host`` times slower: everything and the fixed computation take longer."""
    plain = machine.generation(slower, **more)
    usage = plain.usage
    noise = np.exp(machine.random.normal(0, 0.01, len(usage.steps)))
    slowed = usage.model_copy(
        update={
            "clock": "host",
            "steps": tuple(host * seconds for seconds in usage.steps),
            "text_encoder": host * usage.text_encoder,
            "vae": host * usage.vae,
            "total": host * usage.total,
            "cpu": CpuSpeed(
                text_encoder=USUAL * host,
                steps=tuple(USUAL * host * float(factor) for factor in noise),
                vae=USUAL * host,
            ),
        }
    )
    return plain.model_copy(update={"usage": slowed})


@pytest.fixture
def file(machine: Any) -> PerfFile:
    """Twelve runs on a host that takes between 1 and 1.4 times as long."""
    hosts = np.linspace(1.0, 1.4, 12)
    records = [machine.record(number, on_cpu(machine, host)) for number, host in enumerate(hosts)]
    made, refused = build(runs.case(), "h200", records, author="ann", reason="first")
    assert not refused
    return made


def judged(file: PerfFile, machine: Any, *generations: Generation, **perf: Any) -> tuple[PerfReport, Judge]:
    first, *further = (Look(each, machine.engine(), machine.conditions()) for each in generations)
    judge = Judge(runs.case(**perf), file, "GPU-a")
    return judge.report(first, lambda: further.pop(0) if further else None), judge


def test_a_slow_host_is_no_regression_and_the_report_says_so(machine: Any, file: PerfFile) -> None:
    report, _ = judged(file, machine, on_cpu(machine, 1.6))
    assert report.state == "within"
    assert abs(report.comparisons[0].ratio - 1) < 0.04  # type: ignore[operator]
    assert any("usual speed" in reason for reason in report.reasons)


def test_without_the_speed_the_same_run_would_be_slower(machine: Any) -> None:
    records = [machine.record(number) for number in range(12)]
    plain, _ = build(runs.case(), "h200", records, author="ann", reason="first")
    slow = [on_cpu(machine, 1.4, ordinal=place) for place in (1, 2, 3)]
    report, _ = judged(plain, machine, *slow)
    assert report.state == "slower", "a baseline without speeds cannot be corrected"


@pytest.mark.parametrize("host", [0.9, 1.0, 1.2, 1.4])
def test_ten_percent_are_found_at_any_speed_of_the_host(machine: Any, file: PerfFile, host: float) -> None:
    slow = [on_cpu(machine, host, 1.10, ordinal=place) for place in (1, 2, 3)]
    report, judge = judged(file, machine, *slow)
    assert report.state == "slower"
    assert report.comparisons[0].ratio == pytest.approx(1.10, abs=0.03)
    cause = find_cause(report, judge.looks, file, None, None)
    assert cause.name == "everywhere"
    assert "+10%" in cause.message or "+9%" in cause.message or "+11%" in cause.message


def test_too_far_from_the_usual_speed_is_inconclusive(machine: Any, file: PerfFile) -> None:
    """The baseline's middle is 1.2: a host at 2.4 has half the usual speed."""
    slow = [on_cpu(machine, 2.4, 1.5, ordinal=place) for place in (1, 2, 3)]
    report, judge = judged(file, machine, *slow)
    assert report.state == "inconclusive"
    assert "50% of its usual speed" in report.message or "of its usual speed, too far" in report.message
    assert find_cause(report, judge.looks, file, None, None).name == "cpu_speed"
    healthy, _ = judged(file, machine, on_cpu(machine, 2.4))
    assert healthy.state == "within"


def test_corrections_by_hand() -> None:
    usage = Usage(
        clock="host", steps=(4.0, 6.0, 3.0), experts=("transformer",) * 3, text_encoder=2.0, vae=8.0, total=46.0,
        cpu=CpuSpeed(text_encoder=0.5, steps=(1.0, 3.0, 0.5), vae=4.0),
    )  # fmt: skip
    corrected = usage_at_usual_speed(usage, 1.0)
    # beside the steps: 2, 1.75 and .5, and their median
    assert corrected.steps == pytest.approx((4 / 1.75, 6 / 1.75, 3 / 1.75))
    assert (corrected.text_encoder, corrected.vae) == (4.0, 2.0)
    assert corrected.total == pytest.approx(46 * (sum(corrected.steps) + 4 + 2) / 23)
    assert usage_at_usual_speed(usage, None) == usage
    bare = usage.model_copy(update={"cpu": None})
    assert usage_at_usual_speed(bare, 1.0) == bare
    odd = usage.model_copy(update={"cpu": CpuSpeed(steps=(1.0, 3.0))})
    assert usage_at_usual_speed(odd, 1.0).steps == pytest.approx((2.0, 3.0, 1.5)), "another number: the median"


def test_runs_without_a_speed_are_left_out_of_a_corrected_pool(machine: Any, file: PerfFile) -> None:
    [pool] = file.pools
    mixed = pool.model_copy(
        update={"runs": (*pool.runs[:6], *(run.model_copy(update={"cpu": None}) for run in pool.runs[6:]))}
    )
    assert usual_speed(mixed) == pytest.approx(USUAL * 1.09, rel=0.02)
    assert len(pool_at_usual_speed(mixed).runs) == 6
    few = pool.model_copy(update={"runs": (*pool.runs[:4], *mixed.runs[6:])})
    assert usual_speed(few) is None
    assert pool_at_usual_speed(few) == few
    first, second = (pool_at_usual_speed(pool).runs[place].steps[1] for place in (0, -1))
    assert first == pytest.approx(second, rel=0.15), "1.0 and 1.4 times as long, at one speed"


def test_a_baseline_made_on_a_slower_host_is_no_looser(machine: Any, file: PerfFile) -> None:
    def made(host: float, slower: float) -> PerfFile:
        records = [machine.record(number, on_cpu(machine, host, slower)) for number in range(12)]
        return build(runs.case(), "h200", records, author="ann", reason="later")[0]

    times = {"step", "total"}  # the stages scatter more than a baseline of twelve runs pins down
    quiet = made(1.0, 1.0)
    assert not times & {rise.measure for rise in raised(quiet, made(1.3, 0.97))}
    assert {rise.measure for rise in raised(quiet, made(1.0, 1.2))} & times >= {"step", "total"}
    bare = build(runs.case(), "h200", [machine.record(number) for number in range(12)], author="a", reason="r")[0]
    assert "step" in {rise.measure for rise in raised(bare, made(1.3, 1.0))}, "without speeds, as measured"


def test_faster_only_beside_a_slow_yardstick_asks_for_no_new_baseline(machine: Any, file: PerfFile) -> None:
    odd = on_cpu(machine, 1.2)
    slow = odd.usage.cpu.model_copy(update={"steps": tuple(1.3 * speed for speed in odd.usage.cpu.steps)})
    odd = odd.model_copy(update={"usage": odd.usage.model_copy(update={"cpu": slow})})
    report, _ = judged(file, machine, odd)
    assert report.comparisons[0].ratio < 0.8  # type: ignore[operator]
    assert report.state == "within"
    report, _ = judged(file, machine, on_cpu(machine, 1.2, 0.7))
    assert report.state == "faster"
