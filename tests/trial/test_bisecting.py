"""Bisecting two configurations, with a runner that knows the answer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from builders import make_case

from harness.definitions.case import Case
from harness.errors import InfraError, InvalidCaseError
from harness.records.frames import MetricResult
from harness.records.limits import Limit, LimitFile, Sample
from harness.trial import bisecting
from harness.trial.bisecting import Answer, apply_differences, bisect, differences


def case(**more: Any) -> Case:
    sampling = {"num_frames": 5, "num_inference_steps": 4, **more.get("sampling", {})}
    usual = {"model": {"path": "./a"}, "env": {"KEPT": "1"}}
    return make_case(**{**usual, **more, "sampling": sampling}).resolved()


BAD = {
    "model": {"path": "./b"},
    "env": {"NEW": "1"},
    "sampling": {"guidance_scale": 4.0, "num_inference_steps": 8},
    "loader": {"nibble_order": "high_first"},
}


def test_differences_name_fields_and_apply_to_the_bad_case() -> None:
    good, bad = case(), case(**BAD)
    found = differences(good, bad)
    assert {one.field for one in found} == {
        "model",
        "env.KEPT",
        "env.NEW",
        "sampling.guidance_scale",
        "sampling.guidance_scale_2",
        "sampling.num_inference_steps",
        "loader.nibble_order",
    }
    assert apply_differences(good, found) == bad
    assert apply_differences(good, ()) == good


def test_every_part_of_a_case_is_compared_or_left_out_on_purpose() -> None:
    assert sorted((*bisecting.COMPARED, *bisecting.NOT_COMPARED)) == sorted(Case.model_fields)


def test_another_version_of_the_runtime_is_a_difference() -> None:
    runtime = {"backend": "sglang", "runtime_args": {"model_id": "Wan2.2-T2V-A14B-Diffusers"}}
    good, bad = case(**runtime, runtime="sglang==0.5.13"), case(**runtime, runtime="sglang==0.5.12.post1")
    assert [one.field for one in differences(good, bad)] == ["runtime"]
    assert apply_differences(good, differences(good, bad)) == bad
    contract = case(contracts=["sglang==0.5.12"])
    assert [one.field for one in differences(case(), contract)] == ["contracts"]


def test_the_pair_that_is_needed_is_found_and_the_log_saves_every_run(tmp_path: Path) -> None:
    ran: list[Case] = []

    def test(one: Case) -> tuple[Answer, str]:
        ran.append(one)
        if one.env.get("NEW") and one.loader.nibble_order == "high_first":
            return "red", "green static"
        if one.model.path == "./b" and one.sampling.num_inference_steps == 8:
            raise InfraError("out of memory", kind="oom")
        return "green", "fine"

    found = bisect(case(), case(**BAD), test, tmp_path / "log.jsonl")
    assert {one.field for one in found.smallest} == {"env.NEW", "loader.nibble_order"}
    count = len(ran)
    assert found.runs == count
    again = bisect(case(), case(**BAD), test, tmp_path / "log.jsonl")
    assert (again.smallest, again.runs, len(ran)) == (found.smallest, 0, count)


def test_a_torn_last_line_is_run_again(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"

    def test(one: Case) -> tuple[Answer, str]:
        return ("red", "") if one.sampling.guidance_scale == 4.0 else ("green", "")

    whole = bisect(case(), case(**BAD), test, log)
    assert whole.notes == ()
    log.write_text(log.read_text(encoding="utf-8")[:-20], encoding="utf-8")
    again = bisect(case(), case(**BAD), test, log)
    assert again.runs == 1
    assert again.notes == (f"{log}: the last line was torn and is cut off",)
    third = bisect(case(), case(**BAD), test, log)
    assert (third.smallest, third.runs, third.notes) == (whole.smallest, 0, ())


def test_a_line_that_cannot_be_read_is_passed_over_and_said(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"

    def test(one: Case) -> tuple[Answer, str]:
        return ("red", "") if one.sampling.guidance_scale == 4.0 else ("green", "")

    bisect(case(), case(**BAD), test, log)
    lines = log.read_bytes().split(b"\n")
    log.write_bytes(b"\n".join([b'{"key": "half\xff{"key": "a"}', *lines[1:]]))
    again = bisect(case(), case(**BAD), test, log)
    assert again.runs == 1
    assert again.notes == (f"{log}:1: cannot be read and is passed over",)


def metric(value: float | None, name: str = "ssim") -> MetricResult:
    return MetricResult(
        name=name,
        status="not_computed" if value is None else "computed",
        direction="higher_is_better",
        unit="",
        ideal=1.0,
        worst=value,
        mean=value,
        why="no weights" if value is None else "",
    )


def limit(value: float | None, name: str = "ssim") -> Limit:
    gates = value is not None
    return Limit(
        metric=name,
        direction="higher_is_better",
        unit="",
        gates=gates,
        limit=value,
        why="" if gates else "sees nothing",
        samples=(Sample(value=1.0, run="none", side="benign"),),
        method="repeats",
    )


def answer(metrics: tuple[MetricResult, ...], *limits: Limit) -> tuple[Answer, str]:
    file = LimitFile.model_construct(limits=limits)
    return bisecting._within(metrics, file)


def test_only_what_was_held_against_a_limit_is_green() -> None:
    assert answer((metric(0.9),), limit(0.8)) == ("green", "inside all limits (ssim 0.9)")
    assert answer((metric(0.7),), limit(0.8)) == ("red", "ssim 0.7, limit 0.8")
    assert answer((metric(None),), limit(0.8)) == ("unresolved", "ssim was not computed: no weights")
    assert answer((metric(0.9),), limit(None)) == ("unresolved", "no limit of the good configuration gates")
    assert answer((metric(0.9),)) == ("unresolved", "ssim has no limit")
    assert answer((), limit(0.8)) == ("unresolved", "no limit of the good configuration gates")
    both = (metric(0.9), metric(None, "lpips"))
    assert answer(both, limit(0.8), limit(0.8, "lpips"))[0] == "unresolved"
    assert answer((metric(None, "lpips"), metric(0.7)), limit(0.8), limit(0.8, "lpips"))[0] == "red"
    assert answer((metric(0.9), metric(0.1, "mad")), limit(0.8), limit(None, "mad"))[0] == "green"


def test_equal_cases_and_a_bad_one_that_is_green_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidCaseError, match="do not differ"):
        bisect(case(), case(), lambda _one: ("red", ""), tmp_path / "log")
    with pytest.raises(InvalidCaseError, match="is green: fine"):
        bisect(case(), case(**BAD), lambda _one: ("green", "fine"), tmp_path / "log")
