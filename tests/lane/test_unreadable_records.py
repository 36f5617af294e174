"""A record that cannot be read ends there: it is one problem, and nothing is made of its neighbour a second time."""

from __future__ import annotations

from pathlib import Path

import pytest
from builders import evidence_of_a_pass, make_record, planned_case

from harness.definitions.runner import load_runners
from harness.lane.durations import History
from harness.lane.merge import Merged, merge
from harness.lane.plan import make_plan
from harness.outcomes import Outcome
from harness.records.verdict import Verdict

B200 = load_runners(Path(__file__).parents[2] / "runners")["b200"]
NAMES = ("a", "b", "c")
PLAN = "of-these-three"


def merged(tmp_path: Path) -> Merged:
    located = [planned_case(name, name) for name in NAMES]
    plan = make_plan(located, B200, 1, History()).model_copy(update={"id": PLAN})
    return merge([tmp_path / "shard"], plan, tmp_path / "out")


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    """What one shard left of three cases."""
    for name in NAMES:
        make_record(
            plan=PLAN,
            case=name,
            node=f"cases/a.yaml::{name}",
            runner="b200",
            request=planned_case(name, name).case.model_dump(mode="json"),
            verdict=Verdict(outcome=Outcome.PASS, cause="x", summary="as it was"),
            **evidence_of_a_pass(),
        ).write(tmp_path / "shard" / name / "record.json")
    return tmp_path / "shard"


@pytest.mark.parametrize("torn", NAMES)
@pytest.mark.parametrize("left", [b"", b'{"run": "r", ', b"\xff\xfe"])
def test_it_is_one_problem_and_the_others_count_once(tmp_path: Path, shard: Path, torn: str, left: bytes) -> None:
    (shard / torn / "record.json").write_bytes(left)
    found = merged(tmp_path)
    assert {one.case: one.outcome.value for one in found.cases} == {
        name: "not_run" if name == torn else "pass" for name in NAMES
    }
    (problem,) = found.problems
    assert f"{torn}/record.json cannot be read" in problem
    (lost,) = found.missing()
    assert (lost.cause, lost.summary) == ("unusable_record", problem)
    assert found.exit_code == 20


def test_one_that_no_plan_asked_for_costs_no_case(tmp_path: Path, shard: Path) -> None:
    (shard / "stray").mkdir()
    (shard / "stray/record.json").write_text("{")
    found = merged(tmp_path)
    assert found.missing() == ()
    (problem,) = found.problems
    assert "stray/record.json cannot be read" in problem
    assert found.exit_code == 0
