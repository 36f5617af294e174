"""Only projects that say so are collected, and a run without a case says why. Each test has a project of its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

Collect = Callable[..., tuple[int, str]]
PROFILE = "name: cpu\ndevice_kind: cpu\narchitectures: [x86_64, aarch64]\nmarker: cpu\nlabels: [x]\n"
CASE = """\
defaults:
  runners: [cpu]
  backend: command
  command: [python, draw.py, "{case_json}", "{out}"]
  model: {path: ./model}
  sampling: {prompt: x, width: 96, height: 64, num_frames: 5, num_inference_steps: 1, guidance_scale: 1.0}
cases:
  one: {}
"""
FOREIGN = "- name: theirs\n  steps: [1, 2]\n"


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


@pytest.fixture
def collect(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Collect:
    """Collect in the process of the test, which takes a tenth of a second: exit code, and what was printed."""

    def run(*arguments: str, cwd: str = ".") -> tuple[int, str]:
        monkeypatch.chdir(tmp_path / cwd)
        options = ("-p", "no:cacheprovider", "-p", "no:xdist", "-p", "no:hypothesispytest", "-q", "--collect-only")
        code = pytest.main([*options, *arguments])
        message = capsys.readouterr()
        return int(code), message.out + message.err

    return run


def test_cases_of_somebody_else_do_not_break_their_tests(collect: Collect, tmp_path: Path) -> None:
    write(
        tmp_path, {"cases/theirs.yaml": FOREIGN, "runners/jogging.yaml": "shoes: 2\n", "test_a.py": "def test_a(): 0\n"}
    )
    code, message = collect()
    assert (code, "test_a.py::test_a" in message, "quantgate" in message) == (0, True, False), message


def test_a_folder_that_nobody_configured_says_what_to_do(collect: Collect, tmp_path: Path) -> None:
    write(tmp_path, {"cases/a.yaml": CASE, "pytest.ini": "[pytest]\n"})
    code, message = collect()
    assert code == 5
    assert "nothing says that these are cases of quantgate" in message
    assert "next: quantgate init, or write quantgate_cases = cases into pytest.ini" in message


@pytest.mark.parametrize(
    ("files", "arguments"),
    [
        ({"pytest.ini": "[pytest]\nquantgate_cases = cases\n"}, ()),
        ({"pyproject.toml": '[tool.pytest.ini_options]\nquantgate_cases = "cases"\n'}, ()),
        ({"runners/cpu.yaml": PROFILE}, ()),
        ({}, ("-o", "quantgate_cases=cases")),
    ],
)
def test_each_way_of_saying_it(
    collect: Collect, tmp_path: Path, files: dict[str, str], arguments: tuple[str, ...]
) -> None:
    write(tmp_path, {"cases/a.yaml": CASE, "runners/cpu.yaml": PROFILE, **files})
    code, message = collect(*arguments)
    assert (code, "cases/a.yaml::one" in message) == (0, True), message


def test_a_project_in_a_folder_of_a_monorepo(collect: Collect, tmp_path: Path) -> None:
    write(tmp_path, {"pyproject.toml": "[tool.pytest.ini_options]\n", "lib/test_lib.py": "def test_lib(): 0\n"})
    write(tmp_path / "gate", {"cases/a.yaml": CASE, "runners/cpu.yaml": PROFILE})
    code, message = collect("gate/cases")
    assert code == 5
    assert "is a project of its own" in message
    (tmp_path / "gate/pytest.ini").write_text("[pytest]\nquantgate_cases = cases\n")
    for arguments, cwd in ((("gate/cases",), "."), ((), "gate"), (("cases",), "gate")):
        code, message = collect(*arguments, cwd=cwd)
        assert (code, "cases/a.yaml::one" in message) == (0, True), message
    code, message = collect("lib")
    assert (code, "quantgate" in message) == (0, False)


def test_an_empty_folder_and_a_command_that_looks_elsewhere(collect: Collect, tmp_path: Path) -> None:
    write(tmp_path, {"pytest.ini": "[pytest]\nquantgate_cases = cases\n", "other/readme": ""})
    (tmp_path / "cases").mkdir()
    code, message = collect()
    assert (code, "there is no case file in" in message) == (5, True), message
    write(tmp_path, {"cases/a.yaml": CASE, "runners/cpu.yaml": PROFILE})
    code, message = collect("other")
    assert (code, "this command does not look there" in message) == (5, True), message


def test_a_runner_without_cases_and_a_case_that_is_not_there_are_named(collect: Collect, tmp_path: Path) -> None:
    gpu = (
        "name: big\ndevice_kind: cuda\ndevice_names: [NVIDIA X]\ncompute_capability: '9.0'\nmarker: big\nlabels: [x]\n"
    )
    write(tmp_path, {"cases/a.yaml": CASE, "runners/cpu.yaml": PROFILE, "runners/big.yaml": gpu})
    code, message = collect("-m", "big")
    assert (code, "no case that pytest collected names runner big (their runners: cpu)" in message) == (5, True), (
        message
    )
    assert "next: add big to the `runners` of a case, or pytest -m cpu" in message
    code, message = collect("-m", "cpu")
    assert (code, "next:" in message) == (0, False), message
    code, message = collect("cases/a.yaml::oen")
    assert (code, "cases/a.yaml has no case oen; did you mean one?" in message) == (4, True), message
