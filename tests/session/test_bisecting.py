"""Bisecting two configurations, with a runner that knows the answer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from harness.definitions.case import Case
from harness.errors import InfraError, InvalidCaseError
from harness.session.bisecting import apply_differences, bisect, differences
from harness.session.delta import Answer


def case(**more: Any) -> Case:
    sampling = {
        "prompt": "p",
        "width": 32,
        "height": 32,
        "num_frames": 5,
        "num_inference_steps": 4,
        "guidance_scale": 3.0,
    }
    data: dict[str, Any] = {"id": "one", "runners": ["cpu"], "model": {"path": "./a"}, "env": {"KEPT": "1"}}
    return Case.model_validate({**data, **more, "sampling": {**sampling, **more.get("sampling", {})}}).resolved()


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

    bisect(case(), case(**BAD), test, log)
    log.write_text(log.read_text(encoding="utf-8")[:-20], encoding="utf-8")
    assert bisect(case(), case(**BAD), test, log).runs == 1


def test_equal_cases_and_a_bad_one_that_is_green_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidCaseError, match="do not differ"):
        bisect(case(), case(), lambda _one: ("red", ""), tmp_path / "log")
    with pytest.raises(InvalidCaseError, match="is green: fine"):
        bisect(case(), case(**BAD), lambda _one: ("green", "fine"), tmp_path / "log")
