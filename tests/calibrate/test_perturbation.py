"""What a perturbation changes of a case, and that one which cannot run is left out and said."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from harness.calibrate import regenerate
from harness.outcomes import Outcome
from harness.records.identity import Device
from harness.session.identity import identity_of
from harness.session.perturbation import CPU, GPU, NONE, Perturbation, plan


def test_only_what_is_named_changes(wan_case: Any) -> None:
    assert NONE.apply(wan_case) is wan_case
    other = Perturbation("x", threads=2, attention="_native_math").apply(wan_case)
    changed = wan_case.execution.model_copy(update={"threads": 2, "attention_backend": "_native_math"})
    assert other == wan_case.model_copy(update={"execution": changed})


def test_instruction_sets_that_are_not_there_are_not_planned() -> None:
    cpu = SimpleNamespace(device_kind="cpu")
    assert {one.name for one in CPU} - {one.name for one in plan(cpu, frozenset({"avx2"}))} == {"isa-avx512"}  # type: ignore[arg-type]
    assert plan(SimpleNamespace(device_kind="cuda"), frozenset()) == GPU  # type: ignore[arg-type]
    assert all(one.optional for one in (*CPU, *GPU) if one.attention)


def _plan(message: list[str]) -> Any:
    """The plan of a regeneration, as far as a single run needs it."""
    return SimpleNamespace(report_line=message.append, begin=lambda _: None)


@pytest.mark.parametrize("outcome", [Outcome.INVALID_CASE, Outcome.INFRA, Outcome.REGRESSION])
@pytest.mark.parametrize("optional", [True, False])
def test_an_optional_run_that_cannot_be_is_left_out(
    outcome: Outcome, optional: bool, tmp_path: Path, wan_case: Any
) -> None:
    verdict = SimpleNamespace(outcome=outcome, summary="no such kernel")
    session: Any = SimpleNamespace(
        context=SimpleNamespace(case_folder=lambda _: tmp_path, probe_inputs={}),
        run_case=lambda *_: SimpleNamespace(record=SimpleNamespace(verdict=verdict), folder=tmp_path),
    )
    message: list[str] = []
    origins: Any = SimpleNamespace(of=lambda *_: None)
    located: Any = SimpleNamespace(case=wan_case, place="a.yaml:1")
    one = Perturbation("attention-x", attention="x", optional=optional)
    if optional and outcome is not Outcome.REGRESSION:
        assert regenerate._regenerate_case(session, located, one, lambda _: None, _plan(message), origins) is None
        assert message == ["wan: attention-x left out: no such kernel"]
    else:
        with pytest.raises(regenerate.RegenerateError, match="no such kernel"):
            regenerate._regenerate_case(session, located, one, lambda _: None, _plan(message), origins)


def test_what_the_case_sets_itself_is_not_forced_and_not_labelled(wan_case: Any, tmp_path: Path) -> None:
    case = wan_case.model_copy(update={"env": {"ATEN_CPU_CAPABILITY": "default"}, "pass_env": ("OMP_NUM_THREADS",)})
    by_name = {one.name: one for one in CPU}
    assert by_name["isa-avx2"].taken(case) == ("ATEN_CPU_CAPABILITY",)
    assert by_name["threads-2"].taken(case) == ("OMP_NUM_THREADS",)
    assert by_name["isa-avx2"].taken(wan_case) == by_name["threads-2"].taken(wan_case) == NONE.taken(case) == ()
    device = Device(kind="cpu", name="x86_64")
    labels = identity_of(case, device, {}, perturbation=by_name["isa-avx2"]).subject
    assert "perturbation.ATEN_CPU_CAPABILITY" not in labels
    assert labels["perturbation.ONEDNN_MAX_CPU_ISA"] == "AVX2"
    nothing: Any = SimpleNamespace(context=SimpleNamespace(case_folder=lambda _: tmp_path))
    message: list[str] = []
    located: Any = SimpleNamespace(case=case, place="a.yaml:1")
    assert (
        regenerate._regenerate_case(nothing, located, by_name["isa-avx2"], lambda _: None, _plan(message), nothing)
        is None
    )
    assert message == ["wan: isa-avx2 left out: the case sets ATEN_CPU_CAPABILITY itself"]
