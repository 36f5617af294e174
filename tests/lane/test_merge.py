"""A merge is held against the plan: whatever is missing, torn, foreign or doubled is named, and never green."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from lane_proof import CHECK, evidence_of_a_pass

from harness.cli import lane
from harness.definitions.case import Case, Located
from harness.definitions.runner import load_runners
from harness.lane.durations import CaseTimes, History
from harness.lane.merge import Merged, join_junit, merge, unproven
from harness.lane.plan import Plan, PlanError, make_plan
from harness.lane.summary import MARK, lane_markdown, plan_markdown
from harness.outcomes import Outcome
from harness.records.case_record import CaseRecord, Timing
from harness.records.generation import EngineStart, FloatStats, Generation, Receipts, Trace
from harness.records.identity import Device, Fingerprint
from harness.records.verdict import Finding, Verdict

B200 = load_runners(Path(__file__).parents[2] / "runners")["b200"]
JUNIT = """<?xml version="1.0" encoding="utf-8"?>
<testsuites><testsuite name="pytest" errors="0" failures="1" skipped="0" tests="2" time="1">
<properties><property name="quantgate_plan" value="p" /></properties>
<testcase classname="cases.a.yaml" name="a" time="1"/>
<testcase classname="cases.a.yaml" name="b" time="1"><failure message="no">no</failure></testcase>
</testsuite></testsuites>
"""


def a_case(name: str, model: str) -> Located:
    """A case of an engine."""
    data: dict[str, Any] = {
        "id": name,
        "runners": ["b200"],
        "model": {"path": f"./{model}"},
        "sampling": {
            "prompt": "p",
            "width": 16,
            "height": 16,
            "num_frames": 1,
            "num_inference_steps": 1,
            "guidance_scale": 1.0,
        },
    }
    return Located(case=Case.model_validate(data).resolved(), path=Path("cases/a.yaml"), line=1)


CASES = {name: a_case(name, model) for name, model in (("a", "m1"), ("b", "m2"), ("c", "m3"))}


@pytest.fixture
def plan() -> Plan:
    """Three cases of three engines on three shards."""
    return make_plan(list(CASES.values()), B200, 3, History()).model_copy(update={"id": "p"})


def record(name: str, outcome: Outcome = Outcome.PASS, **changes: Any) -> CaseRecord:
    """What a shard writes of a case."""
    values: dict[str, Any] = {
        "run": "r",
        "plan": "p",
        "case": name,
        "node": f"cases/a.yaml::{name}",
        "source": "cases/a.yaml:1",
        "runner": "b200",
        "started": "2026-01-01T00:00:00+00:00",
        "request": CASES[name].case.model_dump(mode="json"),
        "verdict": Verdict(outcome=outcome, cause="x", summary="as it was"),
        "fingerprint": Fingerprint(runner="b200", device=Device(kind="cuda", name="NVIDIA B200", uuid="GPU-1")),
        "engine": EngineStart(engine="e", process=4, load_seconds=20, loads=1),
        "generation": Generation(
            clip="c",
            clip_sha256="0",
            shape=(1, 1, 1, 3),
            float_stats=FloatStats(nan=0, inf=0, minimum=0, maximum=1),
            trace=Trace(steps=()),
            receipts=Receipts(modules=()),
        ),
        "timing": Timing(load=20, total=50),
        **evidence_of_a_pass(),
    }
    return CaseRecord.model_validate(values | changes)


def write(folder: Path, *records: CaseRecord) -> Path:
    """What a shard leaves."""
    for one in records:
        one.write(folder / one.case / "record.json")
        (folder / one.case / "clip.safetensors").write_bytes(b"frames")
    return folder


def by_case(merged: Merged) -> dict[str, str]:
    """Outcome by case."""
    return {case.case: case.outcome.value for case in merged.cases}


def test_three_shards_become_one_folder(tmp_path: Path, plan: Plan) -> None:
    for name in CASES:
        write(tmp_path / "shards" / f"shard-{name}", record(name))
    (tmp_path / "shards/shard-a/junit.xml").write_text(JUNIT)
    merged = merge([tmp_path / "shards"], plan, tmp_path / "out")
    assert merged.exit_code == 0
    assert by_case(merged) == dict.fromkeys(("a", "b", "c"), "pass")
    assert (tmp_path / "out/b/clip.safetensors").read_bytes() == b"frames"
    assert CaseRecord.read(tmp_path / "out/c/record.json") == record("c")
    assert Merged.read(tmp_path / "out/merge.json") == merged
    assert Plan.read(tmp_path / "out/plan.json") == plan
    assert History.read(tmp_path / "out/history.json").runners["b200"]["a"] == CaseTimes(seconds=(30,), loads=(20,))
    assert 'tests="2"' in (tmp_path / "out/junit.xml").read_text()
    assert {case.device for case in merged.cases} == {"GPU-1"}
    assert {case.process for case in merged.cases} == {4}


def test_a_planned_case_without_a_result_is_never_green(tmp_path: Path, plan: Plan) -> None:
    merged = merge([write(tmp_path / "one", record("a"), record("b"))], plan, tmp_path / "out")
    assert by_case(merged) == {"a": "pass", "b": "pass", "c": "not_run"}
    assert merged.exit_code == 20
    (lost,) = merged.missing()
    assert lost.next_command == f"pytest --plan plan.json --shard {lost.shard}/3 --runner b200"
    text = (tmp_path / "out/junit.xml").read_text()
    assert '<error type="not_run"' in text
    assert 'errors="1"' in text


def test_no_shard_at_all(tmp_path: Path, plan: Plan) -> None:
    merged = merge([], plan, tmp_path / "out")
    assert set(by_case(merged).values()) == {"not_run"}
    assert merged.exit_code == 20


def test_the_worst_case_decides(tmp_path: Path, plan: Plan) -> None:
    left = write(tmp_path / "one", record("a", Outcome.REGRESSION), record("b", Outcome.INFRA))
    merged = merge([left], plan, tmp_path / "out")
    assert merged.exit_code == 10
    assert by_case(merged) == {"a": "regression", "b": "infra", "c": "not_run"}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"runner": "h200"}, "runner h200"),
        ({"plan": "yesterday"}, "it is of plan yesterday, and this is plan p"),
        ({"plan": ""}, "it is of no plan, and this is plan p"),
        ({"request": {**CASES["c"].case.model_dump(mode="json"), "env": {"A": "1"}}}, "another definition"),
        ({"request": {"id": "c"}}, "no case of this version"),
    ],
)
def test_a_record_of_something_else_is_no_result(
    tmp_path: Path, plan: Plan, changes: dict[str, Any], said: str
) -> None:
    left = write(tmp_path / "one", record("a"), record("b"), record("c", **changes))
    merged = merge([left], plan, tmp_path / "out")
    assert by_case(merged)["c"] == "not_run"
    assert said in merged.missing()[0].summary
    assert merged.exit_code == 20


def test_a_torn_record_is_no_result(tmp_path: Path, plan: Plan) -> None:
    left = write(tmp_path / "one", record("a"), record("b"), record("c"))
    whole = (left / "c/record.json").read_text()
    (left / "c/record.json").write_text(whole[: len(whole) // 2])
    merged = merge([left], plan, tmp_path / "out")
    assert by_case(merged)["c"] == "not_run"
    assert "cannot be read" in merged.missing()[0].summary


def test_an_unplanned_record_is_named_and_does_not_count(tmp_path: Path, plan: Plan) -> None:
    left = write(tmp_path / "one", record("a"), record("b"), record("c"))
    record("a", node="cases/b.yaml::a").write(left / "stray/record.json")
    merged = merge([left], plan, tmp_path / "out")
    assert merged.exit_code == 0
    assert "was not planned" in merged.problems[0]


def test_of_two_records_the_worse_counts(tmp_path: Path, plan: Plan) -> None:
    first = write(tmp_path / "one", record("a", Outcome.REGRESSION), record("b"), record("c"))
    second = write(tmp_path / "two", record("a"))
    for folders in ([first, second], [second, first]):
        merged = merge(folders, plan, tmp_path / f"out-{folders[0].name}")
        assert by_case(merged)["a"] == "regression"
        assert "two records" in merged.problems[0]


def test_a_shard_that_was_started_again_counts_with_its_result(tmp_path: Path, plan: Plan) -> None:
    stopped = write(tmp_path / "one", record("a", Outcome.NOT_RUN), record("b"), record("c"))
    again = write(tmp_path / "two", record("a", Outcome.REGRESSION))
    for folders in ([stopped, again], [again, stopped]):
        merged = merge(folders, plan, tmp_path / f"out-{folders[0].name}")
        assert by_case(merged)["a"] == "regression"
        assert merged.problems == ()
    assert by_case(merge([stopped], plan, tmp_path / "out"))["a"] == "not_run"


@pytest.mark.parametrize(("mark", "kept"), [("p", {"a", "b"}), ("yesterday", set()), ("", {"mine"})])
def test_junit_of_another_plan_is_left_out(tmp_path: Path, plan: Plan, mark: str, kept: set[str]) -> None:
    text = JUNIT.replace('value="p"', f'value="{mark}"') if mark else JUNIT.replace("quantgate_plan", "other")
    if not mark:
        text = text.replace("</testsuite>", '<testcase classname="tests.test_it" name="mine"/></testsuite>')
    left = write(tmp_path / "one", *map(record, CASES))
    (left / "junit.xml").write_text(text)
    merged = merge([left], plan, tmp_path / "out")
    joined = (tmp_path / "out/junit.xml").read_text()
    assert {name for name in ("a", "b", "mine") if f'name="{name}"' in joined} == kept
    assert bool(merged.problems) == (mark != "p")


def test_a_folder_in_use_is_not_merged_into(tmp_path: Path, plan: Plan) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/old").write_text("")
    with pytest.raises(PlanError, match="not empty"):
        merge([], plan, tmp_path / "out")


def test_junit_of_a_retried_case_is_one_test_and_bombs_are_refused(tmp_path: Path) -> None:
    again = JUNIT.replace("</testsuite>", '<testcase classname="cases.a.yaml" name="b" time="2"/></testsuite>')
    (tmp_path / "junit.xml").write_text(again)
    (tmp_path / "junit-bad.xml").write_text("<testsuites")
    (tmp_path / "junit-bomb.xml").write_text('<!DOCTYPE x [<!ENTITY a "b">]><testsuites/>')
    problems = join_junit(tmp_path.glob("junit*.xml"), [], tmp_path / "out.xml", plan="p")
    assert len(problems) == 2
    text = (tmp_path / "out.xml").read_text()
    assert text.count("<testcase") == 2
    assert 'tests="2" failures="1"' in text  # the failing one of the two stays


def test_the_command_prints_appends_and_exits(tmp_path: Path, plan: Plan, capsys: pytest.CaptureFixture[str]) -> None:
    plan = plan.model_copy(update={"id": plan.digest()})
    left = write(tmp_path / "one", *(record(name, plan=plan.id) for name in CASES))
    plan.write(tmp_path / "plan.json")
    history = tmp_path / "history" / "history.json"
    arguments: dict[str, Any] = {"plan_file": tmp_path / "plan.json", "history": history}
    code = lane.merge(folders=[left, tmp_path / "absent"], out=tmp_path / "out", summary=tmp_path / "step", **arguments)
    assert code == 0
    assert "3 planned, 0 without a result; exit code 0" in capsys.readouterr().out
    assert (tmp_path / "step").read_text() == (tmp_path / "out/summary.md").read_text()
    lane.merge(folders=[left], out=tmp_path / "again", **arguments)
    assert History.read(history).runners["b200"]["a"].seconds == (30, 30)


def finding(stage: str, code: str) -> Finding:
    return Finding.model_validate({"stage": stage, "code": code, "gating": True, "message": "x"})


def passes(observed: Outcome | None = None, *findings: Finding) -> Verdict:
    return Verdict(outcome=Outcome.PASS, cause="x", summary="as it was", observed=observed, findings=findings)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"generation": None}, "it passes without a generation"),
        ({"comparison": None}, "it passes without a comparison with a golden"),
        ({"golden": None}, "it passes without a comparison with a golden"),
        ({"limits": ()}, "it passes without a limit"),
        ({"limits": (CHECK.model_copy(update={"gates": False, "limit": None}),)}, "it passes without a limit"),
        ({"limits": (CHECK.model_copy(update={"passed": False}),)}, "it passes although ssim lies outside its limit"),
        ({"verdict": passes(None, finding("sanity", "nan"))}, "it passes although nan was found"),
        ({"verdict": passes(Outcome.REGRESSION)}, "it passes although regression was observed"),
        ({"verdict": Verdict(outcome=Outcome.WAIVED, cause="x", summary="x")}, "it is waived, and the case has no"),
    ],
)
def test_a_green_record_without_its_evidence_is_no_result(
    tmp_path: Path, plan: Plan, changes: dict[str, Any], said: str
) -> None:
    left = write(tmp_path / "one", record("a", **changes), record("b"), record("c"))
    merged = merge([left], plan, tmp_path / "out")
    assert by_case(merged) == {"a": "not_run", "b": "pass", "c": "pass"}
    assert merged.exit_code == 20
    assert said in merged.cases[0].summary + merged.cases[1].summary + merged.cases[2].summary


def test_a_control_passes_only_by_what_it_says() -> None:
    control = CASES["a"].case.model_copy(update={"expect": "regression:frames/ssim_below_limit"})
    seen = finding("frames", "ssim_below_limit")
    for verdict, good in (
        (passes(Outcome.REGRESSION, seen), True),
        (passes(Outcome.REGRESSION, finding("sanity", "noise")), False),
        (passes(Outcome.CHECKPOINT_FAULT, seen), False),
        (passes(None, seen), False),
    ):
        assert (unproven(record("a", verdict=verdict), control) == "") is good


def test_a_plan_that_was_changed_or_replaced_is_refused(tmp_path: Path, plan: Plan) -> None:
    made, other = (make_plan(list(CASES.values()), B200, 3, History()) for _ in range(2))
    assert made.id == made.digest() != other.id
    file = made.write(tmp_path / "plan.json")
    assert lane.read_plan(file, made.id) == made
    for wanted in (other.id, ""):
        with pytest.raises(PlanError, match="it was replaced") as refused:
            lane.read_plan(file, wanted)
        assert refused.value.exit_code == 20
    file.write_text(file.read_text().replace('"case": "b"', '"case": "d"'))
    with pytest.raises(PlanError, match="was changed after it was made"):
        lane.read_plan(file)


def test_the_summary_says_what_is_red_and_escapes_what_others_wrote(tmp_path: Path, plan: Plan) -> None:
    evil = "<script>| `x` @team [a](http://b)\n# head ![](u)"
    bad = record("b", Outcome.REGRESSION)
    bad = bad.model_copy(update={"verdict": bad.verdict.model_copy(update={"summary": evil})})
    merged = merge([write(tmp_path / "one", record("a"), bad)], plan, tmp_path / "out")
    text = lane_markdown(merged, plan)
    assert text.startswith(MARK)
    assert "red (exit code 10)" in text
    (row,) = [line for line in text.splitlines() if line.startswith("| b ")]
    assert row.count(" | ") == 4
    assert "<script>" not in text
    assert "@team" not in text
    assert "http://" not in text
    assert "| not&#95;run |" in text
    assert json.dumps(plan.matrix())
    assert "3 cases on 3 shards" in plan_markdown(plan)


def test_a_retried_case_is_shown_although_it_passed(tmp_path: Path, plan: Plan) -> None:
    left = write(tmp_path / "one", record("a", attempt=2), record("b"), record("c"))
    merged = merge([left], plan, tmp_path / "out")
    assert merged.exit_code == 0
    assert "| a | pass (attempt 2) |" in lane_markdown(merged, plan)


def test_a_shard_brings_no_file_of_this_machine_into_what_is_uploaded(tmp_path: Path, plan: Plan) -> None:
    secret = tmp_path / "secret"
    secret.write_text("of the machine that merges")
    shard = write(tmp_path / "one", record("a"), record("b"), record("c"))
    (shard / "a/leak.txt").symlink_to(secret)
    (shard / "a/folder").symlink_to(tmp_path)
    os.mkfifo(shard / "b/fifo")  # reading it would never end
    (shard / "c/record.json").rename(tmp_path / "elsewhere.json")
    (shard / "c/record.json").symlink_to(tmp_path / "elsewhere.json")
    merged = merge([shard], plan, tmp_path / "out")
    assert by_case(merged) == {"a": "pass", "b": "pass", "c": "not_run"}
    assert not any(path.is_symlink() for path in (tmp_path / "out").rglob("*"))
    assert sorted(path.name for path in (tmp_path / "out/a").iterdir()) == ["clip.safetensors", "record.json"]
    for name in ("leak.txt", "folder", "fifo", "record.json"):
        assert any(name in problem and "link or no plain file" in problem for problem in merged.problems), name
