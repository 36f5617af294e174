"""``regenerate --check`` looks at what was named, and is never green for having looked at nothing."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from harness.calibrate.checking import check_files
from harness.definitions.choosing import Filters
from harness.definitions.loading import load_cases
from harness.errors import InvalidCaseError
from harness.project import case_files

REPOSITORY = Path(__file__).parents[2]
CASE = """
cases:
  {name}:
    runners: [cpu]
    model: {{path: ./model}}
    sampling: {{prompt: a square, width: 96, height: 64, num_frames: 9, num_inference_steps: 1, guidance_scale: 1.0}}
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Two cases, and a limit file of each that has no golden: a fault each; and limits of a case that is gone."""
    shutil.copytree(REPOSITORY / "runners", tmp_path / "runners")
    (tmp_path / "cases").mkdir()
    (tmp_path / "thresholds" / "cpu").mkdir(parents=True)
    for name in ("one", "two"):
        (tmp_path / "cases" / f"{name}.yaml").write_text(CASE.format(name=name))
    for name in ("one", "two", "lost"):
        (tmp_path / "thresholds" / "cpu" / f"{name}.json").write_text("{}")
    return tmp_path


def faulty(root: Path, filters: Filters) -> list[str]:
    """Ids of the cases with faults."""
    return sorted(fault.split(":")[0].removeprefix("cpu/") for fault in check_files(root, filters).faults)


def test_every_filter_holds_for_the_check(project: Path) -> None:
    assert len(load_cases(case_files(project), project)) == 2
    assert faulty(project, Filters()) == ["lost", "one", "two"]
    assert faulty(project, Filters(ids=("one",))) == ["one"]
    assert faulty(project, Filters(ids=("lost",))) == ["lost"]
    assert faulty(project, Filters(keyword="not one")) == ["lost", "two"]
    assert faulty(project, Filters(files=(project / "cases" / "two.yaml",))) == ["two"]
    assert faulty(project, Filters(runner="cpu", keyword="o", ids=("one",))) == ["one"]


@pytest.mark.parametrize(
    ("filters", "message"),
    [
        (Filters(runner="nope"), "there is no runner 'nope'\n  next: name one of the profiles: b200, cpu"),
        (Filters(runner="b200"), "no case with a golden of its own matches --runner b200"),
        (Filters(ids=("oen",)), "there is no case oen; did you mean one?\n  next: quantgate cases"),
        (Filters(keyword="three"), "matches -k three"),
        (Filters(ids=("one",), keyword="two"), "matches --case one and -k two"),
    ],
)
def test_filters_that_let_nothing_through_are_an_error(project: Path, filters: Filters, message: str) -> None:
    with pytest.raises(InvalidCaseError) as caught:
        check_files(project, filters)
    assert message in str(caught.value)
    assert caught.value.exit_code == 17


def test_no_cases_at_all_is_an_error(project: Path) -> None:
    shutil.rmtree(project / "thresholds")
    shutil.rmtree(project / "cases")
    with pytest.raises(InvalidCaseError, match="no case with a golden of its own in cases/"):
        check_files(project)


def test_the_files_of_this_repository_fit_together() -> None:
    checked = check_files(REPOSITORY)
    assert not checked.faults
    assert checked.checked > 20
