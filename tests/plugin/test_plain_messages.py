"""Messages that sent people to the wrong place: each with the sentence that it says now."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from builders import make_case

from harness.cli.regenerate import _to_the_fault
from harness.definitions.case import CheckpointRef
from harness.definitions.loading import check_cases
from harness.definitions.runner import load_runners
from harness.engine.environment import engine_environment
from harness.errors import InvalidCaseError
from harness.formats.errors import BadReferenceError
from harness.inspector.sources import Meter, open_source
from harness.machine.doctor import check_folders
from harness.outcomes import Outcome
from harness.records.verdict import Verdict


def problems(folder: Path, text: str) -> list[str]:
    (folder / "cases").mkdir()
    (folder / "cases" / "a.yaml").write_text(text)
    return [str(one) for one in check_cases([folder / "cases" / "a.yaml"], folder, runners=["cpu"])[1]]


def test_a_tab_is_named(tmp_path: Path) -> None:
    assert problems(tmp_path, "cases:\n  a:\n\trunners: [cpu]\n") == [
        "cases/a.yaml:3: a tab indents this line; YAML takes spaces only"
    ]


def test_a_tab_that_is_no_indent_is_not_blamed(tmp_path: Path) -> None:
    (message,) = problems(tmp_path, 'cases:\n  a: "x\t\n')
    assert "tab indents" not in message


@pytest.mark.parametrize(
    ("field", "sentence"),
    [
        ("sampling: {width: wide}", 'sampling.width: must be a whole number, not "wide"'),
        ("sampling: {height: 7}", "sampling.height: must be a multiple of 8, not 7"),
        ("sampling: {prompt: [a]}", "sampling.prompt: must be text, not a list"),
        ("sampling: [1]", "sampling: must be a mapping of fields, not a list"),
        ("env: [a]", "env: must be a mapping, `name: value`, not a list"),
        ("runners: cpu", 'runners: must be a list, not "cpu"'),
    ],
)
def test_a_wrong_type_is_told_in_the_words_of_yaml(tmp_path: Path, field: str, sentence: str) -> None:
    assert any(message.endswith(sentence) for message in problems(tmp_path, f"cases:\n  a:\n    {field}\n"))


def test_a_missing_field_of_a_runner_is_told_of_the_runners_file(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text("name: x\ndevice_kind: cpu\narchitectures: [x86_64]\nmarker: x\n")
    with pytest.raises(InvalidCaseError) as caught:
        load_runners(tmp_path)
    assert "x.yaml:1: labels: is required, and this file does not state it" in str(caught.value)
    assert "`defaults`" not in str(caught.value)


def test_a_variable_that_env_sets_needs_no_caller(tmp_path: Path) -> None:
    """The remedy of an unknown name in `env` is to list it in `pass_env`: that must be enough."""
    case = make_case(env={"ODD_SWITCH": "1"}, pass_env=["ODD_SWITCH"])
    assert engine_environment(case, {}, {"PATH": "/bin"})["ODD_SWITCH"] == "1"
    assert engine_environment(case, {}, {"ODD_SWITCH": "2"})["ODD_SWITCH"] == "1"
    with pytest.raises(InvalidCaseError, match="which the calling environment does not have") as caught:
        engine_environment(make_case(pass_env=["ODD_SWITCH"]), {}, {})
    assert caught.value.remedy == "export ODD_SWITCH=...; or take it out of `pass_env`"


def test_a_machine_without_a_folder_that_a_case_needs_is_not_fit(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    refs = [CheckpointRef(path="./there"), CheckpointRef(path="./absent", made_by="make it")]
    states = {check.wanted or check.actual: (check.state, check.remedy) for check in check_folders(refs, tmp_path)}
    assert states == {"./there": ("fit", ""), "./absent": ("unfit", "make it")}


def test_a_misspelt_folder_is_told_with_the_one_that_is_there(tmp_path: Path) -> None:
    (tmp_path / "demo/model").mkdir(parents=True)
    (check,) = check_folders([CheckpointRef(path="./demo/modle", made_by="make it")], tmp_path)
    assert (check.state, check.remedy) == ("unfit", "make it")
    assert check.message.endswith(f"did you mean {tmp_path / 'demo/model'}?")
    with pytest.raises(BadReferenceError) as caught:
        open_source(CheckpointRef(path="./demo/modle", made_by="quantgate init"), Meter(), tmp_path)
    assert caught.value.remedy == f"did you mean {tmp_path / 'demo/model'}? If not, make it: quantgate init"
    with pytest.raises(BadReferenceError) as caught:
        open_source(CheckpointRef(path="./zzz", made_by="quantgate init"), Meter(), tmp_path)
    assert caught.value.remedy == "make it: quantgate init"


@pytest.mark.parametrize(
    ("outcome", "cause", "label"),
    [
        (Outcome.GOLDEN_MISSING, "golden_missing", "golden_missing"),
        (Outcome.PASS, "none", "pass"),
        (Outcome.REGRESSION, "noise", "regression (noise)"),
    ],
)
def test_no_verdict_is_named_twice(outcome: Outcome, cause: str, label: str) -> None:
    assert Verdict(outcome=outcome, cause=cause, summary="").label == label


def test_a_fault_that_a_limit_does_not_find_is_no_negative_distance() -> None:
    assert _to_the_fault(57.87) == ", 57.87 away from the nearest fault that it finds"
    assert _to_the_fault(-57.87) == ", and the nearest fault passes it by 57.87"


def test_a_misspelt_runner_of_m_is_told_with_the_runners(project: Any) -> None:
    project.cases("  one: {}\n")
    text = project.pytest("cases", "-m", "cpuu").stdout
    assert "-m cpuu: no runner is called that; did you mean cpu? (runners: b200, cpu, h200)" in text
    text = project.pytest("cases", "-m", "b200", "--collect-only").stdout
    assert "no runner is called" not in text


def test_a_keyword_that_matches_nothing_is_told_with_the_cases(project: Any) -> None:
    project.cases("  wan_fp8: {}\n  wan_nvfp4: {}\n")
    text = project.pytest("cases", "--runner", "cpu", "-k", "wan_nfvp4", "--collect-only").stdout
    assert "-k 'wan_nfvp4' matches no case; did you mean wan_nvfp4?\n  next: quantgate cases" in text
    text = project.pytest("cases", "--runner", "cpu", "-k", "zz", "--collect-only").stdout
    assert "-k 'zz' matches no case; there are wan_fp8, wan_nvfp4" in text
    assert "matches no case" not in project.pytest("cases", "--runner", "cpu", "-k", "wan", "--collect-only").stdout


def test_reasons_are_not_cut_in_the_table(project: Any) -> None:
    project.cases("  one: {expect: 'regression:nan', sampling: {prompt: nan}}\n")
    text = project.pytest("cases", "--runner", "cpu", "--no-report").stdout
    table = text.split("quantgate verdicts")[1]
    assert "..." not in table.replace("--reason '...'", "")
