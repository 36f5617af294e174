"""What a candidate's bytes prove goes into the case that is tried, and into the patch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from builders import quantized_case

from harness.cli import trial as candidate_commands
from harness.definitions.case import Case, CheckpointRef
from harness.errors import InvalidCaseError
from harness.records.inspection import ContractReport, ExpertSummary, InspectionFinding, InspectionReport
from harness.records.probe import ProbeEvidence, ProbeStep
from harness.trial import trying
from harness.trial.trying import candidate_case, reference

COMMIT = "0123456789" * 4


def case(**more: Any) -> Case:
    return quantized_case(**{"model": {"path": "./a"}, **more}).resolved()


def report(encoding: str = "low_first/linear", fmt: str = "nvfp4", **more: Any) -> InspectionReport:
    experts = tuple(
        ExpertSummary(expert=name, source="x", format=fmt, encoding=encoding)  # type: ignore[arg-type]
        for name in ("transformer", "transformer_2")
    )
    fields: dict[str, Any] = {"reference": "r", "base": "b", "outcome": "clean", "summary": "s", "experts": experts}
    return InspectionReport(**{**fields, **more})


def findings() -> Any:
    return trying._Findings([], [], [], [], {})


def test_a_candidate_that_agrees_changes_nothing_else() -> None:
    found = findings()
    candidate = candidate_case(case(), {"model": CheckpointRef(path="./b")}, {})
    assert trying._as_proven(candidate, report(), found) == candidate
    assert trying._yaml(case(), candidate, found) == {"model": {"path": "./b"}}
    assert not found.with_it


def test_another_nibble_order_must_change_with_it() -> None:
    found = findings()
    proven = trying._as_proven(case(), report("high_first/linear"), found)
    assert proven.loader.nibble_order == "high_first"
    assert found.yaml == {"loader.nibble_order": "high_first"}
    assert "high_first/linear" in found.with_it[0]
    trial = trying.Trial(case="one", answer="unsafe", reasons=(), changes=())
    assert trying._concluded(trial, found).answer == "safe_with_changes"


def test_another_format_must_change_with_it() -> None:
    found = findings()
    proven = trying._as_proven(case(), report("", "fp8"), found)
    assert proven.quantization.model_dump() == {"transformer": "fp8", "transformer_2": "fp8"}
    assert trying._yaml(case(), proven, found) == {"quantization": {"transformer": "fp8", "transformer_2": "fp8"}}


def test_faults_are_unsafe_and_doubts_inconclusive() -> None:
    trial = trying.Trial(case="one", answer="unsafe", reasons=(), changes=())
    found = findings()
    doubt = InspectionFinding(code="nibble_unproven", severity="inconclusive", message="no base")
    trying._inspected(report(findings=(doubt,)), found)
    assert trying._concluded(trial, found).answer == "inconclusive"
    fault = InspectionFinding(code="shard_missing", severity="fault", message="a shard is missing")
    trying._inspected(report(findings=(fault,)), found)
    concluded = trying._concluded(trial, found)
    assert (concluded.answer, concluded.reasons[0]) == ("unsafe", "shard_missing: a shard is missing")


def test_a_runtime_that_reads_otherwise_is_said() -> None:
    found = findings()
    odd = ContractReport(contract="sglang==0.5.12", expert="transformer", assumptions=(), agrees=False)
    trying._inspected(report(contracts=(odd,)), found)
    assert "sglang==0.5.12" in found.must[0]


@pytest.mark.parametrize(("runtime", "bad"), [("sglang==0.5.12.post1", 1), ("sglang==0.5.13", 0), ("", 0)])
def test_a_scheduler_that_the_candidates_runtime_refuses_is_unsafe(runtime: str, bad: int) -> None:
    found = findings()
    printed = {"message": "takes no shift_terminal", "contract": "sglang==0.5.12.post1"}
    warning = InspectionFinding.model_validate({"code": "scheduler_refused", "severity": "warning", **printed})
    trying._inspected(report(findings=(warning,)), found, runtime)
    assert len(found.bad) == bad


def test_an_override_can_be_taken_away_and_environment_added() -> None:
    present = case(transformer={"path": "./over"})
    changed = candidate_case(present, {"transformer": None}, {"ATEN_CPU_CAPABILITY": "default"})
    assert changed.transformer is None
    assert changed.env == {"ATEN_CPU_CAPABILITY": "default"}
    with pytest.raises(InvalidCaseError, match="already"):
        candidate_case(present, {"model": CheckpointRef(path="./a")}, {})


def test_references_keep_a_known_commit_and_say_where_one_is_missing() -> None:
    known = CheckpointRef(path="owner/name", revision=COMMIT)
    assert reference("owner/name", known) == known
    assert reference("owner/other", known).revision == "unresolved"
    assert reference(f"owner/other@{COMMIT}", None).revision == COMMIT
    assert reference("./here", None).revision is None


def test_a_folder_without_its_dot_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny" / "exports").mkdir(parents=True)
    for text in ("tiny/exports/nvfp4", "tiny/exports", "tiny/exports/"):
        with pytest.raises(InvalidCaseError, match="neither") as caught:
            reference(text, None)
        assert caught.value.remedy == f"write ./{text.rstrip('/')}"
    with pytest.raises(InvalidCaseError, match="no commit") as caught:
        candidate_commands._require_commits({"model": reference("tiny/export", None)})
    assert "./tiny/export, if that folder is meant" in caught.value.remedy


SECRET = "hf_do_not_show"  # noqa: S105 - none, and it must not be shown


@pytest.mark.parametrize("name", ["HF_TOKEN", "FOO", "OMP_NUM_THREDS"])
def test_a_variable_that_a_case_file_refuses_is_refused_and_not_shown(name: str) -> None:
    with pytest.raises(InvalidCaseError) as caught:
        candidate_case(case(), {}, {name: SECRET})
    assert caught.value.exit_code == 17
    assert name in str(caught.value)
    assert SECRET not in str(caught.value)
    for text in (f"env.{name}={SECRET}", f'env={{"{name}": "{SECRET}"}}', f'env={{"{name}": ["{SECRET}"]}}'):
        with pytest.raises(InvalidCaseError, match=name) as caught:
            candidate_commands._changed(case(), [text])
        assert SECRET not in str(caught.value)


def test_what_is_no_pair_is_not_shown() -> None:
    with pytest.raises(InvalidCaseError, match="not NAME=VALUE") as caught:
        candidate_commands._pair(SECRET, "--env")
    assert SECRET not in str(caught.value)


def test_a_field_that_is_set_is_held_against_its_type() -> None:
    assert candidate_commands._changed(case(), ["sampling.seed=3"]).sampling.seed == 3
    assert candidate_commands._changed(case(), ['env.OMP_NUM_THREADS="2"']).env == {"OMP_NUM_THREADS": "2"}
    with pytest.raises(InvalidCaseError, match=r"sampling\.seed: must be a whole number"):
        candidate_commands._changed(case(), ["sampling.seed=many"])


def probed(*steps: int, **more: Any) -> ProbeEvidence:
    rows = tuple(
        ProbeStep(expert="transformer", step=step, timestep=900.0 - step, base_error=0.01, base_cosine=1.0)
        for step in steps
    )
    return ProbeEvidence(steps=rows, modules=(), golden_anchor=False, **more)


def tried(monkeypatch: pytest.MonkeyPatch, now: ProbeEvidence, then: ProbeEvidence) -> tuple[trying.Trial, Any]:
    """What is said where the probes of the two configurations are these."""
    answers = iter((now, then))
    monkeypatch.setattr(trying, "_source", lambda *_: object())
    monkeypatch.setattr(trying, "_run", lambda *_: next(answers))
    found: Any = findings()
    nothing: Any = None
    pairs = trying._probes(nothing, nothing, case(), case(), Path(), found)
    trial = trying.Trial(case="one", answer="unsafe", reasons=(), changes=(), probes=pairs)
    return trying._concluded(trial, found), found


def test_probes_that_were_compared_are_safe(monkeypatch: pytest.MonkeyPatch) -> None:
    trial, _ = tried(monkeypatch, probed(0, 4), probed(0, 4))
    assert (trial.answer, len(trial.probes)) == ("safe", 2)


def test_no_compared_step_is_never_safe(monkeypatch: pytest.MonkeyPatch) -> None:
    trial, _ = tried(monkeypatch, probed(), probed())
    assert (trial.answer, "no step was compared" in trial.reasons[0]) == ("inconclusive", True)


def test_a_step_or_module_that_the_candidate_lacks_is_unsafe(monkeypatch: pytest.MonkeyPatch) -> None:
    lost = "transformer at step 0"
    trial, _ = tried(monkeypatch, probed(0, 4), probed(4, missing_steps=(lost,)))
    assert (trial.answer, trial.reasons[0]) == ("unsafe", f"the candidate lacks steps that the recording has: {lost}")
    assert [pair.timestep for pair in trial.probes] == [896.0], "paired by step, not by place"
    trial, _ = tried(monkeypatch, probed(0), probed(0, missing=("transformer/a",)))
    assert trial.answer == "unsafe"
    trial, _ = tried(monkeypatch, probed(4, missing_steps=(lost,)), probed(4, missing_steps=(lost,)))
    assert trial.answer == "inconclusive"


def sglang(**more: Any) -> Case:
    return case(backend="sglang", runtime="sglang==0.5.12.post1", **more)


def test_another_version_of_the_runtime_is_a_candidate_with_what_it_does_otherwise() -> None:
    candidate = candidate_case(sglang(), {}, {}, "sglang==0.5.13")
    assert candidate.runtime == "sglang==0.5.13"
    assert trying._yaml(sglang(), candidate, findings()) == {"runtime": "sglang==0.5.13"}
    lines = trying.contract_difference("sglang==0.5.12.post1", "sglang==0.5.13", Path())
    assert "nvfp4.swap_weight_nibbles.default: true -> false" in lines
    assert trying.contract_difference("sglang==0.5.13", "sglang==0.5.13", Path()) == ()


def test_a_runtime_reads_bytes_as_its_contract_says_and_no_loader_is_set() -> None:
    found = findings()
    assert trying._as_proven(sglang(), report("high_first/linear"), found) == sglang()
    assert not found.with_it


@pytest.mark.parametrize("runtime", ["sglang==0.5.12.post1", "sglang>=0.5", "sglang"])
def test_the_same_version_or_none_is_no_candidate(runtime: str) -> None:
    with pytest.raises(InvalidCaseError):
        candidate_case(sglang(), {}, {}, runtime)


def test_a_case_without_a_runtime_has_no_other_version() -> None:
    with pytest.raises(InvalidCaseError, match="no versions of a runtime"):
        candidate_case(case(), {}, {}, "sglang==0.5.13")
