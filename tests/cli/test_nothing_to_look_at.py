"""No command is green, and none makes a file, where there is no project or nothing of what was named."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from harness.cli.app import app
from harness.errors import InvalidCaseError, QuantgateError
from harness.project import project_root

REPOSITORY = Path(__file__).parents[2]


def failing(*arguments: str) -> QuantgateError:
    """The error of ours that a command ends with."""
    done = CliRunner().invoke(app, arguments)
    assert isinstance(done.exception, QuantgateError), done.output
    return done.exception


@pytest.mark.parametrize(
    "line",
    [
        "regenerate --check",
        "regenerate --from-samples",
        "cases",
        "resolve",
        "lock",
        "lock --check",
        "inspect --case one",
        "pending",
        "reject one",
        "accept one --reason r",
        "try one --model ./model",
        "bisect one two",
        "plan --runner cpu",
        "doctor --runner cpu",
    ],
)
@pytest.mark.parametrize("named", [True, False])
def test_a_folder_that_is_no_project(line: str, named: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI", raising=False)
    docs = tmp_path / "docs"
    docs.mkdir()
    monkeypatch.chdir(tmp_path if named else docs)
    error = failing(*line.split(), *(("--root", "nonexist") if named else ()))
    assert error.exit_code == 17
    assert error.message == ("there is no such folder" if named else "no cases/ folder here")
    assert "pass --root" in error.remedy
    assert ("`quantgate init`" in error.remedy) is not named
    assert list(tmp_path.rglob("*")) == [docs]


def test_a_project_in_a_folder_of_the_monorepo_is_named(tmp_path: Path) -> None:
    for name in ("cases", "runners"):
        (tmp_path / "models/gate" / name).mkdir(parents=True)
    (tmp_path / "other/cases").mkdir(parents=True)
    with pytest.raises(InvalidCaseError) as caught:
        project_root(tmp_path)
    assert f"({tmp_path / 'models/gate'})" in caught.value.remedy
    assert "quantgate init" not in caught.value.remedy


def test_the_project_above_is_named(tmp_path: Path) -> None:
    for name in ("cases", "runners", "docs"):
        (tmp_path / name).mkdir()
    assert f"folder ({tmp_path})" in failing("pending", "--root", str(tmp_path / "docs")).remedy


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("regenerate --check --runner nope", "name one of the profiles: b200, cpu"),
        ("regenerate --check --case nope", "there is no case nope"),
        ("cases --runner nope", "name one of the profiles: b200, cpu"),
        ("plan --runner nope", "name one of the profiles: b200, cpu"),
        ("doctor --runner nope", "name one of the profiles: b200, cpu"),
        ("goldens verify --case nope", "no golden of */nope"),
        ("goldens verify --runner nope", "no golden of nope/*"),
        ("goldens verify --goldens nonexist/goldens", "there is no such folder"),
        ("goldens gc --case nope", "no golden of */nope"),
    ],
)
def test_a_filter_that_matches_nothing(line: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)
    error = failing(*line.split())
    assert (error.exit_code, message in str(error)) == (17, True), str(error)


def test_no_runner_profiles_at_all(tmp_path: Path) -> None:
    (tmp_path / "cases").mkdir()
    assert "write " in failing("doctor", "--runner", "cpu", "--root", str(tmp_path)).remedy


def test_a_project_without_goldens_is_sound(tmp_path: Path) -> None:
    (tmp_path / "cases").mkdir()
    verify = ["goldens", "verify", "--goldens", str(tmp_path / "goldens")]
    assert CliRunner().invoke(app, verify).exit_code == 0
    (tmp_path / "goldens").mkdir()
    assert "0 goldens, 0 damaged" in CliRunner().invoke(app, verify).output
    (tmp_path / "cases").rmdir()
    assert failing(*verify).message == "no goldens here"
